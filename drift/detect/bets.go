package detect

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// shape is what a bet expects of a numeric stream on the scale on which the
// reference is standard normal: another mean and deviation. Ranks and nothing else
// decide, so that heavy tails and ties change nothing.
type shape struct{ mean, deviation, weight float64 }

// shapes are the bets that never change, and their weights. The small shift takes
// longest to see, and each factor of its weight is ln(factor) / 0.03 values: so it has
// the most.
var shapes = [...]shape{
	{-0.25, 1, 0.18}, {0.25, 1, 0.18},
	{-0.5, 1, 0.08}, {0.5, 1, 0.08},
	{-1, 1, 0.04}, {1, 1, 0.04},
	{0, 0.7, 0.05}, {0, 1.4, 0.06},
}

// The other bets of a stream, and their weights.
const (
	exceptionShare  = 0.03 // of the values are expected in a bin for exceptions
	exceptionWeight = 0.02 // of each such bin
	mixed           = 0.5  // share of the recent histogram in what a bet on it expects
)

// exceptionLoss is what such a bet pays for any other value, (1-p)/(1-q), as a logarithm.
var exceptionLoss = math.Log1p(-exceptionShare)

// memory says how long a histogram of recent values lasts: so many rows for each bin,
// and no fewer than so many ticks.
type memory struct{ rows, ticks float64 }

// A short memory learns fast what has changed much. A small change is lost in its
// noise: that takes a long one, but where there are shapes, which know without
// learning.
var (
	numericMemories     = []memory{{10, 8}}
	categoricalMemories = []memory{{10, 8}, {100, 16}}
)

// The uncertainty of the reference that bets are discounted by, as multiples of a
// bet's standard error: the normal quantile of 0.95 for a bet that was chosen
// beforehand, and for one that was chosen by the data the root of the chi-square
// quantile, as it may have found the direction in which the reference is off.
const certainty = 0.95

var fixedQuantile = distuv.UnitNormal.Quantile(certainty)

func chosenQuantile(dimensions int) float64 {
	return math.Sqrt(distuv.ChiSquared{K: float64(dimensions)}.Quantile(certainty))
}

// null is the reference of one slot, made ready for bets.
type null struct {
	rows      float64 // as many independent ones
	tolerance float64
	q         []float64 // of each bin
	scores    []float64 // of regular bins of a numeric stream, normal; else nil
	regular   float64   // sum of q over these
	gains     []float64 // logarithms of p/q of the bets on exceptions, in their bins
	fixed     []float32 // ratios of the shapes, one row of bins each
}

// newNull smooths counts as Krichevsky and Trofimov do, by half a row a bin.
func newNull(counts []uint64, k *kind, effect float64) *null {
	n := &null{q: make([]float64, len(counts)), tolerance: k.tolerance}
	for _, c := range counts {
		n.rows += float64(c)
	}
	for i, c := range counts {
		n.q[i] = (float64(c) + 0.5) / (n.rows + float64(len(counts))/2)
	}
	n.rows /= effect
	z := fixedQuantile
	for _, bin := range k.exceptions {
		c := float64(counts[bin]) / effect
		// Upper end of the Wilson score interval of a Poisson count.
		upper := (c + z*z/2 + z*math.Sqrt(c+z*z/4)) / n.rows
		upper = min(upper+n.tolerance*math.Sqrt(upper), 1)
		n.gains = append(n.gains, math.Log((upper+exceptionShare*(1-upper))/upper))
	}
	if k.ordered == 0 {
		return n
	}
	n.scores = make([]float64, k.ordered)
	for _, q := range n.q[:k.ordered] {
		n.regular += q
	}
	below := 0.0
	for i, q := range n.q[:k.ordered] {
		n.scores[i] = distuv.UnitNormal.Quantile((below + q/2) / n.regular)
		below += q
	}
	n.fixed = make([]float32, 0, len(shapes)*len(counts))
	ratios := make([]float64, len(counts))
	for _, s := range shapes {
		n.tilt(s.mean, s.deviation, ratios)
		n.discount(ratios, fixedQuantile)
		for _, r := range ratios {
			n.fixed = append(n.fixed, float32(math.Log(r)))
		}
	}
	return n
}

// exception returns the logarithm of what the bet on exception i pays for n values in
// its bin among rows. It is on more of them than the reference may well have, and
// pays less than 1 on average for any number below.
func (n *null) exception(i int, values, rows float64) float64 {
	return values*n.gains[i] + (rows-values)*exceptionLoss
}

// tilt sets ratios to p/q of a normal distribution on the scale of the scores:
// exp(a s + b s^2), made to add up to what q does. Bins without a score stay as
// they are.
func (n *null) tilt(mean, deviation float64, ratios []float64) {
	v := deviation * deviation
	a, b := mean/v, (1-1/v)/2
	sum := 0.0
	for i, s := range n.scores {
		ratios[i] = math.Exp((a + b*s) * s)
		sum += ratios[i] * n.q[i]
	}
	for i := range ratios {
		if i < len(n.scores) {
			ratios[i] *= n.regular / sum
		} else {
			ratios[i] = 1
		}
	}
}

// recent sets ratios to p/q of a mixture of the reference with what came lately.
func (n *null) recent(live, ratios []float64) {
	for i, q := range n.q {
		ratios[i] = 1 - mixed + mixed*live[i]/q
	}
}

// discount divides ratios by what they may win on average when the reference has
// drawn its rows from elsewhere than q. With q* the truth,
//
//	sum of q* p/q = 1 + sum of (p/q - 1)(q* - q) <= 1 + chi(p, q) quantile / sqrt(rows)
//
// where chi(p, q)^2 = sum of (p-q)^2/q is also rows times the variance of the sum. A
// truth that is itself within the tolerance, chi(q*, q) <= tolerance, adds no more than
// chi(p, q) tolerance to it (Cauchy and Schwarz).
func (n *null) discount(ratios []float64, quantile float64) {
	chi := 0.0
	for i, q := range n.q {
		chi += q * (ratios[i] - 1) * (ratios[i] - 1)
	}
	d := 1 / (1 + math.Sqrt(chi)*(quantile/math.Sqrt(n.rows)+n.tolerance))
	for i := range ratios {
		ratios[i] *= d
	}
}

// moments returns the mean and deviation of the scores in a histogram, within the
// bounds of a bet that makes sense.
func (n *null) moments(live []float64) (mean, deviation float64) {
	sum, mean, square := 1e-300, 0.0, 0.0
	for i, s := range n.scores {
		sum += live[i]
		mean += live[i] * s
		square += live[i] * s * s
	}
	mean /= sum
	variance := square/sum - mean*mean
	return min(max(mean, -2), 2), math.Sqrt(min(max(variance, 0.1), 4))
}

// update moves a histogram towards the counts, by as much as if the values had come
// one by one: h <- r h + (1-r) counts/rows with r = (1 - 1/memory)^rows.
func (m memory) update(live []float64, counts []uint64, rows float64) {
	share := -math.Expm1(-rows / (m.rows * float64(len(live))))
	share = min(share, 1/m.ticks)
	for i, n := range counts {
		live[i] += share * (float64(n)/rows - live[i])
	}
}
