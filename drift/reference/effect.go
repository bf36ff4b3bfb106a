package reference

import "math"

// designEffect returns how dependent the rows are, in the order in which they came:
// with blocks of as many rows as there are blocks, the variance of the blocks' sums over
// what it would be of independent rows (Kish's design effect, of clusters). What is
// summed up is a numeric value's rank, and whether a value is of a category, less what
// is normal in its slot. An effect that may well be chance is 0.
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
	between, within := 0.0, 0.0
	sums := make([]float64, len(scores[0]))
	for block := range blocks {
		clear(sums)
		for row := block * size; row < (block+1)*size; row++ {
			for k, x := range scores[bins[row]] {
				x -= means[slots[row]][k]
				sums[k] += x
				within += x * x
			}
		}
		for _, x := range sums {
			between += x * x
		}
	}
	effect := between / within
	if !(effect > 1+3*math.Sqrt(2/float64(blocks))) {
		return 0
	}
	return effect
}

// scores returns what stands for the values of each bin: of a numeric feature their rank
// from 0 to 1, a half for what has none, and else a one at its own place.
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
			scores[bin] = []float64{(below + float64(n)/2) / regular}
			below += float64(n)
		default:
			scores[bin] = []float64{0.5}
		}
	}
	return scores
}
