package evidence

import (
	"math"
	"testing"
)

// binomial is the probability of k of n, computed by multiplication.
func binomial(n, k int, p float64) float64 {
	x := 1.0
	for i := range k {
		x *= float64(n-i) / float64(i+1) * p
	}
	return x * math.Pow(1-p, float64(n-k))
}

// TestRateExpectation sums over all numbers of bad answers.
func TestRateExpectation(t *testing.T) {
	const n = 40
	expect := func(p float64, logE func(Rate) float64) (sum float64) {
		for k := range n + 1 {
			sum += binomial(n, k, p) * math.Exp(logE(Rate{Bad: uint64(k), Good: uint64(n - k)}))
		}
		return sum
	}
	for _, p0 := range []float64{0.001, 0.02, 0.3, 0.9} {
		harm := func(r Rate) float64 { return r.Harm(p0) }
		sound := func(r Rate) float64 { return r.Sound(p0) }
		near(t, "Harm at the allowed rate", expect(p0, harm), 1)
		near(t, "Sound at the allowed rate", expect(p0, sound), 1)
		if e := expect(p0/2, harm); e >= 1 {
			t.Errorf("Harm below the allowed rate is %v on average", e)
		}
		if e := expect(math.Sqrt(p0), sound); e >= 1 {
			t.Errorf("Sound above the allowed rate is %v on average", e)
		}
	}
}

// TestRateFormula compares with formula G as it is written.
func TestRateFormula(t *testing.T) {
	f := func(bad, good uint64, p0 float64) {
		t.Helper()
		sum := 0.0
		for _, r := range risks {
			odds := r * p0 / (1 - p0)
			p := odds / (1 + odds)
			sum += math.Pow(p/p0, float64(bad)) * math.Pow((1-p)/(1-p0), float64(good))
		}
		near(t, "Harm", Rate{bad, good}.Harm(p0), math.Log(sum/float64(len(risks))))
	}
	f(0, 1, 0.02)
	f(1, 0, 0.02)
	f(10, 100, 0.02)
	f(2, 100, 0.05)
	f(70, 30, 0.5)
}

func TestRateExtremes(t *testing.T) {
	for _, p0 := range []float64{0, 1, -1, 2, math.NaN(), math.Inf(1)} {
		if r := (Rate{5, 5}); r.Harm(p0) != 0 || r.Sound(p0) != 0 {
			t.Errorf("there is evidence about a rate of %v", p0)
		}
	}
	huge := Rate{20_000_000, 980_000_000}
	if huge.Harm(0.0175) < 100 || huge.Sound(0.03) < 100 || huge.Harm(0.0201) > 0 {
		t.Errorf("a thousand million answers say %v, %v, %v", huge.Harm(0.0175), huge.Sound(0.03),
			huge.Harm(0.0201))
	}
	if low, high := huge.Between(0.05); low > 0.02 || high < 0.02 || low < 0.015 || high > 0.025 {
		t.Errorf("a rate of 0.02 lies in %v to %v", low, high)
	}
	if low, high := (Rate{}).Between(0.05); low > 1e-9 || high < 1-1e-9 {
		t.Errorf("without data a rate is in %v to %v", low, high)
	}
	if low, high := (Rate{Good: 1000}).Between(0.05); low > 1e-9 || high > 0.01 || high < 0.003 {
		t.Errorf("without a bad one in 1000 the rate is in %v to %v", low, high)
	}
	var r Rate
	r.Observe(true)
	r.Observe(false)
	r.Merge(Rate{1, 1})
	if r != (Rate{2, 2}) {
		t.Errorf("got %v", r)
	}
}

func TestRateString(t *testing.T) {
	f := func(r Rate, want string) {
		t.Helper()
		if r.String() != want {
			t.Errorf("got %q, want %q", r.String(), want)
		}
	}
	f(Rate{}, "none")
	f(Rate{31, 989}, "31 of 1020 (3.04 %)")
	f(Rate{0, 7}, "0 of 7 (0 %)")
	f(Rate{7, 0}, "7 of 7 (100 %)")
}
