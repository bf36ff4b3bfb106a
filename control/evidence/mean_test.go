package evidence

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"
)

// TestMeanExpectation sums over all arms and rewards of six requests whose means
// and propensities change: e-values are 1 on average at the edge of their null
// hypothesis, and at most 1 within it.
func TestMeanExpectation(t *testing.T) {
	rhos := []float64{0.05, 0.2, 0.5, 0.5, 0.9, 0.3}
	means := []float64{0.2, 0.9, 0.5, 0.7, 0.3, 0.6}
	rewards := []float64{0, 0.4, 1}
	// chances of the rewards such that their mean is m.
	chances := func(m float64) [3]float64 {
		middle := min(m, 1-m) / 2
		high := m - 0.4*middle
		return [3]float64{1 - middle - high, middle, high}
	}
	expect := func(lower float64, logE func(*Mean) float64) float64 {
		var walk func(i int, m Mean, p float64) float64
		walk = func(i int, m Mean, p float64) (sum float64) {
			if i == len(rhos) {
				return p * math.Exp(logE(&m))
			}
			for arm := range 2 {
				share, mean := 1-rhos[i], means[i]
				if arm == 1 {
					share, mean = rhos[i], means[i]-lower
				}
				for k, chance := range chances(mean) {
					next := m
					if !next.Observe(arm == 1, rhos[i], rewards[k]) {
						t.Fatal("a reward was refused")
					}
					sum += walk(i+1, next, p*share*chance)
				}
			}
			return sum
		}
		return walk(0, Mean{Margin: 0.05, WideMargin: 0.1}, 1)
	}
	near(t, "Harm of equal means", expect(0, (*Mean).Harm), 1)
	near(t, "Sound at the margin", expect(0.05, (*Mean).Sound), 1)
	near(t, "Tolerable at the margin", expect(0.1, (*Mean).Tolerable), 1)
	f := func(what string, e float64, high bool) {
		t.Helper()
		if e > 1 != high {
			t.Errorf("%s is %v on average", what, e)
		}
	}
	f("Harm of a better canary", expect(-0.05, (*Mean).Harm), false)
	f("Harm of a worse canary", expect(0.15, (*Mean).Harm), true)
	f("Sound beyond the margin", expect(0.15, (*Mean).Sound), false)
	f("Sound of a sound canary", expect(0, (*Mean).Sound), true)
}

func TestMeanRefuses(t *testing.T) {
	var m Mean
	f := func(rho, reward float64) {
		t.Helper()
		if m.Observe(true, rho, reward) || m.Observe(false, rho, reward) || m != (Mean{}) {
			t.Errorf("a reward of %v with propensity %v was counted", reward, rho)
		}
	}
	f(0, 0.5)
	f(1, 0.5)
	f(math.NaN(), 0.5)
	f(0.5, math.NaN())
	f(0.5, -0.1)
	f(0.5, 1.1)
	f(0.5, math.Inf(1))
	if m.Harm() != 0 || m.Sound() != 0 || m.Tolerable() != 0 {
		t.Error("there is evidence without data")
	}
}

func TestMeanExtremes(t *testing.T) {
	f := func(rho, canary, stable float64) {
		t.Helper()
		m := Mean{Margin: 0.01, WideMargin: 1}
		for range 2000 {
			m.Observe(true, rho, canary)
			m.Observe(false, rho, stable)
		}
		for _, e := range []float64{m.Harm(), m.Sound(), m.Tolerable()} {
			if math.IsNaN(e) || math.IsInf(e, 0) {
				t.Errorf("rho %v, means %v and %v: got %v", rho, canary, stable, e)
			}
		}
	}
	for _, rho := range []float64{1e-300, 1e-9, 0.5, 1 - 1e-16} {
		f(rho, 0, 1)
		f(rho, 1, 0)
		f(rho, 0, 0)
		f(rho, 1, 1)
		f(rho, 0.5, 0.5)
	}
}

func TestMeanMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 9))
	a, b := Mean{Margin: 0.05}, Mean{Margin: 0.05}
	for range 500 {
		a.Observe(r.IntN(2) == 0, 0.5, r.Float64())
		b.Observe(r.IntN(2) == 0, 0.5, r.Float64())
	}
	text, err := json.Marshal(b)
	if err != nil {
		t.Fatal(err)
	}
	var restored Mean
	if err := json.Unmarshal(text, &restored); err != nil || restored != b {
		t.Fatalf("got %v, want %v: %v", restored, b, err)
	}
	sum := a
	sum.Merge(restored)
	for i := range fractions {
		near(t, "capital", sum.HarmBets[i], a.HarmBets[i]+b.HarmBets[i])
		near(t, "capital", sum.SoundBets[i], a.SoundBets[i]+b.SoundBets[i])
		near(t, "capital", sum.WideBets[i], a.WideBets[i]+b.WideBets[i])
	}
	if sum.Canary.N+sum.Stable.N != 1000 {
		t.Errorf("%d rewards", sum.Canary.N+sum.Stable.N)
	}
	if s := (Sum{4, 3}).String() + (Sum{}).String(); s != "0.75 over 4none" {
		t.Errorf("got %q", s)
	}
}

func BenchmarkMeanObserve(b *testing.B) {
	b.ReportAllocs()
	m := Mean{Margin: 0.05, WideMargin: 0.1}
	for i := 0; b.Loop(); i++ {
		m.Observe(i&1 == 0, 0.1, float64(i&3)/3)
	}
}
