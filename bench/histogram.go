package bench

import (
	"math/bits"
	"time"
)

// A histogram of durations whose buckets grow with the value: each power of two
// is cut into 2^subBits equal parts, so a bucket is at most 1/2^subBits = 0.8 %
// wide. Values up to 2^maxBits ns (18 minutes) are told apart.
const (
	subBits = 7
	maxBits = 40
	buckets = (maxBits - subBits + 1) << subBits
)

type histogram struct {
	counts [buckets]uint64
	count  uint64
	sum    int64 // ns
	max    int64 // ns
}

// bucketOf returns the bucket of v ns.
func bucketOf(v int64) int {
	if v < 1<<subBits {
		return int(max(v, 0))
	}
	v = min(v, 1<<maxBits-1)
	shift := bits.Len64(uint64(v)) - 1 - subBits
	return shift<<subBits + int(v>>shift)
}

// upperBound returns the largest value of bucket b.
func upperBound(b int) int64 {
	if b < 1<<subBits {
		return int64(b)
	}
	shift := b>>subBits - 1
	return (int64(b)-int64(shift)<<subBits+1)<<shift - 1
}

func (h *histogram) add(v int64) {
	h.counts[bucketOf(v)]++
	h.count++
	h.sum += v
	h.max = max(h.max, v)
}

func (h *histogram) merge(o *histogram) {
	for i, n := range o.counts {
		h.counts[i] += n
	}
	h.count += o.count
	h.sum += o.sum
	h.max = max(h.max, o.max)
}

// quantile returns the value below or at which the part q of all values lies.
func (h *histogram) quantile(q float64) int64 {
	rank := min(uint64(q*float64(h.count)), h.count-1) // of the value asked for, from 0
	var seen uint64
	for i, n := range h.counts {
		if seen += n; seen > rank {
			return min(upperBound(i), h.max)
		}
	}
	return h.max
}

// Quantiles sums up a set of durations; all are 0 when the set is empty.
type Quantiles struct {
	Mean time.Duration `json:"mean_ns"`
	P50  time.Duration `json:"p50_ns"`
	P90  time.Duration `json:"p90_ns"`
	P95  time.Duration `json:"p95_ns"`
	P99  time.Duration `json:"p99_ns"`
	P999 time.Duration `json:"p99_9_ns"`
	Max  time.Duration `json:"max_ns"`
}

func (h *histogram) quantiles() Quantiles {
	if h.count == 0 {
		return Quantiles{}
	}
	at := func(q float64) time.Duration { return time.Duration(h.quantile(q)) }
	return Quantiles{
		Mean: time.Duration(h.sum / int64(h.count)),
		P50:  at(0.5), P90: at(0.9), P95: at(0.95), P99: at(0.99), P999: at(0.999),
		Max: time.Duration(h.max),
	}
}
