// Package distance measures for people how far a histogram is from another with
// the same bins. None of these is an alarm: they have no error rate, as every one
// grows with the noise of small counts. See package detect for alarms.
//
// All functions are pure. Counts have one number for each bin, and at least one
// count that is not zero in each histogram; else the distance is NaN.
package distance

import (
	"math"

	"gonum.org/v1/gonum/stat/distuv"
)

// PSI returns the population stability index,
//
//	sum of (p - q) ln(p/q)
//
// and what it exceeds without any drift in one of twenty cases: with N and M rows
// and B bins
//
//	(1/N + 1/M) chi-square quantile(0.95, B-1)
//
// (Yurdakul 2018), which is right from about 25 rows a bin on. The rule of thumb of
// 0.1 and 0.25 has no such rate. Half a row is added to each bin, so that an empty
// one does not make it infinite.
func PSI(live, reference []uint64) (psi, noise float64) {
	n, m := total(live), total(reference)
	if n == 0 || m == 0 {
		return math.NaN(), math.NaN()
	}
	half := float64(len(live)) / 2
	bins := 0
	for i := range live {
		if live[i] == 0 && reference[i] == 0 {
			continue
		}
		bins++
		p, q := (float64(live[i])+0.5)/(n+half), (float64(reference[i])+0.5)/(m+half)
		psi += (p - q) * math.Log(p/q)
	}
	if bins < 2 {
		return psi, 0
	}
	return psi, (1/n + 1/m) * distuv.ChiSquared{K: float64(bins - 1)}.Quantile(0.95)
}

// JensenShannon returns the Jensen-Shannon distance by base 2: 0 for equal
// histograms, 1 for those that share no bin.
func JensenShannon(live, reference []uint64) float64 {
	n, m := total(live), total(reference)
	if n == 0 || m == 0 {
		return math.NaN()
	}
	sum := 0.0
	for i := range live {
		p, q := float64(live[i])/n, float64(reference[i])/m
		sum += divergence(p, (p+q)/2) + divergence(q, (p+q)/2)
	}
	return math.Sqrt(max(sum/2, 0))
}

// divergence is a bin's part of the Kullback-Leibler divergence in bits.
func divergence(p, q float64) float64 {
	if p == 0 {
		return 0
	}
	return p * math.Log2(p/q)
}

// KS returns the Kolmogorov-Smirnov distance of two histograms whose bins are in
// the order of the values: the greatest difference of their distribution functions
// at the edges. Between edges it may be greater.
func KS(live, reference []uint64) float64 {
	n, m := total(live), total(reference)
	if n == 0 || m == 0 {
		return math.NaN()
	}
	greatest, f, g := 0.0, 0.0, 0.0
	for i := range live {
		f += float64(live[i]) / n
		g += float64(reference[i]) / m
		greatest = max(greatest, math.Abs(f-g))
	}
	return greatest
}

// Wasserstein returns the earth mover's distance, in the unit of the values, of two
// histograms with bins below, between and above these edges. What is below counts as
// the first edge, what is above as the last, so that it is too little when values left
// the range.
func Wasserstein(live, reference []uint64, edges []float64) float64 {
	n, m := total(live), total(reference)
	if n == 0 || m == 0 {
		return math.NaN()
	}
	sum, f, g := 0.0, 0.0, 0.0
	before := 0.0 // difference of the distribution functions at the edge before
	for i, e := range edges {
		f += float64(live[i]) / n
		g += float64(reference[i]) / m
		if i > 0 {
			sum += (e - edges[i-1]) * meanAbs(before, f-g)
		}
		before = f - g
	}
	return sum
}

// meanAbs is the mean of |x| as x goes straight from a to b: within a bin values
// are taken to be spread evenly.
func meanAbs(a, b float64) float64 {
	if a*b >= 0 {
		return math.Abs(a+b) / 2
	}
	return (a*a + b*b) / (2 * math.Abs(b-a))
}

func total(counts []uint64) (n float64) {
	for _, c := range counts {
		n += float64(c)
	}
	return n
}
