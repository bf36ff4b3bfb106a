package shadow

import (
	"math"
	"slices"
	"sort"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// The best classes that are compared of a row.
const maxTopK, defaultTopK = 32, 5

// Scores are how the best scores of rows lie.
type Scores struct{ Stable, Shadow scoreCounts }

// scoreCounts counts rows by their best score, in the buckets of scoreBounds.
type scoreCounts [len(scoreBounds) + 1]uint64

// add counts a score, unless there is none.
func (s *scoreCounts) add(x float64) {
	if !math.IsInf(x, -1) {
		s[sort.SearchFloat64s(scoreBounds[:], x)]++
	}
}

// pair is a tensor of scores, [rows, classes] or [classes], in both versions.
type pair struct {
	a, b    *tensor.Tensor
	same    bool // all their bytes are
	classes int
	bound   bound
	topK    int
}

// scores compares the best classes of each row.
func (p *pair) scores(r *Result, scores *Scores) {
	d := p.a.Datatype
	k := p.topK
	if k <= 0 {
		k = defaultTopK
	}
	k = min(k, maxTopK)
	overlaps := p.classes > k
	if !overlaps || p.same {
		k = 1
	}
	size := p.classes * d.Size()
	var a, b ranking
	for row := range len(p.a.Data) / size {
		stable := p.a.Data[row*size : (row+1)*size]
		a.rank(d, stable, k)
		scores.Stable.add(a.score[0])
		r.ArgmaxRows++
		if p.same {
			scores.Shadow.add(a.score[0])
			r.ArgmaxAgree++
			if overlaps {
				r.TopKRows++
				r.TopKOverlap++
			}
			continue
		}
		b.rank(d, p.b.Data[row*size:(row+1)*size], k)
		scores.Shadow.add(b.score[0])
		best, picked := a.class[0], b.class[0]
		if best == picked || p.bound.allows(a.score[0], number(d, stable, picked)) {
			r.ArgmaxAgree++
		}
		if overlaps {
			r.TopKRows++
			r.TopKOverlap += a.overlap(&b)
		}
	}
}

// ranking is the best classes of one row, the best first. Of equal ones the
// first comes first; NaN is below all.
type ranking struct {
	n     int
	class [maxTopK]int
	score [maxTopK]float64
}

// rank finds the k best of a row that has at least so many.
func (q *ranking) rank(d tensor.Datatype, row []byte, k int) {
	q.n = 0
	for i := range len(row) / d.Size() {
		x := number(d, row, i)
		if x != x {
			x = math.Inf(-1)
		}
		if q.n == k && x <= q.score[k-1] {
			continue
		}
		at := min(q.n, k-1)
		for ; at > 0 && q.score[at-1] < x; at-- {
			q.class[at], q.score[at] = q.class[at-1], q.score[at-1]
		}
		q.class[at], q.score[at] = i, x
		q.n = min(q.n+1, k)
	}
}

// overlap returns the share of the classes that both have.
func (q *ranking) overlap(other *ranking) float64 {
	if slices.Equal(q.class[:q.n], other.class[:other.n]) {
		return 1
	}
	both := 0
	for _, c := range q.class[:q.n] {
		for _, o := range other.class[:other.n] {
			if c == o {
				both++
			}
		}
	}
	return float64(both) / float64(q.n)
}
