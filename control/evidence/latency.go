package evidence

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"sort"
)

// Latency compares a quantile of two histograms that have the same buckets.
//
// Each arm's distribution must stay the same while it is counted: hand in
// histograms of one step of a ramp, with its one propensity, begin anew at the
// next, and add up the evidence of all steps. Where load moves latency by the hour,
// count slow requests instead: with a bucket fixed beforehand, Slow gives events
// for a [Tally], which is valid under ramps and drift. And sessions must be
// thinned: one request a user.
type Latency struct {
	quantile float64
	ratio    float64
	bounds   []float64
}

// NewLatency returns the comparison of a quantile between 0 and 1. The canary's
// may be ratio times the stable version's, 1 or more. Bounds are the upper bounds
// of the buckets, ascending; the last bucket also has all that is longer. They may
// be rounded by 0.1 %, which the ratio is then uncertain by.
func NewLatency(quantile, ratio float64, bounds []float64) (*Latency, error) {
	switch {
	case !(quantile > 0 && quantile < 1):
		return nil, fmt.Errorf("evidence: a quantile of %v, must be between 0 and 1", quantile)
	case !(ratio >= 1 && ratio <= 1e6):
		return nil, fmt.Errorf("evidence: a ratio of latencies of %v, must be 1 to 1e6", ratio)
	case len(bounds) == 0 || !slices.IsSorted(bounds) || !(bounds[0] > 0) ||
		math.IsInf(bounds[len(bounds)-1], 1):
		return nil, errors.New("evidence: bounds of buckets must be positive and ascending")
	}
	return &Latency{quantile, ratio, slices.Clone(bounds)}, nil
}

const rounding = 1.001

// notBelow returns the first bucket that reaches up to x.
func (l *Latency) notBelow(x float64) int {
	return min(sort.SearchFloat64s(l.bounds, x/rounding), len(l.bounds)-1)
}

// allBelow returns how many buckets have nothing that is longer than x.
func (l *Latency) allBelow(x float64) int {
	n := sort.SearchFloat64s(l.bounds, x)
	if n < len(l.bounds) && l.bounds[n] <= x*rounding {
		n++
	}
	return min(n, len(l.bounds)-1)
}

// cumulated returns how many are below each bucket, and at the end all.
func (l *Latency) cumulated(counts []uint64) []float64 {
	c := make([]float64, len(l.bounds)+1)
	for i := range l.bounds {
		c[i+1] = c[i]
		if i < len(counts) {
			c[i+1] += float64(counts[i])
		}
	}
	return c
}

// tooMany is the log e-value against a value having at most the share q below it,
// when k of n are below; tooFew is that against at least q. They are betaBinomial,
// which is convex in k, kept at its minimum on the side that says nothing:
// betaBinomial(k+1) > betaBinomial(k) exactly when k > q(n-1). A canary that is
// better than the null hypothesis asks for has a greater k than one that just
// meets it, hence a smaller tooFew, so that both are valid for one side.
func (l *Latency) tooMany(k, n float64) float64 {
	return betaBinomial(max(k, l.least(n)), n, l.quantile)
}

func (l *Latency) tooFew(k, n float64) float64 {
	return betaBinomial(min(k, l.least(n)), n, l.quantile)
}

func (l *Latency) least(n float64) float64 {
	if n == 0 {
		return 0
	}
	return math.Floor(l.quantile*(n-1)) + 1
}

// Harm returns the log e-value against the canary's quantile being at most ratio
// times the stable version's. Wherever that lies, in bucket b say, it is refuted
// by too many of the stable version's below it, or too few of the canary's below
// ratio times it; so the evidence is at least
//
//	min over b of tooMany(stable below b) + tooFew(canary up to ratio times b)
//
// (confseq's QuantileABTest, one-sided, with buckets in place of samples.) It
// takes a difference of one to two buckets beyond the ratio.
func (l *Latency) Harm(canary, stable []uint64) float64 {
	c, s := l.cumulated(canary), l.cumulated(stable)
	last := len(l.bounds)
	lowest := math.Inf(1)
	for b := range last {
		up := l.notBelow(l.ratio*l.bounds[b]) + 1
		e := l.tooMany(s[b], s[last]) + l.tooFew(c[up], c[last])
		lowest = min(lowest, e)
	}
	return lowest
}

// Sound returns the log e-value against the canary's quantile being at least ratio
// times the stable version's: with b as for Harm at least
//
//	min over b of tooFew(stable up to b) + tooMany(canary below ratio times b)
//
// The ratio must be one to two buckets above what is to be told from it.
func (l *Latency) Sound(canary, stable []uint64) float64 {
	c, s := l.cumulated(canary), l.cumulated(stable)
	last := len(l.bounds)
	lowest := math.Inf(1)
	for b := range last {
		below := 0
		if b > 0 {
			below = l.allBelow(l.ratio * l.bounds[b-1])
		}
		e := l.tooFew(s[b+1], s[last]) + l.tooMany(c[below], c[last])
		lowest = min(lowest, e)
	}
	return lowest
}

// Bucket returns the bucket that the quantile of a histogram is in, -1 when it is
// empty.
func (l *Latency) Bucket(counts []uint64) int {
	n := float64(l.from(0, counts))
	if n == 0 {
		return -1
	}
	b := 0
	for below := uint64(0); b < len(l.bounds)-1; b++ {
		if b < len(counts) {
			below += counts[b]
		}
		if float64(below) >= l.quantile*n {
			break
		}
	}
	return b
}

// from returns how many are in a bucket or a later one.
func (l *Latency) from(bucket int, counts []uint64) (n uint64) {
	for i := bucket; i < min(len(counts), len(l.bounds)); i++ {
		n += counts[i]
	}
	return n
}

// Value returns the quantile of a histogram, rounded up to its bucket's bound, in
// the unit of the bounds; 0 when it is empty.
func (l *Latency) Value(counts []uint64) float64 {
	if b := l.Bucket(counts); b >= 0 {
		return l.bounds[b]
	}
	return 0
}

// Slow returns as events of one propensity how many requests were slower than a
// bucket of the stable version, for the canary than ratio times that. The bucket
// must be chosen before what is counted: from the requests before the rollout.
// A [Tally] of these tells whether the share of slow requests has risen, and by
// Sound that it has not by more than a margin.
func (l *Latency) Slow(bucket int, rho float64, canary, stable []uint64) Cell {
	bucket = min(max(bucket, 0), len(l.bounds)-1)
	up := l.notBelow(l.ratio*l.bounds[bucket]) + 1
	return Cell{rho, l.from(up, canary), l.from(bucket+1, stable)}
}
