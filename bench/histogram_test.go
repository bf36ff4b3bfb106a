package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestBuckets(t *testing.T) {
	f := func(v int64) {
		t.Helper()
		b := bucketOf(v)
		if top := upperBound(b); top < v || float64(top-v) > 0.01*float64(v) {
			t.Errorf("%d lies in bucket %d, which ends at %d", v, b, top)
		}
		if b > 0 && upperBound(b-1) >= v {
			t.Errorf("%d also fits into bucket %d", v, b-1)
		}
	}
	for v := range int64(5000) {
		f(v)
	}
	for shift := 12; shift < maxBits; shift++ {
		f(1<<shift - 1)
		f(1 << shift)
		f(1<<shift + 1)
	}
	f(1<<maxBits - 1)
	if b := bucketOf(1<<62 + 5); b != buckets-1 {
		t.Errorf("a value beyond all buckets lies in %d, want the last, %d", b, buckets-1)
	}
	if b := bucketOf(-3); b != 0 {
		t.Errorf("a negative value lies in bucket %d", b)
	}
}

func TestQuantiles(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var a, b histogram
	values := make([]int64, 20_000)
	for i := range values {
		values[i] = int64(1e4 * rng.ExpFloat64() * (1 + 100*rng.Float64()))
		if i%3 == 0 {
			a.add(values[i])
		} else {
			b.add(values[i])
		}
	}
	a.merge(&b)
	slices.Sort(values)
	for _, q := range []float64{0, 0.25, 0.5, 0.9, 0.99, 0.999, 1} {
		want := values[min(int(q*float64(len(values))), len(values)-1)]
		if got := a.quantile(q); got < want || float64(got-want) > 0.01*float64(want) {
			t.Errorf("quantile %v is %d, want %d", q, got, want)
		}
	}
	got := a.quantiles()
	if got.Max != time.Duration(values[len(values)-1]) || got.Mean <= 0 || got.P99 < got.P50 {
		t.Errorf("%+v", got)
	}
	var empty histogram
	if got := empty.quantiles(); got != (Quantiles{}) {
		t.Errorf("of nothing: %+v", got)
	}
}
