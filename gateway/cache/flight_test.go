package cache_test

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// follower counts how often it was told, and takes what it was told of.
type follower struct {
	flight  *cache.Flight
	told    atomic.Int32
	outputs []tensor.Tensor
	err     error
}

func (w *follower) Landed() {
	w.told.Add(1)
	w.outputs, w.err = w.flight.Outcome()
}

// follow joins the flight that is under way for a request.
func follow(t *testing.T, c *cache.Cache, version string, inputs []tensor.Tensor) *follower {
	t.Helper()
	outputs, f, lead := c.Look(0, version, inputs)
	if got := resultOf(outputs, f, lead); got != shares {
		t.Fatalf("%s, want %s", got, shares)
	}
	w := &follower{flight: f}
	if !f.Join(w) {
		t.Fatal("the flight has landed already")
	}
	return w
}

// lead begins the flight for a request.
func lead(t *testing.T, c *cache.Cache, version string, inputs []tensor.Tensor) *cache.Flight {
	t.Helper()
	outputs, f, lead := c.Look(0, version, inputs)
	if got := resultOf(outputs, f, lead); got != leads {
		t.Fatalf("%s, want %s", got, leads)
	}
	return f
}

// wantAnswer holds a follower against the first number that it should have got.
func wantAnswer(t *testing.T, w *follower, want uint64) {
	t.Helper()
	if n := w.told.Load(); n != 1 || w.err != nil || first(w.outputs) != want {
		t.Errorf("told %d times, %v, %v; want %d", n, w.outputs, w.err, want)
	}
}

func wantRetry(t *testing.T, w *follower) {
	t.Helper()
	if n := w.told.Load(); n != 1 || w.outputs != nil || !errors.Is(w.err, cache.ErrRetry) {
		t.Errorf("told %d times, %v, %v; want ErrRetry", n, w.outputs, w.err)
	}
}

func TestFollowers(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 1 << 20})
	f := lead(t, c, "v", numbers(1, 1))
	a, b := follow(t, c, "v", numbers(1, 1)), follow(t, c, "v", numbers(1, 1))
	_, late, _ := c.Look(0, "v", numbers(1, 1))
	if a.told.Load() != 0 {
		t.Error("told before the leader is back")
	}
	out := numbers(2, 1)
	f.Land(0, out, nil)
	out[0].Data[0] = 9
	wantAnswer(t, a, 2)
	wantAnswer(t, b, 2)
	if late.Join(&follower{}) {
		t.Error("joined a flight that has landed")
	}
	if got, err := late.Outcome(); err != nil || first(got) != 2 {
		t.Errorf("who comes late gets %v, %v", got, err)
	}
	if got := ask(c, "v", numbers(1, 1), nil); got != hit {
		t.Errorf("after landing: %s", got)
	}
	f.Land(0, nil, errors.New("again"))
	if got, err := late.Outcome(); err != nil || first(got) != 2 {
		t.Errorf("landing again makes it %v, %v", got, err)
	}
}

// The leader's failure is not the followers'.
func TestLeaderFails(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 1 << 20})
	f := lead(t, c, "v", numbers(1, 1))
	w := follow(t, c, "v", numbers(1, 1))
	f.Land(0, numbers(2, 1), errors.New("the client has left"))
	wantRetry(t, w)
	if f.Join(&follower{}) {
		t.Error("joined a flight that has landed")
	}
	if s := c.Stats(); s.Entries != 0 || s.Bytes != 0 || s.Stored != 0 || s.Rejected != 0 {
		t.Errorf("%+v", s)
	}
	lead(t, c, "v", numbers(1, 1)).Land(0, numbers(3, 1), nil)
	f.Land(0, numbers(4, 1), nil)
	if got, _, _ := c.Look(0, "v", numbers(1, 1)); first(got) != 3 {
		t.Errorf("the answer that is kept is %d", first(got))
	}
}

// Followers get an answer that is too large to be kept.
func TestFollowersOfLarge(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 64 << 10})
	f := lead(t, c, "v", numbers(1, 1))
	w := follow(t, c, "v", numbers(1, 1))
	f.Land(0, numbers(2, 9000), nil)
	wantAnswer(t, w, 2)
	if s := c.Stats(); s.Entries != 0 || s.Bytes != 0 || s.Rejected != 1 {
		t.Errorf("%+v", s)
	}
}

// A flight that was under way when its version was purged has an answer for
// those who joined before, and for nobody else.
func TestPurgeDuringFlight(t *testing.T) {
	c := newCache(t, cache.Config{MaxBytes: 1 << 20})
	old, other := lead(t, c, "v", numbers(1, 1)), lead(t, c, "w", numbers(1, 1))
	w := follow(t, c, "v", numbers(1, 1))
	c.Purge("v")
	next := lead(t, c, "v", numbers(1, 1))
	x := follow(t, c, "v", numbers(1, 1))
	old.Land(0, numbers(2, 1), nil)
	wantAnswer(t, w, 2)
	if x.told.Load() != 0 {
		t.Error("a follower of the new flight was told of the old one's end")
	}
	if s := c.Stats(); s.Entries != 0 {
		t.Errorf("the old answer is kept: %+v", s)
	}
	next.Land(0, numbers(3, 1), nil)
	wantAnswer(t, x, 3)
	other.Land(0, numbers(4, 1), nil)
	if got, _, _ := c.Look(0, "v", numbers(1, 1)); first(got) != 3 {
		t.Errorf("the answer that is kept is %d", first(got))
	}
	if got, _, _ := c.Look(0, "w", numbers(1, 1)); first(got) != 4 {
		t.Errorf("the other version's answer is %d", first(got))
	}
	c.PurgeAll()
	if s := c.Stats(); s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

// Flights take half of the bytes at most, and push out answers for it.
func TestFlightsAreBounded(t *testing.T) {
	const most = 64 << 10
	c := newCache(t, cache.Config{MaxBytes: most})
	for v := range uint64(1000) {
		ask(c, "kept", numbers(v, 1), numbers(v, 1))
	}
	var flights []*cache.Flight
	for v := uint64(0); ; v++ {
		outputs, f, lead := c.Look(0, "v", numbers(v, 100))
		if s := c.Stats(); s.Bytes > most {
			t.Fatalf("%+v", s)
		}
		if got := resultOf(outputs, f, lead); got == alone {
			break
		} else if got != leads {
			t.Fatalf("flight %d: %s", v, got)
		}
		flights = append(flights, f)
	}
	if n := len(flights); n < 20 || n > most/2/800 {
		t.Errorf("%d flights", n)
	}
	if s := c.Stats(); s.Rejected != 1 || s.Entries == 0 {
		t.Errorf("%+v", s)
	}
	for i, f := range flights {
		f.Land(0, numbers(uint64(i), 1000), nil)
		if s := c.Stats(); s.Bytes > most {
			t.Fatalf("%+v", s)
		}
	}
	c.PurgeAll()
	if s := c.Stats(); s.Bytes != 0 {
		t.Errorf("%+v", s)
	}
}

// Of many equal requests at once one leads, and all have its answer.
func TestSingleFlight(t *testing.T) {
	const n, rounds = 64, 100
	c := newCache(t, cache.Config{MaxBytes: 1 << 20})
	for round := range uint64(rounds) {
		var leaders, wrong atomic.Int32
		var asked, ended sync.WaitGroup
		asked.Add(n)
		start := make(chan struct{})
		for range n {
			ended.Go(func() {
				<-start
				_, f, lead := c.Look(0, "v", numbers(round, 8))
				asked.Done()
				if lead {
					leaders.Add(1)
					asked.Wait()
					f.Land(0, numbers(round+1000, 1), nil)
					return
				}
				if f == nil {
					wrong.Add(1)
					return
				}
				done := make(closer)
				if f.Join(done) {
					<-done
				}
				outputs, err := f.Outcome()
				if err != nil || first(outputs) != round+1000 {
					wrong.Add(1)
				}
			})
		}
		close(start)
		ended.Wait()
		if leaders.Load() != 1 || wrong.Load() != 0 {
			t.Fatalf("round %d: %d leaders, %d wrong answers", round, leaders.Load(), wrong.Load())
		}
	}
	if s := c.Stats(); s.Misses != rounds || s.Shared != rounds*(n-1) || s.Stored != rounds {
		t.Errorf("%+v", s)
	}
}

// closer is a Waiter for a goroutine.
type closer chan struct{}

func (c closer) Landed() { close(c) }
