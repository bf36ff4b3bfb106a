package rollout

import (
	"fmt"
	"slices"

	"github.com/millrace-ml/millrace/control/evidence"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// Baseline says which answers of one propensity are slow. It is fixed by the stable
// version's answers before those that it is for: so each slow answer is an event whose
// arm hangs on nothing but its propensity, as an error is, and the promise holds under
// ramps, drift and with users who stick to an arm. Histograms compared as a whole
// promise that only while no arm's distribution moves, and must begin anew at each
// step, which takes them more requests. When load makes all answers slow or none, the
// events tell less until the next step has a baseline of its own.
type Baseline struct {
	Rho    float64 `json:"rho"`
	Guards []Slow  `json:"guards"` // in the order of the spec
}

// Slow is what is slow for a guard of latency, and the answers that were there when that
// was fixed: they do not count.
type Slow struct {
	Bucket int `json:"bucket"` // in trial.Bounds; -1 for guards of other metrics
	Canary Of  `json:"canary"`
	Stable Of  `json:"stable"`
}

// Of is how many answers of all were slow.
type Of struct {
	Slow uint64 `json:"slow"`
	All  uint64 `json:"all"`
}

func (o Of) since(then Of) evidence.Rate {
	slow := less(o.Slow, then.Slow)
	return evidence.Rate{Bad: slow, Good: less(less(o.All, then.All), slow)}
}

// baselineTail is how many answers beyond a quantile fix a baseline, baselineLeast how
// many answers at least.
const (
	baselineTail  = 10
	baselineLeast = 500
)

// baselines returns those that there are, with new ones for propensities that have
// none and for which the looks before have shown enough of the stable version.
func (s State) baselines(prior trial.Counts) []Baseline {
	all := slices.Clip(s.Seen.Baselines)
	if !s.has(Latency) {
		return all
	}
	for i := range s.Seen.Counts.Cells {
		rho := s.Seen.Counts.Cells[i].Rho
		known := func(b Baseline) bool { return b.Rho == rho }
		if !(rho > 0 && rho < 1) || slices.ContainsFunc(all, known) {
			continue
		}
		stable := s.recent(prior)
		if sum(stable) < s.baselineSize() {
			return all
		}
		all = append(all, s.baseline(trial.Cell{Rho: rho}, stable))
		if c := cell(prior, rho); c != nil {
			all[len(all)-1] = s.baseline(*c, stable)
		}
	}
	return all
}

// baseline returns the one for a propensity, of which there are answers already, by the
// stable version's histogram.
func (s State) baseline(c trial.Cell, stable []uint64) Baseline {
	b := Baseline{Rho: c.Rho, Guards: make([]Slow, len(s.Spec.Guards))}
	for i, g := range s.Spec.Guards {
		b.Guards[i].Bucket = -1
		l, err := g.comparison()
		if g.Metric != Latency || err != nil {
			continue
		}
		bucket := l.Bucket(stable)
		canary, stable := slow(l, bucket, &c)
		b.Guards[i] = Slow{bucket, canary, stable}
	}
	return b
}

// slow counts the answers of both arms that are slow by a bucket.
func slow(l *evidence.Latency, bucket int, c *trial.Cell) (canary, stable Of) {
	k := l.Slow(bucket, c.Rho, c.Canary.Latency, c.Stable.Latency)
	return Of{k.Canary, sum(c.Canary.Latency)}, Of{k.Stable, sum(c.Stable.Latency)}
}

// recent returns the stable version's latest answers: those of the step before, where
// they are enough, or else all.
func (s State) recent(prior trial.Counts) []uint64 {
	if n := len(s.Seen.Baselines); n > 0 {
		c := cell(prior, s.Seen.Baselines[n-1].Rho)
		if c != nil && sum(c.Stable.Latency) >= s.baselineSize() {
			return c.Stable.Latency
		}
	}
	_, stable := prior.Arms()
	return stable.Latency
}

// baselineSize is how many answers it takes to say what is slow.
func (s State) baselineSize() uint64 {
	size := uint64(baselineLeast)
	for _, g := range s.Spec.Guards {
		if g.Metric == Latency && g.Quantile < 1 {
			size = max(size, uint64(min(baselineTail/(1-g.Quantile), 1e6)))
		}
	}
	return size
}

func (g GuardSpec) comparison() (*evidence.Latency, error) {
	return evidence.NewLatency(g.Quantile, g.Ratio, trial.Bounds)
}

// latency compares how often answers are slow: longer than the baseline for the stable
// version, and than Ratio times that for the canary. As with errors the canary is sound
// by comparison, or by a share that is low enough in any case: that which was beyond the
// quantile when the baseline was fixed, and the margin. Without it a pair of versions
// that never are slow could not be told from no data.
func (s State) latency(guard int, canary, stable []uint64) (r reading) {
	g := s.Spec.Guards[guard]
	l, err := g.comparison()
	if err != nil {
		r.Facts = err.Error()
		return r
	}
	var t evidence.Tally
	var ofCanary, ofStable evidence.Rate
	for _, b := range s.Seen.Baselines {
		c := cell(s.Seen.Counts, b.Rho)
		if c == nil || guard >= len(b.Guards) || b.Guards[guard].Bucket < 0 {
			continue
		}
		before := b.Guards[guard]
		x, y := slow(l, before.Bucket, c)
		inCanary, inStable := x.since(before.Canary), y.since(before.Stable)
		t.Add(evidence.Cell{Rho: b.Rho, Canary: inCanary.Bad, Stable: inStable.Bad})
		ofCanary.Merge(inCanary)
		ofStable.Merge(inStable)
	}
	r.canary, r.stable = l.Value(canary), l.Value(stable)
	r.Facts = "no answers to compare yet"
	if ofCanary.N()+ofStable.N() == 0 {
		return r
	}
	r.Facts = fmt.Sprintf("canary %v slower than %.4g times the usual, stable %v slower than it; "+
		"in all %.3g s against %.3g s", ofCanary, g.Ratio, ofStable, r.canary, r.stable)
	sound := func(margin float64) float64 {
		allowed := min((1-g.Quantile)*(1+margin), 1-g.Quantile/2)
		return evidence.Average(t.Sound(margin), ofCanary.Sound(allowed))
	}
	r.Harm, r.Sound, r.Tolerable = t.Harm(), sound(g.Margin), sound(g.WideMargin)
	return r
}

func cell(c trial.Counts, rho float64) *trial.Cell {
	i := slices.IndexFunc(c.Cells, func(k trial.Cell) bool { return k.Rho == rho })
	if i < 0 {
		return nil
	}
	return &c.Cells[i]
}

func sum(counts []uint64) (n uint64) {
	for _, c := range counts {
		n += c
	}
	return n
}
