package plot

import (
	"math"
	"strings"
	"testing"
)

func TestDraw(t *testing.T) {
	nan := math.NaN()
	f := func(c Chart, want string) {
		t.Helper()
		var b strings.Builder
		if err := c.Draw(&b); err != nil {
			t.Fatal(err)
		}
		if got := "\n" + b.String(); got != want {
			t.Errorf("got%s\nwant%s", got, want)
		}
	}
	f(Chart{
		Xs: []string{"1", "2", "16"}, XName: "rows", YName: "rows/s", Height: 5,
		Series: []Series{{'a', "one", []float64{1000, 2000, 4000}},
			{'b', "two", []float64{1000, nan, 0}}},
	}, `
rows/s
4,000 |           a
      |
2,000 |       a
      |   *
    0 |           b
      +------------
          1   2  16  rows
       a  one
       b  two
       *  several of them
`)
	f(Chart{Xs: []string{"x"}, YName: "y", Height: 2,
		Series: []Series{{'a', "none", []float64{nan}}}}, `
y
1 |
0 |
  +---
     x
   a  none
`)
	// More values than places, infinities and negative ones do not break it.
	f(Chart{Xs: []string{"1", "2"}, YName: "y", Height: 2,
		Series: []Series{{'a', "odd", []float64{math.Inf(1), -5, 9}}}}, `
y
9 |
0 |     a
  +------
     1  2
   a  odd
`)
	var b strings.Builder
	if err := (&Chart{}).Draw(&b); err != nil || len(strings.Split(b.String(), "\n")) < 12 {
		t.Errorf("an empty chart is %q, %v", b.String(), err)
	}
}

func TestNumber(t *testing.T) {
	f := func(v float64, want string) {
		t.Helper()
		if got := Number(v); got != want {
			t.Errorf("Number(%v) = %s, want %s", v, got, want)
		}
	}
	f(0, "0")
	f(0.126, "0.13")
	f(3, "3")
	f(42.25, "42.2")
	f(99.99, "100")
	f(999.6, "1,000")
	f(1234567, "1,234,567")
	f(-1234, "-1,234")
	f(math.NaN(), "-")
	f(math.Inf(-1), "-")
}
