package evidence

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// The promises, kept or not by simulated rollouts with fixed seeds: of sound
// versions that are watched at every request at most alpha may be found harmful.
const (
	simAlpha = 0.05
	horizon  = 50_000 // requests
)

// count returns how many runs there are: fewer when tests must be short.
func count(all int) int {
	if testing.Short() {
		return all / 10
	}
	return all
}

// atMost wants no more alarms than alpha allows, with three standard deviations of
// slack.
func atMost(t *testing.T, alarms, runs int, alpha float64) {
	t.Helper()
	n := float64(runs)
	allowed := n*alpha + 3*math.Sqrt(n*alpha*(1-alpha))
	t.Logf("%d alarms in %d runs, %.2f %%", alarms, runs, 100*float64(alarms)/n)
	if float64(alarms) > allowed {
		t.Errorf("%d alarms in %d runs, at most %.0f are allowed", alarms, runs, allowed)
	}
}

// median wants the median of the requests until an alarm, horizon without one, to
// be as measured before within a tenth, or a quarter for few runs.
func median(t *testing.T, requests []int, want float64) {
	t.Helper()
	slices.Sort(requests)
	found := 0
	for _, n := range requests {
		if n < horizon {
			found++
		}
	}
	got := float64(requests[len(requests)/2])
	t.Logf("median %.0f requests, found in %.1f %% of %d runs", got,
		100*float64(found)/float64(len(requests)), len(requests))
	tolerance := 0.1
	if testing.Short() {
		tolerance = 0.25
	}
	if math.Abs(got-want) > tolerance*want {
		t.Errorf("the median is %.0f requests, want %.0f", got, want)
	}
}

// traffic is what a simulated rollout does: the canary's share and the error rates
// of both arms at each request.
type traffic struct {
	rho    func(i int) float64
	stable func(i int) float64
	risk   float64 // the canary's error rate is as many times the stable version's
}

func constant(x float64) func(int) float64 { return func(int) float64 { return x } }

// ramp goes through the steps 1, 5, 20, 50 %.
func ramp(i int) float64 { return []float64{0.01, 0.05, 0.2, 0.5}[min(i/(horizon/4), 3)] }

// drift moves between 0.2 and 5 %, so that it is high in steps with a high share.
func drift(i int) float64 {
	x := float64(i) / horizon
	return 0.002 * math.Pow(25, 0.5-0.5*math.Cos(5*math.Pi*x))
}

// errors calls f for each error, which says whether to go on, and returns at which
// request it stopped. It skips to the next request that may fail at the highest
// rate, which takes the time of a tenth of the requests.
func (tr traffic) errors(r *rand.Rand, f func(i int, canary bool, rho float64) bool) int {
	highest := 0.05 * max(tr.risk, 1)
	for i := -1; ; {
		i += 1 + int(math.Log(1-r.Float64())/math.Log1p(-highest))
		if i >= horizon {
			return horizon
		}
		rho, p := tr.rho(i), tr.stable(i)
		canary := r.Float64() < rho
		if canary {
			p *= tr.risk
		}
		if r.Float64()*highest < p && !f(i, canary, rho) {
			return i
		}
	}
}

// watch runs rollouts until the evidence speaks and returns after how many
// requests each stopped. It looks after errors of one arm, as evidence of harm only
// rises by those of the canary, and that of Sound by those of the stable version:
// to look at every request would find nothing else.
func (tr traffic) watch(runs int, rises bool, logE func(Tally) float64) []int {
	r := rand.New(rand.NewPCG(20, 26))
	stopped := make([]int, runs)
	for run := range stopped {
		var tally Tally
		stopped[run] = tr.errors(r, func(_ int, canary bool, rho float64) bool {
			tally.Observe(canary, rho)
			return canary != rises || logE(tally) < enough(simAlpha)
		})
	}
	return stopped
}

func alarms(stopped []int) (n int) {
	for _, at := range stopped {
		if at < horizon {
			n++
		}
	}
	return n
}

func TestErrorsOfSoundVersions(t *testing.T) {
	f := func(name string, tr traffic, runs int) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			harm := tr.risk <= 1
			logE := Tally.Harm
			if !harm {
				logE = func(y Tally) float64 { return y.Sound(tr.risk - 1) }
			}
			stopped := tr.watch(count(runs), harm, logE)
			atMost(t, alarms(stopped), len(stopped), simAlpha)
		})
	}
	f("harm, 10 %", traffic{constant(0.1), constant(0.01), 1}, 4000)
	f("harm, ramp and drift", traffic{ramp, drift, 1}, 2000)
	f("harm, better canary", traffic{ramp, drift, 0.9}, 1000)
	f("sound, 50 %", traffic{constant(0.5), constant(0.01), 1.5}, 2000)
	f("sound, ramp and drift", traffic{ramp, drift, 1.5}, 1000)
}

// TestErrorsOfBadVersions reproduces the medians that were measured when the test
// was chosen among others.
func TestErrorsOfBadVersions(t *testing.T) {
	f := func(name string, tr traffic, want float64) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			median(t, tr.watch(count(2000), true, Tally.Harm), want)
		})
	}
	f("1 % to 2 %", traffic{constant(0.1), constant(0.01), 2}, 9515)
	f("1 % to 5 %", traffic{constant(0.1), constant(0.01), 5}, 955)
}

// TestStickyUsers has users who stick to an arm, most of whom have no errors and
// some of whom have many. Counting all of them breaks the promise, which shows
// that this test can; counting first errors keeps it.
func TestStickyUsers(t *testing.T) {
	const users = 300
	run := func(r *rand.Rand, once *trial.Once) bool {
		var arm, prone [users]float64
		for u := range users {
			arm[u], prone[u] = r.Float64(), 0.001
			if r.IntN(20) == 0 {
				prone[u] = 0.3
			}
		}
		var tally Tally
		for i := 0; i < horizon; i += 2 { // half of the usual requests
			u := r.IntN(users)
			rho := ramp(i)
			if r.Float64() >= prone[u] || once != nil && !once.First(uint64(u)) {
				continue
			}
			if tally.Observe(arm[u] < rho, rho); tally.Harm() >= enough(simAlpha) {
				return true
			}
		}
		return false
	}
	r := rand.New(rand.NewPCG(7, 7))
	runs := count(1000)
	all, first := 0, 0
	for range runs {
		if run(r, nil) {
			all++
		}
		// Half as many as there are users: many new ones are taken for known.
		if run(r, trial.NewOnce(users/2)) {
			first++
		}
	}
	atMost(t, first, runs, simAlpha)
	if all < runs/5 {
		t.Errorf("with all errors of users counted, only %d of %d runs give an alarm", all, runs)
	}
}

func TestRateOfSoundVersions(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	watch := func(p float64, rises bool, logE func(Rate) float64) []int {
		stopped := make([]int, count(2000))
		for run := range stopped {
			var rate Rate
			stopped[run] = horizon
			for i := range horizon / 5 {
				bad := r.Float64() < p
				rate.Observe(bad)
				// Good answers raise Sound by so little that each tenth is enough.
				if bad == rises && (bad || i%10 == 0) && logE(rate) >= enough(simAlpha) {
					stopped[run] = i
					break
				}
			}
		}
		return stopped
	}
	harm := func(x Rate) float64 { return x.Harm(0.02) }
	sound := func(x Rate) float64 { return x.Sound(0.02) }
	falseHarm, falseSound := watch(0.02, true, harm), watch(0.02, false, sound)
	atMost(t, alarms(falseHarm), len(falseHarm), simAlpha)
	atMost(t, alarms(falseSound), len(falseSound), simAlpha)
	median(t, watch(0.05, true, harm), 195)
	median(t, watch(0.005, false, sound), 330)
}

// TestMismatchOfRightSplits watches a split that is right, and one in which a
// tenth of the canary's requests are lost.
func TestMismatchOfRightSplits(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	watch := func(rho func(int) float64, lost float64) int {
		var tally Tally
		for i := range horizon {
			p := rho(i)
			canary := r.Float64() < p
			if canary && r.Float64() < lost {
				continue
			}
			if tally.Observe(canary, p); i%20 == 0 && tally.Mismatch() >= enough(simAlpha) {
				return i
			}
		}
		return horizon
	}
	runs := count(200)
	right, wrong := make([]int, runs), make([]int, runs)
	for i := range runs {
		right[i], wrong[i] = watch(ramp, 0), watch(ramp, 0.1)
	}
	atMost(t, alarms(right), runs, simAlpha)
	if n := alarms(wrong); n < runs*95/100 {
		t.Errorf("only %d of %d wrong splits were found", n, runs)
	}
}
