package evidence

import (
	"math"
	"math/rand/v2"
	"testing"
)

// feedback is a simulated metric: the canary's mean is lower by so much than the
// stable version's, which moves with the day and the ramp.
type feedback struct {
	rho    func(i int) float64
	mean   func(i int) float64
	lower  float64
	binary bool // or else within 0.2 of the mean
}

// watch observes until the evidence speaks and returns after how many requests,
// horizon if it does not. It has so many requests for the whole ramp.
func (fb feedback) watch(r *rand.Rand, requests int, logE func(*Mean) float64) int {
	m := Mean{Margin: 0.05, WideMargin: 0.1}
	for i := range requests {
		at := i * (horizon / requests)
		rho, mean := fb.rho(at), fb.mean(at)
		canary := r.Float64() < rho
		if canary {
			mean -= fb.lower
		}
		reward := mean + 0.4*(r.Float64()-0.5)
		if fb.binary {
			reward = 0
			if r.Float64() < mean {
				reward = 1
			}
		}
		if m.Observe(canary, rho, reward); logE(&m) >= enough(simAlpha) {
			return i
		}
	}
	return horizon
}

func swing(i int) float64 { return 0.5 - 0.25*math.Cos(9*math.Pi*float64(i)/horizon) }

func TestMeanOfSoundVersions(t *testing.T) {
	f := func(name string, fb feedback, logE func(*Mean) float64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(4, 4))
			stopped := make([]int, count(1000))
			for i := range stopped {
				stopped[i] = fb.watch(r, 2000, logE)
			}
			atMost(t, alarms(stopped), len(stopped), simAlpha)
		})
	}
	f("harm, 10 %", feedback{constant(0.1), constant(0.1), 0, true}, (*Mean).Harm)
	f("harm, ramp and drift", feedback{ramp, swing, 0, true}, (*Mean).Harm)
	f("harm, ramp and drift, not 0 or 1", feedback{ramp, swing, 0, false}, (*Mean).Harm)
	f("sound at the margin", feedback{ramp, swing, 0.05, true}, (*Mean).Sound)
}

func TestMeanOfBadVersions(t *testing.T) {
	f := func(name string, fb feedback, logE func(*Mean) float64, want float64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(5, 5))
			stopped := make([]int, count(500))
			for i := range stopped {
				stopped[i] = fb.watch(r, 10_000, logE)
			}
			median(t, stopped, want)
		})
	}
	f("0.5 to 0.4", feedback{constant(0.2), constant(0.5), 0.1, true}, (*Mean).Harm, 1120)
	f("0.5 to 0.45", feedback{constant(0.2), swing, 0.05, false}, (*Mean).Harm, 750)
	f("sound", feedback{constant(0.5), swing, 0, false}, (*Mean).Sound, 325)
}
