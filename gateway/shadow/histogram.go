package shadow

import (
	"math"
	"sort"
)

// histogram counts numbers in buckets with these upper bounds, ascending; one
// more bucket is for what is above all.
type histogram struct {
	bounds []float64
	counts []uint64
	last   int // the bucket of the last number, in which the next is most often too
}

func newHistogram(bounds []float64) histogram {
	return histogram{bounds: bounds, counts: make([]uint64, len(bounds)+1)}
}

func (h *histogram) add(x float64) {
	i := h.last
	if i > 0 && !(x > h.bounds[i-1]) || i < len(h.bounds) && !(x <= h.bounds[i]) {
		i = sort.SearchFloat64s(h.bounds, x)
		h.last = i
	}
	h.counts[i]++
}

// merge adds what was counted in the same buckets.
func (h *histogram) merge(s *scoreCounts) {
	for i, n := range s {
		h.counts[i] += n
	}
}

// Bucket is one bucket of a histogram that has counted something.
type Bucket struct {
	Above float64 `json:"above"` // exclusive; -MaxFloat64 for no bound
	To    float64 `json:"to"`    // inclusive; MaxFloat64 for no bound
	Count uint64  `json:"count"`
}

// buckets lists the buckets that are not empty.
func (h *histogram) buckets() []Bucket {
	list := []Bucket{}
	for i, n := range h.counts {
		if n == 0 {
			continue
		}
		b := Bucket{Above: -math.MaxFloat64, To: math.MaxFloat64, Count: n}
		if i > 0 {
			b.Above = h.bounds[i-1]
		}
		if i < len(h.bounds) {
			b.To = h.bounds[i]
		}
		list = append(list, b)
	}
	return list
}

// octaves returns the powers of 2^(1/per) from 2^from to 2^to.
func octaves(from, to, per int) []float64 {
	var bounds []float64
	for i := from * per; i <= to*per; i++ {
		bounds = append(bounds, math.Exp2(float64(i)/float64(per)))
	}
	return bounds
}

// The buckets of errors, which the last place of FP64 bounds below, and of
// seconds, from one microsecond to half a minute; those are 19 % wide.
var (
	errorBounds  = octaves(-53, 20, 1)
	secondBounds = octaves(-20, 5, 4)
)

// Scores up to 1 are probabilities most often and get bins of equal width;
// others, and negative ones such as logarithms, get a bucket an octave.
const (
	unitBins                 = 20
	lowestOctave, topOctave  = -10, 16
	negative, positiveBounds = topOctave - lowestOctave + 1, topOctave
)

// scoreBounds are -2^16 to -2^-10, 0, 0.05 to 1, 2 to 2^16.
var scoreBounds = func() (b [negative + 1 + unitBins + positiveBounds]float64) {
	for i := range negative {
		b[i] = -math.Exp2(float64(topOctave - i))
	}
	for i := range unitBins {
		b[negative+1+i] = float64(i+1) / unitBins
	}
	for i := range positiveBounds {
		b[negative+1+unitBins+i] = math.Exp2(float64(i + 1))
	}
	return b
}()
