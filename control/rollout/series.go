package rollout

import (
	"math"
	"slices"
	"time"
)

// Point is what one look has found, for plots.
type Point struct {
	Time   time.Time     `json:"time"`
	Age    time.Duration `json:"age"` // as in Seen
	Phase  Phase         `json:"phase"`
	Step   int           `json:"step"`
	Weight float64       `json:"weight"`
	Canary Load          `json:"canary"`
	Stable Load          `json:"stable"`
	Guards []Mark        `json:"guards"` // those of the spec in their order, and non_finite
}

// Load is how many requests an arm has had.
type Load struct {
	Requests uint64 `json:"requests"`
	Errors   uint64 `json:"errors"`
}

// Mark is a guard in a Point: its log e-values, and what it compares: shares of errors
// or of copies answered otherwise, quantiles in seconds, mean rewards, or a query's
// value and limit.
type Mark struct {
	Harm   float64 `json:"harm"`
	Sound  float64 `json:"sound"` // 0 where none can be
	Canary float64 `json:"canary"`
	Stable float64 `json:"stable"`
}

// maxPoints bounds the series. Full, it loses each second point. Closer than pointGap
// nobody can tell points apart in a plot.
const (
	maxPoints = 200
	pointGap  = 5 * time.Second
)

// series returns the points with one for now, if one is due: at each transition, and
// otherwise so that between half of maxPoints and all of them span the rollout evenly.
func (s State) series(now time.Time, moved bool) []Point {
	n := len(s.Evidence)
	if n > 0 && !moved {
		first, last := s.Evidence[0].Age, s.Evidence[n-1].Age
		if s.Seen.Age-last < max(pointGap, (last-first)/(maxPoints/2)) {
			return s.Evidence
		}
	}
	kept := slices.Clip(s.Evidence)
	if n >= maxPoints {
		kept = make([]Point, 0, maxPoints)
		for i := 0; i < n; i += 2 {
			kept = append(kept, s.Evidence[i])
		}
	}
	return append(kept, s.point(now))
}

func (s State) point(now time.Time) Point {
	p := Point{Time: now, Age: s.Seen.Age, Phase: s.Phase, Step: s.Step, Weight: s.Weight()}
	p.Canary.Requests, p.Stable.Requests = totals(s.Seen.Counts, requests)
	p.Canary.Errors, p.Stable.Errors = totals(s.Seen.Counts, failed)
	for _, r := range s.readings() {
		p.Guards = append(p.Guards, Mark{short(r.Harm), short(r.Sound), short(r.canary),
			short(r.stable)})
	}
	return p
}

// short keeps six decimals of what JSON can hold.
func short(x float64) float64 {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return 0
	}
	return math.Round(x*1e6) / 1e6
}
