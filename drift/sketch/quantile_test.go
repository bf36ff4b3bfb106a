package sketch

import (
	"math"
	"testing"
)

func TestQuantile(t *testing.T) {
	l, err := Numeric([]float64{-10, 0, 10, 20})
	if err != nil {
		t.Fatal(err)
	}
	f := func(counts []uint64, share, want float64) {
		t.Helper()
		x, ok := l.Quantile(counts, share)
		if ok == math.IsNaN(want) || ok && math.Abs(x-want) > 1e-9 {
			t.Errorf("%v: of %v is below %v, %v; want %v", share, counts, x, ok, want)
		}
	}
	// below, [-10 0), [0 10), [10 20], above, missing, not a number
	f([]uint64{0, 10, 10, 20, 0, 5, 5}, .25, 0)
	f([]uint64{0, 10, 10, 20, 0, 5, 5}, .5, 10)
	f([]uint64{0, 10, 10, 20, 0, 5, 5}, .75, 15)
	f([]uint64{0, 10, 10, 20, 0, 0, 0}, 0, -10)
	f([]uint64{0, 10, 10, 20, 0, 0, 0}, 1, 20)
	f([]uint64{0, 10, 10, 20, 0, 0, 0}, 7, 20)
	f([]uint64{9, 1, 0, 0, 90, 0, 0}, .05, -10)
	f([]uint64{9, 1, 0, 0, 90, 0, 0}, .5, 20)
	f([]uint64{0, 0, 0, 0, 0, 5, 5}, .5, math.NaN())
	f(nil, .5, math.NaN())
	c, err := Categorical([]string{"a"})
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := c.Quantile([]uint64{1, 0, 0}, .5); ok {
		t.Errorf("half of the categories are below %v", x)
	}
	big, err := Numeric([]float64{-math.MaxFloat64, math.MaxFloat64})
	if err != nil {
		t.Fatal(err)
	}
	if x, ok := big.Quantile([]uint64{0, 4, 0, 0, 0}, .5); !ok || x != 0 {
		t.Errorf("the middle of the greatest numbers is %v", x)
	}
}
