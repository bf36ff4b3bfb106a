package evidence

import (
	"encoding/json"
	"math"
	"math/big"
	"math/rand/v2"
	"testing"

	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// near wants two numbers to be the same but for rounding.
func near(t *testing.T, what string, got, want float64) {
	t.Helper()
	if !(math.Abs(got-want) <= 1e-9*max(1, math.Abs(want))) {
		t.Errorf("%s: got %.12g, want %.12g", what, got, want)
	}
}

// each calls f for all ways in which n events can fall on two arms.
func each(n int, f func(canary []bool)) {
	arms := make([]bool, n)
	for way := range 1 << n {
		for i := range arms {
			arms[i] = way>>i&1 == 1
		}
		f(arms)
	}
}

// theta is the probability that an event is the canary's at a relative risk of r.
func theta(rho, r float64) float64 { return rho * r / (rho*r + 1 - rho) }

// TestTallyExpectation sums over everything that can happen with ten events, with
// propensities of a ramp and a bandit: e-values are 1 on average at the edge of
// their null hypothesis, below 1 within it, and above 1 outside.
func TestTallyExpectation(t *testing.T) {
	rhos := []float64{0.01, 0.05, 0.2, 0.5, 0.5, 0.9, 0.3, 0.3, 0.05, 0.999}
	expect := func(r float64, logE func(Tally) float64) (sum float64) {
		each(len(rhos), func(canary []bool) {
			p := 1.0
			var tally Tally
			for i, rho := range rhos {
				tally.Observe(canary[i], rho)
				if th := theta(rho, r); canary[i] {
					p *= th
				} else {
					p *= 1 - th
				}
			}
			sum += p * math.Exp(logE(tally))
		})
		return sum
	}
	harm := func(y Tally) float64 { return y.Harm() }
	sound := func(y Tally) float64 { return y.Sound(0.5) }
	near(t, "Harm without a difference", expect(1, harm), 1)
	near(t, "Sound at its margin", expect(1.5, sound), 1)
	near(t, "Mismatch of a right split", expect(1, Tally.Mismatch), 1)
	if e := expect(0.7, harm); e >= 1 {
		t.Errorf("Harm of a better canary is %v on average", e)
	}
	if e := expect(2, sound); e >= 1 {
		t.Errorf("Sound of a canary beyond its margin is %v on average", e)
	}
	if e := expect(3, harm); e <= 1 {
		t.Errorf("Harm of a worse canary is %v on average", e)
	}
	if e := expect(1, sound); e <= 1 {
		t.Errorf("Sound of a sound canary is %v on average", e)
	}
}

// TestTallyFormula compares with the formula of each event, multiplied up in 200
// bits and without logarithms.
func TestTallyFormula(t *testing.T) {
	number := func(x float64) *big.Float { return new(big.Float).SetPrec(200).SetFloat64(x) }
	r := rand.New(rand.NewPCG(1, 2))
	var tally Tally
	products := make([]*big.Float, len(risks))
	for i := range products {
		products[i] = number(1)
	}
	for range 3000 {
		rho := []float64{0.01, 0.05, 0.1, 0.5}[r.IntN(4)]
		canary := r.Float64() < theta(rho, 2)
		tally.Observe(canary, rho)
		for i, risk := range risks {
			below := new(big.Float).Sub(number(1), number(rho))
			below.Add(below, new(big.Float).Mul(number(rho), number(risk)))
			factor := number(1)
			if canary {
				factor = number(risk)
			}
			products[i].Mul(products[i], factor.Quo(factor, below))
		}
	}
	sum := number(0)
	for _, p := range products {
		sum.Add(sum, p)
	}
	sum.Quo(sum, number(float64(len(risks))))
	mantissa := new(big.Float)
	exponent := sum.MantExp(mantissa)
	m, _ := mantissa.Float64()
	near(t, "Harm", tally.Harm(), math.Log(m)+float64(exponent)*math.Ln2)
}

// TestTallyVille adds up the exact probability that E ever exceeds 1/alpha in 14
// events.
func TestTallyVille(t *testing.T) {
	const n, alpha = 14, 0.2
	rho := func(i int) float64 { return []float64{0.1, 0.3, 0.5}[i%3] }
	alarms := 0.0
	each(n, func(canary []bool) {
		p, over := 1.0, false
		var tally Tally
		for i, c := range canary {
			tally.Observe(c, rho(i))
			over = over || tally.Harm() >= enough(alpha)
			if c {
				p *= rho(i)
			} else {
				p *= 1 - rho(i)
			}
		}
		if over {
			alarms += p
		}
	})
	if alarms > alpha || alarms == 0 {
		t.Errorf("a false alarm with a chance of %v, %v is allowed", alarms, alpha)
	}
}

func TestTallyRefuses(t *testing.T) {
	var tally Tally
	f := func(rho float64) {
		t.Helper()
		if tally.Observe(true, rho) || tally.Observe(false, rho) || len(tally) > 0 {
			t.Errorf("a propensity of %v was counted", rho)
		}
	}
	f(0)
	f(1)
	f(-0.1)
	f(1.1)
	f(math.NaN())
	f(math.Inf(1))
	f(math.Inf(-1))
	if tally.Harm() != 0 || tally.Sound(0.5) != 0 || tally.Mismatch() != 0 {
		t.Error("there is evidence without data")
	}
	if low, high := tally.Risk(0.05); low != 0 || !math.IsInf(high, 1) {
		t.Errorf("without data the risk is %v to %v", low, high)
	}
	for i := range maxCells {
		tally.Observe(true, (float64(i)+1)/(maxCells+2))
	}
	before := tally.Harm()
	if tally.Observe(true, 0.123456) || tally.Harm() != before {
		t.Error("a tally has no bound")
	}
	if !tally.Observe(false, 1./(maxCells+2)) {
		t.Error("a full tally does not count a propensity that it has")
	}
}

func TestTallyHuge(t *testing.T) {
	f := func(tally Tally, harm, sound int) {
		t.Helper()
		low, high := tally.Risk(0.05)
		for _, x := range []float64{tally.Harm(), tally.Sound(0.5), tally.Mismatch(), low} {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				t.Errorf("%v: got %v", tally, x)
			}
		}
		if !(low < high) {
			t.Errorf("%v: the risk is %v to %v", tally, low, high)
		}
		check := func(what string, x float64, sign int) {
			if x*float64(sign) < 0 || x == 0 {
				t.Errorf("%v: %s is %v", tally, what, x)
			}
		}
		check("Harm", tally.Harm(), harm)
		check("Sound", tally.Sound(0.5), sound)
	}
	f(Tally{{0.1, 1e9, 9e9}}, -1, 1)
	f(Tally{{0.1, 2e9, 9e9}}, 1, -1)
	f(Tally{{1e-300, 1e9, 1}}, 1, -1)
	f(Tally{{1 - 1e-16, 1e9, 1e9}}, -1, 1)
	f(Tally{{0.5, 1e18, 1e18}}, -1, 1)
	f(Tally{{0.01, 1e6, 99e6}, {0.5, 1e9, 1e9}}, -1, 1)
}

// TestRisk holds the bounds against the tests that they are made from.
func TestRisk(t *testing.T) {
	tally := Tally{{0.05, 30, 190}, {0.2, 100, 150}}
	low, high := tally.Risk(0.05)
	near(t, "evidence at the lower bound", tally.above(low), enough(0.05))
	near(t, "evidence at the upper bound", tally.below(high), enough(0.05))
	truth := 100. / 150 * 0.8 / 0.2
	if low > truth || high < truth || low < truth/2 || high > truth*2 {
		t.Errorf("the risk is %v to %v", low, high)
	}
}

func TestTallyMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var all, a, b Tally
	for range 1000 {
		rho := []float64{0.01, 0.05, 0.2}[r.IntN(3)]
		canary := r.Float64() < rho
		all.Observe(canary, rho)
		if r.IntN(2) == 0 {
			a.Observe(canary, rho)
		} else {
			b.Observe(canary, rho)
		}
	}
	near(t, "likelihood", a.likelihood(3)+b.likelihood(3), all.likelihood(3))
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var restored Tally
	if err := json.Unmarshal(text, &restored); err != nil {
		t.Fatal(err)
	}
	a.Merge(restored)
	if a.Harm() != all.Harm() || a.Sound(1) != all.Sound(1) {
		t.Error("the evidence of two replicas is not that of one")
	}
	if x, y := all.Totals(); x+y != 1000 {
		t.Errorf("%d events", x+y)
	}
}

func TestTallyJSON(t *testing.T) {
	f := func(text string) {
		t.Helper()
		var tally Tally
		if err := json.Unmarshal([]byte(text), &tally); err == nil {
			t.Errorf("%s was read as %v", text, tally)
		}
	}
	f(`[{"rho": 0}]`)
	f(`[{"rho": 1}]`)
	f(`[{"rho": 0.5, "canary": -1}]`)
	f(`{}`)
	f(`[{"rho": "x"}]`)
	var tally Tally
	err := json.Unmarshal([]byte(`[{"rho": 0.5, "canary": 1}, {"rho": 0.1}, {"rho": 0.5}]`), &tally)
	if err != nil || len(tally) != 2 || tally[0].Rho != 0.1 || tally[1].Canary != 1 {
		t.Errorf("got %v, %v", tally, err)
	}
}

func TestAllocations(t *testing.T) {
	tally := Tally{{Rho: 0.01}, {Rho: 0.05}}
	var mean Mean
	once := trial.NewOnce(1000)
	user := uint64(0)
	n := testing.AllocsPerRun(100, func() {
		tally.Observe(true, 0.05)
		mean.Observe(true, 0.05, 0.5)
		user++
		once.First(user)
		tally.Harm()
		tally.Sound(0.5)
	})
	if n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkTallyObserve(b *testing.B) {
	b.ReportAllocs()
	var tally Tally
	for _, rho := range []float64{0.01, 0.05, 0.2, 0.5, 0.25, 0.75} {
		tally.Observe(true, rho)
	}
	for i := 0; b.Loop(); i++ {
		tally.Observe(i&1 == 0, tally[i%6].Rho)
	}
}

func BenchmarkTallyHarm(b *testing.B) {
	tally := Tally{{0.01, 5, 400}, {0.05, 20, 400}, {0.2, 100, 400}, {0.5, 400, 400}}
	for b.Loop() {
		tally.Harm()
	}
}
