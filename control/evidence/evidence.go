// Package evidence holds the statistics that rollouts decide on: how strongly
// what was counted speaks against a canary, or for it.
//
// Every test here yields an e-value: a number that is 1 without data, grows with
// evidence against its null hypothesis, and while that holds exceeds 1/a with a
// chance of a at most, however often one looks and whenever one stops (Ville's
// inequality). All functions return its natural logarithm, which cannot overflow:
// 0 is no evidence, ln(1/a) is enough at level a.
//
//   - [Tally] compares how often something happens in both arms, by the propensity
//     of each request: errors, slow answers, and whether the split itself is right.
//   - [Rate] compares one arm with an allowed rate: disagreement with the stable one.
//   - [Latency] compares quantiles of two histograms.
//   - [Mean] compares the means of a bounded metric from feedback.
//   - [Rule] decides with the evidence of all guards.
//
// Where users stick to an arm each may count once only: see Once of package
// gateway/route/trial, which counts.
//
// Harm is evidence that the canary is worse, for rolling back. Sound is evidence
// that it is not worse by a margin, for promoting. Neither is the other's absence.
//
// All types are plain values that a caller guards, keeps as JSON, and adds up over
// replicas. Nothing here reads a clock, a file or a metric.
package evidence

import (
	"math"

	"gonum.org/v1/gonum/mathext"
)

// risks are the alternatives that tests of rates mix with equal weights: how many
// times as likely as under the null hypothesis an event is. Sound uses their
// inverses.
var risks = [...]float64{1.25, 1.5, 2, 3, 5, 10}

// Average returns the logarithm of the mean of e-values that are given as
// logarithms. It is an e-value against the hypothesis that all their null
// hypotheses hold: for a canary that may be promoted when its errors are either
// within a margin of the stable one's or below an allowed rate, it is the Average
// of both. Without any it is 0; NaN counts as no evidence.
func Average(logs ...float64) float64 {
	if len(logs) == 0 {
		return 0
	}
	highest := math.Inf(-1)
	for _, l := range logs {
		highest = max(highest, known(l))
	}
	if math.IsInf(highest, 0) {
		return highest
	}
	sum := 0.0
	for _, l := range logs {
		sum += math.Exp(known(l) - highest)
	}
	return highest + math.Log(sum/float64(len(logs)))
}

func known(logE float64) float64 {
	if math.IsNaN(logE) {
		return 0
	}
	return logE
}

// AlwaysValid returns the p-value after another look: p is that of the looks
// before, 1 at first, and logE what the look found. The smallest of 1/E so far may
// be compared with a level at any time: p_t = min over s <= t of 1/E_s.
func AlwaysValid(p, logE float64) float64 {
	return min(p, math.Exp(-max(known(logE), 0)))
}

// concentration is k of the mixture in betaBinomial: as much as a hundred
// observations that were as expected. savvi uses the same.
const concentration = 100

// betaBinomial returns the log e-value against k of n being a sum of independent
// events of probability q each, mixed over Beta(cq, c(1-q)) with c = concentration:
//
//	E = B(cq + k, c(1-q) + n-k) / B(cq, c(1-q)) / (q^k (1-q)^(n-k))
//
// It is confseq's beta-binomial mixture for sub-Bernoulli sums with g = q,
// h = 1-q, s = k - qn, v = q(1-q)n and r = c q(1-q), and savvi's multinomial test
// of two cells.
func betaBinomial(k, n, q float64) float64 {
	a, b := concentration*q, concentration*(1-q)
	return mathext.Lbeta(a+k, b+n-k) - mathext.Lbeta(a, b) - k*math.Log(q) - (n-k)*math.Log1p(-q)
}

// within returns the end of the range of x, from below to above, up to which
// holds is true. It must be true for low x and false for high ones.
func within(below, above float64, holds func(x float64) bool) float64 {
	for range 60 {
		middle := (below + above) / 2
		if holds(middle) {
			below = middle
		} else {
			above = middle
		}
	}
	return (below + above) / 2
}

// enough is the log e-value that speaks at this level.
func enough(level float64) float64 { return -math.Log(level) }
