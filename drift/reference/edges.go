package reference

import (
	"math"
	"slices"
)

// quantiles are where the bins of numeric features end: narrow ones far out, where
// a change of the deviation shows first, and tenths between.
var quantiles = [...]float64{.005, .02, .05, .1, .2, .3, .4, .5, .6, .7, .8, .9, .95, .98, .995}

const (
	// atom is the share of one value from which it gets a bin of its own.
	atom = 0.02
	// margin is by how much, relative to the greatest value, the outermost edges lie
	// beyond what was seen: float32 rounds by 6e-8.
	margin = 1e-6
)

// makeEdges returns the edges for values, which are finite and ascend. Edges lie in
// the middle between values, so that rounding moves none across.
func makeEdges(values []float64) []float64 {
	n := len(values)
	low, high := values[0], values[n-1]
	beyond := margin * max(math.Abs(low), math.Abs(high))
	if beyond == 0 {
		beyond = margin
	}
	edges := []float64{max(low-beyond, -math.MaxFloat64), min(high+beyond, math.MaxFloat64)}
	cut := func(at int) { // between values[at-1] and values[at]
		if at > 0 && at < n {
			e := values[at-1]/2 + values[at]/2
			if e <= values[at-1] {
				e = values[at]
			}
			edges = append(edges, e)
		}
	}
	for _, p := range quantiles {
		v := values[int(p*float64(n))]
		first, _ := slices.BinarySearch(values, v)
		end, _ := slices.BinarySearch(values, math.Nextafter(v, math.Inf(1)))
		cut(first)
		if float64(end-first) >= atom*float64(n) {
			cut(end)
		}
	}
	slices.Sort(edges)
	return slices.Compact(edges)
}
