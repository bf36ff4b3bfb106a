package reference

import (
	"math"

	"gonum.org/v1/gonum/floats"
)

// designEffect returns how dependent the rows are, in the order in which they came:
// with blocks of as many rows as there are blocks, the variance of the blocks' sums over
// what it would be of independent rows (Kish's design effect, of clusters). What is
// summed up is a numeric value's rank, or how far it is from the middle, whichever has
// the greater effect: quiet times may follow wild ones. Of a categorical one it is
// whether a value is of a category. All is less what is normal in its slot. An effect
// that may well be chance is 0.
func designEffect(f *Feature, bins, slots []int) float64 {
	scores := f.scores()
	means := make([][]float64, len(f.Counts))
	for slot, counts := range f.Counts {
		means[slot] = make([]float64, len(scores[0]))
		for bin, n := range counts {
			for k, x := range scores[bin] {
				means[slot][k] += x * float64(n) / float64(total(counts))
			}
		}
	}
	size := int(math.Sqrt(float64(len(bins))))
	blocks := len(bins) / size
	sums, between, within := make([]float64, len(scores[0])), make([]float64, len(scores[0])),
		make([]float64, len(scores[0]))
	for block := range blocks {
		clear(sums)
		for row := block * size; row < (block+1)*size; row++ {
			for k, x := range scores[bins[row]] {
				x -= means[slots[row]][k]
				sums[k] += x
				within[k] += x * x
			}
		}
		for k, x := range sums {
			between[k] += x * x
		}
	}
	effect := floats.Sum(between) / floats.Sum(within)
	if f.layout.IsNumeric() {
		effect = 0
		for k, x := range within {
			// Values of two kinds are all as far from the middle.
			if x > 1e-9*float64(len(bins)) {
				effect = max(effect, between[k]/x)
			}
		}
	}
	if !(effect > 1+3*math.Sqrt(2/float64(blocks))) {
		return 0
	}
	return effect
}

// scores returns what stands for the values of each bin: of a numeric feature their rank
// from 0 to 1, a half for what has none, and the square of how far it is from a half; and
// else a one at its own place.
func (f *Feature) scores() [][]float64 {
	counts := f.Total()
	scores := make([][]float64, len(counts))
	regular := float64(total(counts[:f.layout.Regular()]))
	below := 0.0
	for bin, n := range counts {
		switch {
		case !f.layout.IsNumeric():
			scores[bin] = make([]float64, len(counts))
			scores[bin][bin] = 1
		case bin < f.layout.Regular():
			rank := (below + float64(n)/2) / regular
			scores[bin] = []float64{rank, (rank - 0.5) * (rank - 0.5)}
			below += float64(n)
		default:
			scores[bin] = []float64{0.5, 0}
		}
	}
	return scores
}
