package rollout

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/evidence"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// watcher leaves out the looks of a simulated rollout that can find nothing, so that those of a
// thousand at each request take seconds. What it may leave out follows from the tests: evidence of
// harm rises by events of the canary alone, a promotion needs every guard, hence also the one that
// was open at the look before, and a wrong split has a martingale of its own that is cheap to
// follow. TestEachLook holds it against looks at each request.
type watcher struct {
	answers uint64  // of the stable version, of those that count
	canary  uint64  // requests of the canary
	split   float64 // e-value against the split being right
	bad     bool    // the last request speaks against the canary
	told    bool    // since the guard that is open was asked there was something that counts
	every   bool    // leave out none

	open int // guard of the spec that the last look found open, -1 for none
	slow int // bucket from which on an answer may be slow
}

// pick takes in that a user, or a request, has got an arm. See Tally.Mismatch.
func (w *watcher) pick(c *trial.Cell, canary bool) {
	const concentration = 100
	x, y := float64(c.Canary.Picked), float64(c.Stable.Picked)
	if canary {
		w.split *= (concentration*c.Rho + x) / (concentration + x + y) / c.Rho
	} else {
		w.split *= (concentration*(1-c.Rho) + y) / (concentration + x + y) / (1 - c.Rho)
	}
}

// answer takes in an answer's latency.
func (w *watcher) answer(bucket int, canary bool) {
	slow := bucket >= w.slow
	w.told, w.bad = w.told || slow, w.bad || slow && canary
	if !canary {
		w.answers++
	}
}

// looked takes in what a look has found.
func (w *watcher) looked(st *State) {
	w.told, w.slow = true, len(trial.Bounds)
	w.open = slices.IndexFunc(st.Spec.Guards, func(g GuardSpec) bool {
		return g.Name() == st.Guard
	})
	for _, b := range st.Seen.Baselines {
		for _, g := range b.Guards {
			if b.Rho == st.Weight()/100 && g.Bucket >= 0 {
				w.slow = min(w.slow, g.Bucket+1)
			}
		}
	}
}

// matters says whether a look now could find more than that nothing is decided yet.
func (s *sim) matters(st *State, now time.Time) bool {
	rho, age := st.Weight()/100, st.Seen.StepAge+now.Sub(st.Looked)
	fixed := func(b Baseline) bool { return b.Rho == rho }
	switch {
	case s.bad, s.split > 999, age >= st.Spec.Step.MaxTime:
		return true
	case rho > 0 && s.answers >= st.baselineSize() &&
		!slices.ContainsFunc(st.Seen.Baselines, fixed):
		return true
	}
	rule, requests := st.rule(), s.canary-st.Seen.Before
	if st.Phase == Shadow {
		requests = s.shadow.Compared
	}
	if !s.told || requests < max(rule.MinRequests, 1) || age < rule.MinTime {
		return false
	}
	s.told = false
	return s.open < 0 || s.sound(st) >= -math.Log(rule.Beta)
}

// sound returns the evidence that the guard is set which was open.
func (s *sim) sound(st *State) float64 {
	g := st.Spec.Guards[s.open]
	switch g.Metric {
	case Errors:
		var canary trial.Arm
		canary.Requests = s.canary
		canary.Errors, _ = totals(s.counts, failed)
		canary.Picked, _ = totals(s.counts, picked)
		return evidence.Average(tally(s.counts, failed).Sound(g.Margin), rate(canary).Sound(g.Max))
	case Latency:
		view := *st
		view.Seen.Counts = s.counts
		return view.latency(s.open, nil, nil).Sound
	}
	return evidence.Rate{Bad: s.shadow.Disagreed,
		Good: s.shadow.Compared - s.shadow.Disagreed}.Sound(g.Max)
}

// TestEachLook takes each look of some rollouts, and wants them to go as those do whose looks are
// left out where nothing can be found.
func TestEachLook(t *testing.T) {
	runs := max(simulated(8), 2)
	spread(runs, func(i int) {
		w := world{risk: []float64{1, 1, 2}[i%3], slower: []float64{1, 1, 1, 1.5}[i%4],
			errors: []float64{0.02, 0.005}[i%2], disagree: 0.01, sticky: i%5 < 2, drift: i%2 == 0}
		few, all := newSim(w, uint64(i)), newSim(w, uint64(i))
		all.every = true
		got, n := few.run(simSpec())
		want, m := all.run(simSpec())
		if n != m || got.Reason != want.Reason || got.Turn != want.Turn ||
			!slices.EqualFunc(got.History, want.History, func(a, b Entry) bool { return a == b }) {
			t.Errorf("%d: after %d requests %+v\nwant after %d %+v", i, n, got.History, m,
				want.History)
		}
		split := tally(few.counts, picked).Mismatch()
		if math.Abs(math.Log(few.split)-split) > 1e-6 {
			t.Errorf("%d: the split shows %v, want %v", i, math.Log(few.split), split)
		}
	})
}
