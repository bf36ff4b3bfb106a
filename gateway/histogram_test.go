package gateway

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/batch"
)

// onlyBucket returns the only bucket with something in it.
func onlyBucket(h *histogram) int {
	for i := range h.buckets {
		if h.buckets[i].Load() > 0 {
			return i
		}
	}
	return -1
}

// TestHistogramBuckets: each duration is above the bound below its bucket and
// not above that of its bucket.
func TestHistogramBuckets(t *testing.T) {
	f := func(ns int64) {
		t.Helper()
		h := new(histogram)
		h.observe(ns)
		i := onlyBucket(h)
		if i < 0 || ns > bounds[i] && i != len(bounds)-1 || i > 0 && ns <= bounds[i-1] {
			t.Errorf("%d ns is in bucket %d", ns, i)
		}
	}
	f(-5)
	f(0)
	f(math.MaxInt64)
	for _, b := range bounds {
		f(b - 1)
		f(b)
		f(b + 1)
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 10000 {
		f(int64(math.Exp2(r.Float64() * 62)))
	}
	// The bound of 2^0 s is exact: Prometheus calls that bucket 0.
	h := new(histogram)
	h.observe(1e9)
	if got := onlyBucket(h) + lowestOctave*8; got != 0 {
		t.Errorf("1 s is in the native bucket %d, want 0", got)
	}
}

// TestHistogramForms: what is collected has the same counts in both forms.
func TestHistogramForms(t *testing.T) {
	h := new(histogram)
	desc := prometheus.NewDesc("x_seconds", "X.", []string{"a"}, nil)
	if h.collect(desc, time.Now(), "b") != nil {
		t.Error("an empty histogram is collected")
	}
	for _, d := range []time.Duration{500, 20 * time.Microsecond, time.Millisecond,
		time.Millisecond, time.Second, time.Hour} {
		h.observe(int64(d))
	}
	var m dto.Metric
	if err := h.collect(desc, time.Now(), "b").Write(&m); err != nil {
		t.Fatal(err)
	}
	got := m.Histogram
	if got.GetSampleCount() != 6 || got.GetZeroCount() != 1 || got.GetSchema() != schema {
		t.Errorf("got %v", got)
	}
	if want := 3601.0020205; math.Abs(got.GetSampleSum()-want) > 1e-9 {
		t.Errorf("the sum is %v, want %v", got.GetSampleSum(), want)
	}
	classic := make(map[float64]uint64)
	for _, b := range got.Bucket {
		classic[b.GetUpperBound()] = b.GetCumulativeCount()
	}
	for bound, want := range map[float64]uint64{
		math.Exp2(-16): 1, math.Exp2(-15): 2, math.Exp2(-10): 2, math.Exp2(-9): 4, 0.5: 4, 1: 5,
		16: 5,
	} {
		if classic[bound] != want {
			t.Errorf("%d are up to %v s, want %d", classic[bound], bound, want)
		}
	}
	native, index, count := map[int32]int64{}, int32(0), int64(0)
	at := 0
	for _, span := range got.PositiveSpan {
		index += span.GetOffset()
		for range span.GetLength() {
			count += got.PositiveDelta[at]
			native[index] = count
			at++
			index++
		}
	}
	for key, want := range map[int32]int64{-124: 1, -79: 2, 0: 1, 95: 1} {
		if native[key] != want {
			t.Errorf("the native bucket %d has %d, want %d: %v", key, native[key], want, native)
		}
	}
}

// TestObservationsDoNotAllocate: counting a request costs no memory.
func TestObservationsDoNotAllocate(t *testing.T) {
	m := newMetrics(&Core{})
	x := &Exchange{Protocol: ProtocolGRPC, began: new(versionMetrics), Start: batch.Now()}
	failed := errors.Join(wire.ErrBadRequest)
	m.finish(x, nil)
	if n := testing.AllocsPerRun(1000, func() { m.finish(x, nil) }); n != 0 {
		t.Errorf("an answered request costs %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() { m.finish(x, failed) }); n != 0 {
		t.Errorf("a failed request costs %v allocations", n)
	}
	if n := testing.AllocsPerRun(1000, func() { m.refuse(408) }); n != 0 {
		t.Errorf("a refused request costs %v allocations", n)
	}
}

func BenchmarkFinish(b *testing.B) {
	m := newMetrics(&Core{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		x := &Exchange{began: new(versionMetrics), Start: batch.Now()}
		for pb.Next() {
			m.finish(x, nil)
		}
	})
}
