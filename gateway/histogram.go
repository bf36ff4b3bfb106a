package gateway

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/proto"
)

// histogram counts durations. Its buckets are those of Prometheus' native
// histograms of schema 3: the upper bounds are the powers of 2^(1/8) seconds,
// so that each is 9 % wide. client_golang's own histogram takes ten times as
// long for an observation, and there are five of them for each request.
type histogram struct {
	buckets [1 + octaves*8]atomic.Uint64 // the first is the zero bucket
	sum     atomic.Int64                 // nanoseconds
}

const (
	schema       = 3
	lowestOctave = -20 // durations up to 2^-20 s, a microsecond, are in the zero bucket
	octaves      = 32  // up to 2^12 s, more than an hour; what is longer is in the last bucket
	// The classic form has one bucket an octave, from 15 us to 16 s.
	classicFrom, classicTo = -16, 4
)

// bounds are the upper bounds of the buckets in nanoseconds, rounded down.
var bounds = func() (b [1 + octaves*8]int64) {
	for i := range b {
		b[i] = int64(math.Exp2(float64(i)/8+lowestOctave) * 1e9)
	}
	return b
}()

// firstBucket is the lowest bucket of all numbers of so many bits.
var firstBucket = func() (first [65]uint16) {
	for n := range first {
		i := 0
		for i < len(bounds)-1 && bits.Len64(uint64(bounds[i])) < n {
			i++
		}
		first[n] = uint16(i)
	}
	return first
}()

// observe counts a duration in nanoseconds.
func (h *histogram) observe(ns int64) { h.add(bucketOf(ns), ns) }

// add is observe for a time whose bucket is known.
func (h *histogram) add(bucket int, ns int64) {
	h.buckets[bucket].Add(1)
	h.sum.Add(max(ns, 0))
}

// bucketOf returns the index of the bucket that a time is counted in.
func bucketOf(ns int64) int {
	ns = max(ns, 0)
	i := int(firstBucket[bits.Len64(uint64(ns))])
	for i < len(bounds)-1 && ns > bounds[i] {
		i++
	}
	return i
}

// collect returns what was counted in both forms, nil when nothing was.
func (h *histogram) collect(d *prometheus.Desc, since time.Time, l ...string) prometheus.Metric {
	total := h.buckets[0].Load()
	zero := total
	native := make(map[int]int64)
	classic := make([]*dto.Bucket, 0, classicTo-classicFrom+1)
	for i := range h.buckets {
		if n := h.buckets[i].Load(); i > 0 && n > 0 {
			native[i+lowestOctave*8] = int64(n)
			total += n
		}
		octave := i/8 + lowestOctave
		if i%8 == 0 && octave >= classicFrom && octave <= classicTo {
			classic = append(classic, &dto.Bucket{
				UpperBound:      proto.Float64(math.Exp2(float64(octave))),
				CumulativeCount: proto.Uint64(total),
			})
		}
	}
	if total == 0 {
		return nil
	}
	m, err := prometheus.NewConstNativeHistogram(d, total, float64(h.sum.Load())/1e9, native, nil,
		zero, schema, math.Exp2(lowestOctave), since, l...)
	if err != nil {
		return prometheus.NewInvalidMetric(d, err)
	}
	return bothForms{m, classic}
}

// bothForms is a native histogram with classic buckets beside it, for servers
// that do not ask for the native form.
type bothForms struct {
	prometheus.Metric
	classic []*dto.Bucket
}

// Write implements prometheus.Metric.
func (b bothForms) Write(out *dto.Metric) error {
	err := b.Metric.Write(out)
	if out.Histogram != nil {
		out.Histogram.Bucket = b.classic
	}
	return err
}
