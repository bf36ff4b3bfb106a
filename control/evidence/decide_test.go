package evidence

import (
	"math"
	"strings"
	"testing"
	"time"
)

var rule = Rule{Alpha: 0.05, Beta: 0.05, MinRequests: 500, MinTime: 2 * time.Minute,
	MaxDwell: 10 * time.Minute}

func TestDecide(t *testing.T) {
	const facts = "canary 31 of 1020 (3.04 %), stable 92 of 9180 (1 %)"
	guard := func(name string, harm, sound, tolerable float64) Guard {
		return Guard{Name: name, Facts: facts, Harm: harm, Sound: sound, Tolerable: tolerable}
	}
	f := func(l Look, verdict Verdict, guard, reason string) {
		t.Helper()
		d := rule.Decide(l)
		if d.Verdict != verdict || d.Guard != guard || !strings.Contains(d.Reason, reason) ||
			d.Reason == "" {
			t.Errorf("got %v by %q: %s\nwant %v by %q: %s", d.Verdict, d.Guard, d.Reason, verdict,
				guard, reason)
		}
	}
	early, late := 3*time.Minute, 10*time.Minute
	clean := guard("errors", -2, 3.1, 8)
	f(Look{}, Continue, "", "the canary has had 0 of 500 requests in 0s")
	f(Look{Elapsed: late}, Inconclusive, "", "the canary has had 0 of 500 requests in 10m0s")
	f(Look{Requests: 499, Elapsed: late, Guards: []Guard{clean}}, Inconclusive, "", "499 of 500")
	f(Look{Requests: 500, Elapsed: time.Minute, Guards: []Guard{clean}}, Continue, "",
		"1m0s of 2m0s have passed")
	f(Look{Requests: 500, Elapsed: early, Guards: []Guard{clean}}, Promote, "",
		"the canary is within its margins after 500 requests in 3m0s; errors: "+facts)
	f(Look{Requests: 500, Elapsed: early}, Promote, "",
		"after 500 requests in 3m0s no guard is set")

	// Harm is shared by the guards, and does not wait.
	f(Look{Guards: []Guard{guard("errors", 3.1, 9, 9)}}, RollBack, "errors", "errors: "+facts+
		"; a sound version shows this at most once in 22.2 rollouts, the limit is once in 20")
	f(Look{Guards: []Guard{guard("errors", 3.1, 9, 9), clean}}, Continue, "", "0 of 500")
	f(Look{Guards: []Guard{clean, guard("latency", 3.7, 9, 9)}}, RollBack, "latency",
		"the limit is once in 40")
	f(Look{Guards: []Guard{guard("errors", math.Inf(1), 9, 9)}}, RollBack, "errors",
		"at most once in 1e9 rollouts")
	heavy, light := guard("errors", 3.3, 9, 9), guard("latency", 3.3, 9, 9)
	heavy.Weight, light.Weight = 3, 1
	f(Look{Guards: []Guard{light, heavy}}, RollBack, "errors", "the limit is once in 26.7")

	// All must be sound.
	f(Look{Requests: 500, Elapsed: early, Guards: []Guard{clean, guard("latency", 0, 2, 5)}},
		Continue, "latency", "latency neither clears nor condemns the canary: "+facts+
			" (evidence that it is sound is 7.39, needed is 20)")
	f(Look{Requests: 500, Elapsed: late, Guards: []Guard{clean, guard("latency", 0, 2, 5)}},
		Promote, "", "within its wider margins after 500 requests in 10m0s")
	f(Look{Requests: 500, Elapsed: late, Guards: []Guard{clean, guard("latency", 0, 2, 2.5)}},
		Inconclusive, "latency", "after 10m0s latency neither clears nor condemns the canary")

	f(Look{Requests: 500, Elapsed: late, Guards: []Guard{guard("errors", 0, 3.1, 0),
		guard("latency", 0, 2, 5)}}, Promote, "", "within its wider margins")
	if d := (Rule{Alpha: 0.05, Beta: 0.05}).Decide(Look{}); d.Verdict != Inconclusive {
		t.Errorf("without any request: %v, %s", d.Verdict, d.Reason)
	}

	// Hard events come first, then a wrong split.
	bad := []Guard{guard("errors", 30, 0, 0)}
	f(Look{Hard: []string{"20 errors in a row", "NaN"}, Mismatch: 100, Guards: bad}, RollBack, "",
		"20 errors in a row")
	f(Look{Mismatch: 7, Guards: bad}, Inconclusive, "",
		"requests are not split as the weights say, so the arms cannot be compared: a right split "+
			"shows this at most once in 1097 rollouts")
	f(Look{Mismatch: 6.8}, Continue, "", "")

	nan := math.NaN()
	f(Look{Requests: 500, Elapsed: late, Mismatch: nan, Guards: []Guard{guard("errors", nan, nan,
		nan)}}, Inconclusive, "errors", "evidence that it is sound is 1,")
}

func TestShares(t *testing.T) {
	f := func(weights, want []float64) {
		t.Helper()
		var guards []Guard
		for _, w := range weights {
			guards = append(guards, Guard{Weight: w})
		}
		sum := 0.0
		for i, got := range shares(guards, 0.05) {
			near(t, "share", got, want[i])
			sum += got
		}
		near(t, "all shares", sum, 0.05)
	}
	f([]float64{0}, []float64{0.05})
	f([]float64{0, 0}, []float64{0.025, 0.025})
	f([]float64{1, 4}, []float64{0.01, 0.04})
	f([]float64{1, math.NaN(), -1, math.Inf(1)}, []float64{0.05, 0, 0, 0})
}

func TestValidate(t *testing.T) {
	f := func(r Rule, faults ...string) {
		t.Helper()
		err := r.Validate()
		if err == nil != (len(faults) == 0) {
			t.Errorf("%+v: %v", r, err)
		}
		for _, fault := range faults {
			if err != nil && !strings.Contains(err.Error(), fault) {
				t.Errorf("%v does not say %q", err, fault)
			}
		}
	}
	f(rule)
	f(Rule{Alpha: math.NaN(), Beta: 1, MinTime: 2, MaxDwell: 1}, "alpha is NaN", "beta is 1",
		"a step")
	f(Rule{Alpha: 0.1, Beta: 0.1, MinTime: -1, MaxDwell: 1}, "a step")
	f(Rule{Alpha: 0.1, Beta: 0.1}, "a step")
}

func TestAverage(t *testing.T) {
	f := func(want float64, logs ...float64) {
		t.Helper()
		if got := Average(logs...); got != want && !(math.Abs(got-want) < 1e-12) {
			t.Errorf("%v: got %v, want %v", logs, got, want)
		}
	}
	f(0)
	f(math.Log(3), math.Log(1), math.Log(5))
	f(1e6-math.Ln2, 1e6, -1e6)
	f(-1e6-math.Ln2, -1e6, -1e9)
	f(math.Inf(1), math.Inf(1), 0)
	f(math.Inf(-1), math.Inf(-1), math.Inf(-1))
	f(0, math.NaN())
	f(math.Log(3), math.NaN(), math.Log(5))
}

func TestAlwaysValid(t *testing.T) {
	p := 1.0
	for _, look := range []struct{ logE, want float64 }{
		{-5, 1}, {math.Log(10), 0.1}, {math.Log(2), 0.1}, {math.NaN(), 0.1}, {math.Inf(1), 0},
		{-1, 0},
	} {
		p = AlwaysValid(p, look.logE)
		near(t, "p", p, look.want)
	}
}

func TestWords(t *testing.T) {
	f := func(got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	f(RollBack.String()+Verdict(9).String(), "roll backVerdict(9)")
	f(Arms(Rate{1, 3}, Sum{4, 3}), "canary 1 of 4 (25 %), stable 0.75 over 4")
	f(short(90*time.Minute+1234*time.Millisecond).String(), "1h30m1s")
	f(short(1234567*time.Microsecond).String(), "1.235s")
}
