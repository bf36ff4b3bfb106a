package cache_test

import (
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/cache"
)

// pending is a flight that the simulation leads, with what it has to answer.
type pending struct {
	flight    *cache.Flight
	want      uint64
	followers []*follower
	failed    bool
}

// sim sends requests of a few versions with few different inputs. The answer
// tells version and input.
type sim struct {
	*testing.T
	cache   *cache.Cache
	r       *rand.Rand
	now     int64
	pending map[*cache.Flight]*pending
	ended   []*pending
}

var simVersions = []string{"sha256:a", "sha256:b", "sha256:c"}

func (s *sim) step() {
	s.now += s.r.Int64N(1000)
	switch n := s.r.IntN(1000); {
	case n < 2:
		s.cache.Purge(simVersions[s.r.IntN(len(simVersions))])
	case n < 3:
		s.cache.PurgeAll()
	case n < 450:
		for _, p := range s.pending { // any
			s.land(p)
			break
		}
	default:
		s.look()
	}
}

func (s *sim) look() {
	v, in := s.r.IntN(len(simVersions)), uint64(s.r.IntN(40))
	want := in + uint64(v)*1000
	outputs, f, lead := s.cache.Look(s.now, simVersions[v], numbers(in, 1+int(in)*8))
	switch resultOf(outputs, f, lead) {
	case hit:
		if first(outputs) != want {
			s.Fatalf("%d is answered with %d", want, first(outputs))
		}
	case leads:
		s.pending[f] = &pending{flight: f, want: want}
	case shares:
		w := &follower{flight: f}
		p := s.pending[f]
		if p == nil || p.want != want || !f.Join(w) {
			s.Fatalf("%d follows a flight that is not its own", want)
		}
		p.followers = append(p.followers, w)
	}
}

func (s *sim) land(p *pending) {
	delete(s.pending, p.flight)
	s.ended = append(s.ended, p)
	if p.failed = s.r.IntN(5) == 0; p.failed {
		p.flight.Land(s.now, nil, errors.New("no run"))
		return
	}
	n := 1 + s.r.IntN(200)
	if s.r.IntN(10) == 0 {
		n = 2048 // too many to be kept
	}
	p.flight.Land(s.now, numbers(p.want, n), nil)
}

// Whatever comes in whatever order, each follower is told once, each answer
// belongs to its request, and the bytes add up.
func TestSimulation(t *testing.T) {
	for seed := range uint64(20) {
		cfg := cache.Config{MaxBytes: 64 << 10, TTL: 50 * time.Microsecond,
			AdmitAfter: int(seed % 3)}
		s := &sim{T: t, cache: newCache(t, cfg), r: rand.New(rand.NewPCG(seed, 1)),
			pending: make(map[*cache.Flight]*pending)}
		for range 5000 {
			s.step()
			if st := s.cache.Stats(); st.Bytes < 0 || st.Bytes > cfg.MaxBytes {
				t.Fatalf("seed %d: %+v", seed, st)
			}
		}
		for _, p := range s.pending {
			s.land(p)
		}
		for _, p := range s.ended {
			for _, w := range p.followers {
				if p.failed {
					wantRetry(t, w)
				} else {
					wantAnswer(t, w, p.want)
				}
			}
		}
		st := s.cache.Stats()
		if st.Hits == 0 || st.Shared == 0 || st.Misses == 0 || st.Stored == 0 ||
			st.Rejected == 0 || st.Evictions == 0 || st.Expired == 0 {
			t.Errorf("seed %d does not try everything: %+v", seed, st)
		}
		s.cache.PurgeAll()
		if st := s.cache.Stats(); st.Bytes != 0 || st.Entries != 0 || len(s.cache.Versions()) != 0 {
			t.Errorf("seed %d: after all: %+v", seed, st)
		}
	}
}

// Many goroutines at once get their own answers, too.
func TestConcurrent(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 16 << 20, TTL: 100})
	var all sync.WaitGroup
	for g := range uint64(8) {
		all.Go(func() {
			r := rand.New(rand.NewPCG(g, 2))
			for now := range int64(3000) {
				in := r.Uint64N(20)
				outputs, f, lead := c.Look(now, "v", numbers(in, 100))
				switch {
				case lead && r.IntN(10) == 0:
					f.Land(now, nil, errors.New("no run"))
					continue
				case lead:
					outputs = numbers(in+1000, 10)
					f.Land(now, outputs, nil)
				case f != nil:
					done := make(closer)
					if f.Join(done) {
						<-done
					}
					var err error
					if outputs, err = f.Outcome(); err != nil {
						continue
					}
				}
				if outputs != nil && first(outputs) != in+1000 {
					t.Errorf("%d is answered with %d", in, first(outputs))
				}
				if r.IntN(200) == 0 {
					c.Purge("v")
				}
				c.Stats()
				c.Versions()
			}
		})
	}
	all.Wait()
	c.PurgeAll()
	if s := c.Stats(); s.Bytes != 0 || s.Hits == 0 {
		t.Errorf("%+v", s)
	}
}
