package evidence

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// version is how a simulated canary differs from its stable version.
type version struct {
	risk     float64 // its errors are as many times as likely
	disagree float64 // the share of its answers that differ from the stable one's
}

// rollout is a rollout of steps of 1, 5, 25 and 50 % with 100 requests a second,
// sticky users, a twentieth of whom have most of the errors, and error rates that
// rise and fall by a third.
type rollout struct {
	version
	r        *rand.Rand
	users    []user
	rule     Rule
	errors   Tally // first errors of users
	answers  Rate  // of the canary: errors against what is allowed in any case
	differ   Rate  // answers of the canary that were compared
	once     *trial.Once
	requests int
}

type user struct{ place, prone float64 }

func newRollout(r *rand.Rand, v version) *rollout {
	ro := &rollout{version: v, r: r, users: make([]user, 20_000), once: trial.NewOnce(20_000)}
	for i := range ro.users {
		ro.users[i] = user{r.Float64(), 0.002}
		if r.IntN(20) == 0 {
			ro.users[i].prone = 0.05
		}
	}
	ro.rule = Rule{Alpha: 0.05, Beta: 0.05, MinRequests: 200, MinTime: time.Minute,
		MaxDwell: 20 * time.Minute}
	return ro
}

// run returns how the rollout ended, watched at every request.
func (ro *rollout) run() Decision {
	var d Decision
	for _, rho := range []float64{0.01, 0.05, 0.25, 0.5} {
		if d = ro.step(rho); d.Verdict != Promote {
			return d
		}
	}
	return d
}

func (ro *rollout) step(rho float64) Decision {
	look := Look{}
	for i := 1; ; i++ {
		ro.requests++
		look.Elapsed = time.Duration(i) * 10 * time.Millisecond
		if ro.request(rho, &look) || i%100 == 0 {
			look.Guards = ro.guards()
			if d := ro.rule.Decide(look); d.Verdict != Continue {
				return d
			}
		}
	}
}

// request says whether evidence of harm may have risen.
func (ro *rollout) request(rho float64, look *Look) bool {
	u := ro.r.IntN(len(ro.users))
	canary := ro.users[u].place < rho
	p := ro.users[u].prone * (2./3 + swing(ro.requests)*2/3)
	if canary {
		p *= ro.risk
	}
	bad := ro.r.Float64() < p
	if bad && ro.once.First(uint64(u)) {
		ro.errors.Observe(canary, rho)
	}
	differs := false
	if canary {
		look.Requests++
		ro.answers.Observe(bad)
		differs = ro.r.Float64() < ro.disagree
		ro.differ.Observe(differs)
	}
	return canary && bad || differs
}

func (ro *rollout) guards() []Guard {
	return []Guard{{
		Name: "errors", Facts: ro.answers.String(), Harm: ro.errors.Harm(),
		Sound:     Average(ro.errors.Sound(0.5), ro.answers.Sound(0.03)),
		Tolerable: Average(ro.errors.Sound(1), ro.answers.Sound(0.05)),
	}, {
		Name: "disagreement", Facts: ro.differ.String(), Harm: ro.differ.Harm(0.02),
		Sound: ro.differ.Sound(0.02), Tolerable: ro.differ.Sound(0.04),
	}}
}

// TestRollouts runs whole rollouts: at most alpha of the sound versions may be
// rolled back, and at least 95 % of the bad ones must be, by the right guard.
func TestRollouts(t *testing.T) {
	f := func(name string, v version, guard string) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := rand.New(rand.NewPCG(11, 12))
			runs := count(400)
			if guard != "" {
				runs /= 2
			}
			ends := map[Verdict]int{}
			blamed, requests := 0, 0
			var last Decision
			for range runs {
				ro := newRollout(r, v)
				last = ro.run()
				ends[last.Verdict]++
				requests += ro.requests
				if last.Verdict == RollBack && last.Guard == guard {
					blamed++
				}
			}
			t.Logf("%v, %d requests on average; as in %q", ends, requests/runs, last.Reason)
			if guard == "" {
				atMost(t, ends[RollBack], runs, simAlpha)
				if ends[Promote] < runs*90/100 {
					t.Errorf("only %d of %d sound versions were promoted", ends[Promote], runs)
				}
			} else if blamed < runs*95/100 {
				t.Errorf("only %d of %d versions were rolled back by %s", blamed, runs, guard)
			}
		})
	}
	f("sound", version{1, 0.005}, "")
	f("errors", version{6, 0.005}, "errors")
	f("disagreement", version{1, 0.05}, "disagreement")
}
