package route

import (
	"math"
	"math/rand/v2"

	"gonum.org/v1/gonum/stat/distuv"
)

// draws is how often Thompson sampling looks which arm is best: the standard
// error of a weight is below 0.8 % of FullWeight.
const draws = 4096

// Evidence is what the rewards of an arm say, each between 0 and 1 and worth
// less with age.
type Evidence struct {
	N      float64 // rewards
	Reward float64 // their sum
}

// posterior is the belief in an arm's mean reward: Beta(1+S, 1+F), where S is
// the sum of the rewards and F what they lack of 1.
func (e Evidence) posterior() distuv.Beta {
	return distuv.Beta{Alpha: 1 + max(e.Reward, 0), Beta: 1 + max(e.N-e.Reward, 0)}
}

// Weights returns the weight of each arm; together they are FullWeight. Arms
// without any evidence are all alike. Without arms there are no weights.
func (b *BanditSpec) Weights(arms []Evidence, r *rand.Rand) []int {
	if len(arms) == 0 {
		return nil
	}
	if b.Policy == "epsilon_greedy" {
		return b.round(b.level(greedy(arms, b.Epsilon)))
	}
	return b.round(b.level(thompson(arms, r)))
}

// greedy gives the arm with the highest posterior mean all but epsilon, which
// is spread over all arms. Arms that are equally good share.
func greedy(arms []Evidence, epsilon float64) []float64 {
	best, ties := math.Inf(-1), 0
	for _, a := range arms {
		switch mean := a.posterior().Mean(); {
		case mean > best:
			best, ties = mean, 1
		case mean == best:
			ties++
		}
	}
	shares := make([]float64, len(arms))
	for i, a := range arms {
		shares[i] = epsilon / float64(len(arms))
		if a.posterior().Mean() == best {
			shares[i] += (1 - epsilon) / float64(ties)
		}
	}
	return shares
}

// thompson returns the probability of each arm that its mean reward is the
// highest, by drawing from the posteriors.
func thompson(arms []Evidence, r *rand.Rand) []float64 {
	shares := make([]float64, len(arms))
	beliefs := make([]distuv.Beta, len(arms))
	known := false
	for i, a := range arms {
		beliefs[i] = a.posterior()
		beliefs[i].Src = r
		known = known || a.N > 0
		shares[i] = 1 / float64(len(arms))
	}
	if !known {
		return shares // exactly what draws would say nearly
	}
	clear(shares)
	for range draws {
		best, at := -1.0, 0
		for i := range beliefs {
			if x := beliefs[i].Rand(); x > best {
				best, at = x, i
			}
		}
		shares[at] += 1.0 / draws
	}
	return shares
}

// bounds returns the least and the most weight of one of n arms. Bounds that n
// arms cannot keep give way.
func (b *BanditSpec) bounds(n int) (floor, ceiling int) {
	ceiling = FullWeight
	if b.Ceiling > 0 {
		ceiling = min(ceiling, b.Ceiling)
	}
	return min(max(b.Floor, 0), FullWeight/n), max(ceiling, (FullWeight+n-1)/n)
}

// level turns shares, which sum to 1, into weights within the bounds that sum to
// FullWeight at most, and to all but a hair of it: it adds the same to every
// share, like water that finds its level, and cuts at the bounds.
func (b *BanditSpec) level(shares []float64) []float64 {
	floor, ceiling := b.bounds(len(shares))
	weights := make([]float64, len(shares))
	fill := func(water float64) (sum float64) {
		for i, s := range shares {
			weights[i] = min(max(FullWeight*s+water, float64(floor)), float64(ceiling))
			sum += weights[i]
		}
		return sum
	}
	if fill(0) == FullWeight {
		return weights
	}
	low, high := -float64(FullWeight), float64(FullWeight)
	for range 64 { // halves 2 FullWeight down to the precision of a float64
		if mid := (low + high) / 2; fill(mid) > FullWeight {
			high = mid
		} else {
			low = mid
		}
	}
	fill(low)
	return weights
}

// round makes whole numbers of weights within the bounds, whose sum is
// FullWeight: those that lose most by rounding down get one more, of equals the
// first.
func (b *BanditSpec) round(weights []float64) []int {
	const same = 1e-6 // far above a float64's error, far below what matters
	_, ceiling := b.bounds(len(weights))
	whole := make([]int, len(weights))
	rest := FullWeight
	for i, w := range weights {
		whole[i] = int(w)
		rest -= whole[i]
	}
	for ; rest > 0; rest-- {
		at, most := 0, math.Inf(-1)
		for i, w := range weights {
			if lost := w - float64(whole[i]); whole[i] < ceiling && lost > most+same {
				at, most = i, lost
			}
		}
		whole[at]++
	}
	return whole
}
