package evidence

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
)

// Cell counts the events of both arms among requests that went to the canary
// with the same probability.
type Cell struct {
	Rho    float64 `json:"rho"`    // that probability, the propensity; between 0 and 1
	Canary uint64  `json:"canary"` // events of the canary
	Stable uint64  `json:"stable"` // events of the stable version
}

// Tally counts events of both arms, errors most often, by the propensity of
// their requests, ascending. The zero value is ready for use. As the order of
// events does not matter to a test, and every event counts with its own
// propensity, a tally goes on over the steps of a ramp and under a bandit.
//
// The propensity must be fixed before the request is seen, and the arm drawn by
// it. Events must be independent given the past: of a user who sticks to an arm
// only the first event may count, see Once of package gateway/route/trial.
type Tally []Cell

// maxCells bounds a tally. Steps of a ramp need a handful and a bandit that moves
// its weights every ten seconds a whole number of permill far fewer than this.
const maxCells = 4096

// Observe counts one event and says whether it did. A propensity of 0 or 1 leaves
// no choice of the arm, so that the event says nothing and is left out; so is one
// with NaN, and one whose propensity is new when there are too many already. None
// of these depends on the arm, so that the rest is as valid as before.
func (t *Tally) Observe(canary bool, rho float64) bool {
	if canary {
		return t.Add(Cell{Rho: rho, Canary: 1})
	}
	return t.Add(Cell{Rho: rho, Stable: 1})
}

// Add counts events of one propensity, as Observe does.
func (t *Tally) Add(c Cell) bool {
	if !(c.Rho > 0 && c.Rho < 1) {
		return false
	}
	i, end := 0, len(*t)
	for i < end { // slices.BinarySearchFunc takes three times as long
		if middle := (i + end) / 2; (*t)[middle].Rho < c.Rho {
			i = middle + 1
		} else {
			end = middle
		}
	}
	if i == len(*t) || (*t)[i].Rho != c.Rho {
		if len(*t) == maxCells {
			return false
		}
		*t = slices.Insert(*t, i, Cell{Rho: c.Rho})
	}
	(*t)[i].Canary += c.Canary
	(*t)[i].Stable += c.Stable
	return true
}

// Merge adds what another replica has counted. The log-likelihoods of both add up.
func (t *Tally) Merge(other Tally) {
	for _, c := range other {
		t.Add(c)
	}
}

// UnmarshalJSON reads a list of cells. One that cannot be is an error.
func (t *Tally) UnmarshalJSON(text []byte) error {
	var cells []Cell
	if err := json.Unmarshal(text, &cells); err != nil {
		return err
	}
	*t = nil
	for _, c := range cells {
		if !t.Add(c) {
			return fmt.Errorf("evidence: a cell of propensity %v, beside %d others", c.Rho, len(*t))
		}
	}
	return nil
}

// Totals returns how many events each arm had.
func (t Tally) Totals() (canary, stable uint64) {
	for _, c := range t {
		canary += c.Canary
		stable += c.Stable
	}
	return canary, stable
}

// likelihood returns how much likelier the events are when they are r times as
// likely in the canary as in the stable version, than when they are alike, as a
// logarithm. Given that a request had an event, it went to the canary with a
// probability that the base rate, which may move, cancels out of:
//
//	theta(r) = rho r / (rho r + 1 - rho),  theta(1) = rho
//
// so that an event of the canary adds ln r - ln(rho r + 1 - rho), and one of the
// stable version - ln(rho r + 1 - rho). It is concave in ln r. (Conditional form
// of Lindon and Malek's sequential multinomial test, as savvi has it.)
func (t Tally) likelihood(r float64) float64 {
	l := 0.0
	logRisk := math.Log(r)
	for _, c := range t {
		n := float64(c.Canary) + float64(c.Stable)
		l += float64(c.Canary)*logRisk - n*math.Log1p(c.Rho*(r-1))
	}
	return l
}

// Harm returns the log e-value against the events being at most as likely in the
// canary as in the stable version at each instant:
//
//	E = mean over r in {1.25, 1.5, 2, 3, 5, 10} of exp(likelihood(r))
//
// Where the canary has fewer events, the expectation of each factor,
// (theta r + 1-theta)/(rho r + 1-rho) with theta < rho, is below 1.
func (t Tally) Harm() float64 { return t.above(1) }

// Sound returns the log e-value against the events being at least 1+margin times
// as likely in the canary as in the stable version at each instant:
//
//	E = mean over r of exp(likelihood((1+margin)/r) - likelihood(1+margin))
//
// With r as for Harm. As it speaks of a ratio, it needs events: hundreds of errors
// for a margin of 0.5. Where errors are rare, take the Average with [Rate.Sound].
func (t Tally) Sound(margin float64) float64 { return t.below(1 + margin) }

// Risk returns how many times as likely events are in the canary: bounds that
// each hold at all looks with a chance of at least 1-level.
func (t Tally) Risk(level float64) (low, high float64) {
	const far = 20 // in ln r, a factor of 5e8: as good as no bound
	need := enough(level)
	low = within(-far, far, func(x float64) bool { return t.above(math.Exp(x)) >= need })
	high = within(-far, far, func(x float64) bool { return t.below(math.Exp(x)) < need })
	if low < -far+1 {
		low = math.Inf(-1)
	}
	if high > far-1 {
		high = math.Inf(1)
	}
	return math.Exp(low), math.Exp(high)
}

// above is the log e-value against a relative risk of at most null.
func (t Tally) above(null float64) float64 {
	var l [len(risks)]float64
	at := t.likelihood(null)
	for i, r := range risks {
		l[i] = t.likelihood(null*r) - at
	}
	return Average(l[:]...)
}

// below is the log e-value against a relative risk of at least null.
func (t Tally) below(null float64) float64 {
	var l [len(risks)]float64
	at := t.likelihood(null)
	for i, r := range risks {
		l[i] = t.likelihood(null/r) - at
	}
	return Average(l[:]...)
}

// Mismatch returns the log e-value against the split being as it is said to be.
// The events of this tally are all requests, counted when they are sent to an arm,
// as answers of a slow one come later; with sticky routing all users, when they
// first come. It is the product over the cells of
//
//	E = B(c rho + x, c(1-rho) + n-x) / B(c rho, c(1-rho)) / (rho^x (1-rho)^(n-x))
//
// With x requests of the canary among n and c = 100, savvi's test of two cells.
// When it speaks, requests of one arm were lost or counted twice, and no other
// comparison of the arms can be believed.
func (t Tally) Mismatch() float64 {
	l := 0.0
	for _, c := range t {
		x := float64(c.Canary)
		l += betaBinomial(x, x+float64(c.Stable), c.Rho)
	}
	return l
}
