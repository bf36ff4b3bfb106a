package feedback

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/gateway/route"
)

// Counts are the rewards that replicas have seen, by the name of the replica.
type Counts map[string]Replica

// Replica is what one replica has seen up to a revision.
type Replica struct {
	Revision uint64   `json:"revision"` // a later one holds all that an earlier one held
	Series   []Series `json:"series"`
}

// Series are the rewards of one version of a model behind one endpoint.
type Series struct {
	Endpoint string   `json:"endpoint"`
	Model    string   `json:"model"`
	Version  string   `json:"version"`
	Buckets  []Bucket `json:"buckets"` // by Start; they do not overlap
}

// Bucket is the rewards of requests that were answered in a span of time.
type Bucket struct {
	Start   int64   `json:"start"`   // Unix seconds; a multiple of Seconds
	Seconds int64   `json:"seconds"` // a power of two
	N       int64   `json:"n"`
	Reward  float64 `json:"reward"` // sum
}

// Arm names a version of a model.
type Arm struct{ Model, Version string }

// Buckets begin with the length finest and are joined while they are at most
// 1/coarseness as long as the time since they ended. So a half-life h finds the
// rewards that still matter to it dated to h/16 or better, whatever h is, and a
// series has 10 buckets each time its age doubles: 250 in fifty years.
const (
	finest     = 16 // seconds
	coarseness = 8
)

// Counts returns what this replica has seen: a copy, which may be sent to others.
func (l *Ledger) Counts() Counts {
	l.mu.RLock()
	r := Replica{Revision: l.kept.revision, Series: make([]Series, 0, len(l.kept.series))}
	for _, s := range l.kept.series {
		r.Series = append(r.Series, *s)
	}
	replica := l.kept.replica
	l.mu.RUnlock()
	for i := range r.Series {
		r.Series[i] = *r.Series[i].clone()
	}
	slices.SortFunc(r.Series, func(a, b Series) int {
		return cmp.Or(cmp.Compare(a.Endpoint, b.Endpoint), cmp.Compare(a.Model, b.Model),
			cmp.Compare(a.Version, b.Version))
	})
	return Counts{replica: r}
}

// Merge returns what all of them have seen together: of each replica the latest
// revision. The order does not matter, nor does it matter to merge one twice.
func Merge(snapshots ...Counts) Counts {
	all := make(Counts)
	for _, c := range snapshots {
		for name, r := range c {
			if old, ok := all[name]; !ok || old.Revision < r.Revision {
				all[name] = r
			}
		}
	}
	return all
}

// Evidence returns what the rewards say about the arms of an endpoint, in their
// order. A reward counts half after each halfLife since its request was
// answered; 0 is never.
func (c Counts) Evidence(endpoint string, arms []Arm, halfLife time.Duration, now time.Time,
) []route.Evidence {
	found := make(map[Arm]route.Evidence)
	// In order, so that the same counts give the same sums to the last bit.
	for _, name := range slices.Sorted(maps.Keys(c)) {
		for _, s := range c[name].Series {
			if s.Endpoint == endpoint {
				arm := Arm{s.Model, s.Version}
				n, reward := s.discounted(halfLife, now)
				e := found[arm]
				found[arm] = route.Evidence{N: e.N + n, Reward: e.Reward + reward}
			}
		}
	}
	evidence := make([]route.Evidence, len(arms))
	for i, arm := range arms {
		evidence[i] = found[arm]
	}
	return evidence
}

// Sum returns how many rewards there are, and their sum.
func (s *Series) Sum() (n int64, reward float64) {
	for i := range s.Buckets {
		n += s.Buckets[i].N
		reward += s.Buckets[i].Reward
	}
	return n, reward
}

// discounted sums n and reward times 2^(-age/halfLife), where a bucket is as old
// as its middle.
func (s *Series) discounted(halfLife time.Duration, now time.Time) (n, reward float64) {
	for _, b := range s.Buckets {
		weight := 1.0
		if halfLife > 0 {
			age := now.Sub(time.Unix(b.Start+b.Seconds/2, 0))
			weight = math.Exp2(-max(age, 0).Seconds() / halfLife.Seconds())
		}
		n += weight * float64(b.N)
		reward += weight * b.Reward
	}
	return n, reward
}

// key tells series apart.
type key struct{ endpoint, model, version string }

func (s *Series) key() key { return key{s.Endpoint, s.Model, s.Version} }

func (s *Series) clone() *Series {
	c := *s
	c.Buckets = slices.Clone(s.Buckets)
	return &c
}

// last returns the start of the last bucket.
func (s *Series) last() int64 {
	if len(s.Buckets) == 0 {
		return 0
	}
	return s.Buckets[len(s.Buckets)-1].Start
}

// add counts the reward of a request that was answered at that second.
func (s *Series) add(at int64, reward float64) {
	i, found := slices.BinarySearchFunc(s.Buckets, at, func(b Bucket, at int64) int {
		switch {
		case at < b.Start:
			return 1
		case at >= b.Start+b.Seconds:
			return -1
		}
		return 0
	})
	if !found {
		s.Buckets = slices.Insert(s.Buckets, i, Bucket{Start: at &^ (finest - 1), Seconds: finest})
	}
	s.Buckets[i].N++
	s.Buckets[i].Reward += reward
}

// coarsen joins buckets that are old enough. All lengths are powers of two and
// all starts multiples of them, so two buckets are apart, or one is within the
// other; and what one is joined to, those beside it in that span are too.
func (s *Series) coarsen(now int64) {
	joined := s.Buckets[:0]
	for _, b := range s.Buckets {
		for {
			twice := 2 * b.Seconds
			start := b.Start &^ (twice - 1)
			if now-(start+twice) < coarseness*twice {
				break
			}
			b.Start, b.Seconds = start, twice
		}
		if last := len(joined) - 1; last >= 0 && joined[last].Start == b.Start {
			joined[last].N += b.N
			joined[last].Reward += b.Reward
		} else {
			joined = append(joined, b)
		}
	}
	s.Buckets = joined
}

// valid says whether the series can be one of ours.
func (s *Series) valid() bool {
	end := int64(math.MinInt64)
	for _, b := range s.Buckets {
		power := b.Seconds >= finest && b.Seconds&(b.Seconds-1) == 0
		if !power || b.Start&(b.Seconds-1) != 0 || b.Start < end || b.N < 1 ||
			b.Reward < 0 || b.Reward > float64(b.N) {
			return false
		}
		end = b.Start + b.Seconds
	}
	return true
}
