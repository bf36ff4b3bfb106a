package evidence

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestLatencyOfVersions watches quantiles in histograms with a canary's share of
// 20 %, every hundred requests.
func TestLatencyOfVersions(t *testing.T) {
	watch := func(r *rand.Rand, l *Latency, slower float64) int {
		canary, stable := make([]uint64, len(octave8)), make([]uint64, len(octave8))
		for i := range horizon / 5 {
			x := 0.02 * math.Exp(r.NormFloat64()/2)
			if r.Float64() < 0.2 {
				canary[l.notBelow(x*slower)]++
			} else {
				stable[l.notBelow(x)]++
			}
			if i%100 == 99 && l.Harm(canary, stable) >= enough(simAlpha) {
				return i
			}
		}
		return horizon
	}
	f := func(name string, quantile, slower, want float64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(6, 6))
			l := mustLatency(t, quantile, 1)
			stopped := make([]int, count(200))
			for i := range stopped {
				stopped[i] = watch(r, l, slower)
			}
			if want == 0 {
				atMost(t, alarms(stopped), len(stopped), simAlpha)
				return
			}
			median(t, stopped, want)
		})
	}
	f("p50", 0.5, 1, 0)
	f("p95", 0.95, 1, 0)
	f("p99", 0.99, 1, 0)
	f("p50 +20 %", 0.5, 1.2, 2800)
	f("p95 +50 %", 0.95, 1.5, 700)
	f("p99 +50 %", 0.99, 1.5, 2200)
}

// TestSlowUnderDrift has latencies that double while the canary's share rises. Both
// arms have the same at each instant. Histograms over all steps give false alarms,
// which is why Latency is for one step; slow requests counted with their
// propensities do not.
func TestSlowUnderDrift(t *testing.T) {
	const every = 5 // of the usual requests is simulated
	r := rand.New(rand.NewPCG(8, 8))
	l := mustLatency(t, 0.95, 1)
	pooled, slow := 0, 0
	runs := count(400)
	for range runs {
		canary, stable := make([]uint64, len(octave8)), make([]uint64, len(octave8))
		var tally Tally
		pooledAlarm, slowAlarm := false, false
		for i := 0; i < horizon; i += every {
			rho := ramp(i)
			x := 0.02 * math.Exp(r.NormFloat64()/2) * (1 + float64(i)/horizon)
			b := l.notBelow(x)
			isCanary := r.Float64() < rho
			if isCanary {
				canary[b]++
			} else {
				stable[b]++
			}
			if x > 0.06 {
				tally.Observe(isCanary, rho)
				slowAlarm = slowAlarm || isCanary && tally.Harm() >= enough(simAlpha)
			}
			if i%1000 == 0 {
				pooledAlarm = pooledAlarm || l.Harm(canary, stable) >= enough(simAlpha)
			}
		}
		if pooledAlarm {
			pooled++
		}
		if slowAlarm {
			slow++
		}
	}
	if pooled < runs/2 {
		t.Errorf("with histograms over all steps, only %d of %d runs give an alarm", pooled, runs)
	}
	atMost(t, slow, runs, simAlpha)
}
