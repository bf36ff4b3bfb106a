package evidence

import (
	"fmt"
	"math"
)

// Rate counts what happened to one arm alone: answers that disagreed with those
// of the stable version, in shadow or in pairs, or errors against an allowed rate.
// Rates of replicas add up.
//
// Each answer's chance of being bad, given those before, must be at most the
// allowed one for Harm to be valid, and at least that for Sound. The same row sent
// again and again is one answer, not many.
type Rate struct {
	Bad  uint64 `json:"bad"`
	Good uint64 `json:"good"`
}

// Observe counts one answer.
func (r *Rate) Observe(bad bool) {
	if bad {
		r.Bad++
	} else {
		r.Good++
	}
}

// Merge adds what another replica has counted.
func (r *Rate) Merge(other Rate) {
	r.Bad += other.Bad
	r.Good += other.Good
}

// N returns how many answers there were.
func (r Rate) N() uint64 { return r.Bad + r.Good }

// tally turns the rate into events: a bad answer is to a good one as an event of
// the canary is to one of the stable version, with the allowed rate for propensity.
func (r Rate) tally(allowed float64) (t Tally) {
	t.Add(Cell{Rho: allowed, Canary: r.Bad, Stable: r.Good})
	return t
}

// Harm returns the log e-value against a rate of at most p0:
//
//	E = mean over j of (p_j/p0)^bad ((1-p_j)/(1-p0))^good
//
// Where the odds of p_j are {1.25, 1.5, 2, 3, 5, 10} times those of p0. A p0 that
// is not between 0 and 1 can have no evidence: 0.
func (r Rate) Harm(p0 float64) float64 { return r.tally(p0).above(1) }

// Sound returns the log e-value against a rate of at least p0, by the same formula
// with a 1.25th to a tenth of the odds. Without bad answers it takes about 5/p0
// good ones.
func (r Rate) Sound(p0 float64) float64 { return r.tally(p0).below(1) }

// Between returns bounds of the rate that each hold at all looks with a chance of
// at least 1-level.
func (r Rate) Between(level float64) (low, high float64) {
	need := enough(level)
	low = within(0, 1, func(p float64) bool { return r.Harm(p) >= need })
	high = within(0, 1, func(p float64) bool { return r.Sound(p) < need })
	return low, high
}

// String shows the rate to people, as in "31 of 1020 (3.04 %)".
func (r Rate) String() string {
	if r.N() == 0 {
		return "none"
	}
	share := float64(r.Bad) / float64(r.N())
	return fmt.Sprintf("%d of %d (%s %%)", r.Bad, r.N(), figures(100*share))
}

// figures shows a number with three figures, and none of more than needed.
func figures(x float64) string {
	switch {
	case math.Abs(x) >= 100 && math.Abs(x) < 1e7:
		return fmt.Sprintf("%.0f", x)
	default:
		return fmt.Sprintf("%.3g", x)
	}
}
