package rollout

import (
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// drive is a rollout in a test, with what was counted so far and a clock.
type drive struct {
	t   *testing.T
	st  State
	o   Observation
	now time.Time
}

// begin starts a rollout of version 8 beside 7.
func begin(t *testing.T, spec Spec) *drive {
	t.Helper()
	if err := spec.Validate(); err != nil {
		t.Fatal(err)
	}
	about := Subject{"e", "m", VersionRef{"7", "sha256:7"}, VersionRef{"8", "sha256:8"}}
	return &drive{t: t, st: Begin("r1", spec, about, start), now: start}
}

// next looks after some time, and wants what the rollout does to be the same once it
// was stored and loaded.
func (d *drive) next(after time.Duration) {
	d.t.Helper()
	d.now = d.now.Add(after)
	text, err := json.Marshal(d.st)
	if err != nil {
		d.t.Fatal(err)
	}
	var loaded State
	if err := json.Unmarshal(text, &loaded); err != nil {
		d.t.Fatal(err)
	}
	before := d.st.Turn
	var moved, again bool
	d.st, moved = d.st.Next(d.o, d.now)
	loaded, again = loaded.Next(d.o, d.now)
	if moved != again || moved != (d.st.Turn != before) {
		d.t.Errorf("moved %v, loaded %v, turns %d to %d", moved, again, before, d.st.Turn)
	}
	one, _ := json.Marshal(d.st)
	two, _ := json.Marshal(loaded)
	if string(one) != string(two) {
		d.t.Errorf("loaded, it goes on otherwise:\n%s\n%s", one, two)
	}
}

// traffic counts requests of the present weight and split, with so many errors.
func (d *drive) traffic(n, canaryErrors, stableErrors uint64) {
	rho := d.st.Weight() / 100
	canary := uint64(math.Round(float64(n) * rho))
	d.o.Counts.Merge(trial.Counts{Cells: []trial.Cell{{Rho: rho,
		Canary: arm(canary, canaryErrors), Stable: arm(n-canary, stableErrors)}}})
}

func arm(n, errors uint64) trial.Arm {
	a := trial.Arm{Requests: n, Picked: n, Errors: errors}
	a.Latency = make([]uint64, 100)
	a.Latency[90] = n - errors
	return a
}

// step takes traffic for a little more than a minute, or until the rollout goes on.
func (d *drive) step(n uint64) {
	d.t.Helper()
	for turn, i := d.st.Turn, 0; i < 7 && d.st.Turn == turn; i++ {
		d.traffic(n/7, 0, 0)
		d.next(10 * time.Second)
	}
}

// wait looks every half minute until the rollout goes on, five times at most.
func (d *drive) wait() {
	d.t.Helper()
	for turn, i := d.st.Turn, 0; i < 5 && d.st.Turn == turn; i++ {
		d.next(30 * time.Second)
	}
}

func (d *drive) command(c Command) {
	d.t.Helper()
	st, err := d.st.Command(c, "ana", d.now)
	if err != nil {
		d.t.Fatal(err)
	}
	d.st = st
}

// want checks where the rollout is.
func (d *drive) want(p Phase, weight float64, v Verdict, reason string) {
	d.t.Helper()
	if d.st.Phase != p || d.st.Weight() != weight || d.st.Verdict != v ||
		!strings.Contains(d.st.Reason, reason) {
		d.t.Fatalf("got %s at %v %%, %q: %s\nwant %s at %v %%, %q: %s", d.st.Phase, d.st.Weight(),
			d.st.Verdict, d.st.Reason, p, weight, v, reason)
	}
}

func TestCanary(t *testing.T) {
	d := begin(t, Spec{Shadow: ShadowStage{Percent: 10, Requests: 500}, Steps: []float64{5, 50},
		Guards:  []GuardSpec{{Metric: Errors}, {Metric: Latency}, {Metric: Disagreement}},
		Approve: true})
	d.o.Hold = "the canary loads"
	d.next(time.Second)
	d.want(Pending, 0, "", "waits to begin: the canary loads")
	d.o.Hold = ""
	d.next(time.Second)
	d.want(Shadow, 0, "", "the canary gets copies")
	if d.st.Shadowing() != 10 {
		t.Errorf("shadowing is %v", d.st.Shadowing())
	}
	d.o.Shadow.Compared = 499
	for range 3 {
		d.next(time.Hour)
	}
	d.want(Shadow, 0, "", "499 of 500 requests")
	d.o.Shadow.Compared, d.o.Hold = 500, "no hook has agreed"
	d.next(time.Second)
	d.want(Shadow, 0, "", "it waits to go on: no hook has agreed")
	d.o.Hold = ""
	d.next(time.Second)
	d.want(Step, 5, "", "the canary is within its margins")
	if d.st.Shadowing() != 10 {
		t.Errorf("in a step, shadowing is %v", d.st.Shadowing())
	}
	d.traffic(10_000, 0, 0)
	d.next(time.Second)
	d.want(Step, 5, "", "1s of 1m0s")
	d.step(14_000)
	d.want(Step, 50, "", "within its margins")
	d.step(7_000)
	d.want(Approval, 50, "", "within its margins")
	d.next(time.Hour)
	d.command(Approve)
	d.want(Promoting, 100, "", "approved by ana")
	d.o.Hold = "the alias has not moved"
	d.next(time.Second)
	d.want(Promoting, 100, "", "approved by ana")
	d.o.Hold = ""
	d.next(time.Second)
	d.want(Done, 100, Successful, "approved by ana")
	if !d.st.Ended.Equal(d.now) {
		t.Errorf("it ended at %v", d.st.Ended)
	}
	var phases []Phase
	for _, e := range d.st.History {
		phases = append(phases, e.To)
	}
	want := []Phase{Pending, Shadow, Step, Step, Approval, Promoting, Done}
	if !reflect.DeepEqual(phases, want) {
		t.Errorf("the history is %v", phases)
	}
	d.o.Problem = "too late"
	d.next(time.Second)
	d.want(Done, 100, Successful, "approved")
}

// TestRollBack has all that ends a rollout, from its first step.
func TestRollBack(t *testing.T) {
	all := Spec{Shadow: ShadowStage{Percent: 10}, Steps: []float64{5, 50}, Guards: []GuardSpec{
		{Metric: Errors}, {Metric: Disagreement}, {Metric: Prometheus, Query: "q", Max: 1}}}
	f := func(change func(d *drive), guard, reason string) {
		t.Helper()
		d := begin(t, all)
		d.next(0)
		d.o.Shadow.Compared = 1000
		d.o.Queries = map[string]Query{"q": {Value: 0.5}}
		d.wait()
		d.want(Step, 5, "", "")
		d.traffic(2000, 1, 19)
		d.next(time.Second)
		d.want(Step, 5, "", "1s of 1m0s")
		d.command(Pause) // what is bad is seen in a pause, too
		change(d)
		d.next(time.Second)
		d.want(Done, 0, Failed, reason)
		if d.st.Guard != guard || d.st.Shadowing() != 0 || d.st.Paused {
			t.Errorf("by %q, shadowing %v, paused %v", d.st.Guard, d.st.Shadowing(), d.st.Paused)
		}
	}
	f(func(d *drive) { d.o.Problem = "it crashed" }, "", "cannot serve: it crashed")
	f(func(d *drive) { d.traffic(400, 20, 4) }, Errors, "canary 21 of 120 (17.5 %)")
	f(func(d *drive) { d.traffic(400, 20, 4); d.o.Counts.Row = 20 }, Errors, "20 errors in a row")
	f(func(d *drive) { d.o.Shadow.Disagreed = 100 }, Disagreement, "100 of 1000 (10 %) of")
	f(func(d *drive) { d.o.Counts.Fallbacks = 101 }, Errors, "could not serve 101 of 201 requests")
	f(func(d *drive) { d.o.Shadow.Failed = 1001 }, Errors, "1001 of 2001 copies")
	odd := func(n uint64) func(*drive) {
		return func(d *drive) { d.o.Counts.Cells[0].Canary.NonFinite = n }
	}
	f(odd(5), "non_finite", "canary 5, stable 0")
	f(odd(20), "non_finite", "20 answers with a NaN")
	f(func(d *drive) {
		d.o.Queries = map[string]Query{"q": {Value: 1.5}}
		d.next(time.Second)
		d.next(time.Second)
		d.want(Step, 5, "", "paused by ana")
	}, `prometheus "q"`, "1.5, above 1 at 3 looks in a row")
}

// TestOutage has errors of both arms: a row of them is nobody's fault.
func TestOutage(t *testing.T) {
	d := begin(t, Spec{Steps: []float64{5}})
	d.next(0)
	d.traffic(2000, 0, 0)
	d.next(time.Second)
	d.traffic(1000, 50, 950)
	d.o.Counts.Row = 50
	d.next(time.Second)
	d.want(Step, 5, "", "")
	// A bad stable version does not keep a better canary.
	for range 6 {
		d.traffic(2000, 0, 300)
		d.next(10 * time.Second)
	}
	d.want(Promoting, 100, "", "within its margins")
}

func TestInconclusive(t *testing.T) {
	d := begin(t, Spec{Steps: []float64{5}, Step: StepRule{MaxTime: 2 * time.Minute}})
	pause := func(reason string) {
		t.Helper()
		d.wait()
		d.want(Step, 5, Inconclusive, reason)
		if !d.st.Paused || d.st.PausedBy != "" {
			t.Errorf("paused %v by %q", d.st.Paused, d.st.PausedBy)
		}
	}
	d.next(0)
	pause("0 of 100 requests")
	d.traffic(2500, 0, 0) // while it is paused nothing promotes
	d.next(time.Hour)
	d.want(Step, 5, Inconclusive, "0 of 100 requests")
	d.command(Resume)
	d.want(Step, 5, "", "resumed by ana")
	d.traffic(3000, 0, 0)
	d.next(time.Second)
	d.traffic(1000, 5, 95)
	pause("errors neither clears nor condemns")
	if d.st.Guard != Errors {
		t.Errorf("guard is %q", d.st.Guard)
	}
	d.command(Promote)
	d.want(Promoting, 100, "", "ana promoted it in step 1 (5 %)")

	// So does a split that is not as it is said to be.
	d = begin(t, Spec{Steps: []float64{5}})
	d.next(0)
	d.o.Counts = trial.Counts{Cells: []trial.Cell{{Rho: 0.05, Canary: arm(400, 0),
		Stable: arm(4600, 0)}}}
	d.next(time.Second)
	d.want(Step, 5, Inconclusive, "not split as the weights say")
}

func TestOtherStrategies(t *testing.T) {
	guards := []GuardSpec{{Metric: Errors}, {Metric: Latency}, {Metric: Disagreement}}
	blueGreen := Spec{Strategy: BlueGreen, Shadow: ShadowStage{Percent: 100}, Guards: guards}
	d := begin(t, blueGreen)
	d.next(0)
	d.want(Shadow, 0, "", "")
	d.o.Shadow.Compared = 1000
	d.wait()
	d.want(Step, 100, "", "within its margins")
	if d.st.Shadowing() != 0 {
		t.Error("there is nothing to compare with at 100 %")
	}
	d.step(700)
	d.want(Promoting, 100, "", "")

	blueGreen.Approve = true
	d = begin(t, blueGreen)
	d.next(0)
	d.o.Shadow.Compared = 1000
	d.wait()
	d.want(Approval, 0, "", "")
	d.command(Approve)
	d.want(Step, 100, "", "approved by ana")
	d.step(700)
	d.want(Promoting, 100, "", "")

	d = begin(t, Spec{Strategy: BlueGreen, Approve: true})
	d.next(0)
	d.want(Approval, 0, "", "must approve")

	d = begin(t, Spec{Strategy: Immediate})
	d.next(0)
	d.want(Step, 100, "", "")
	d.traffic(50, 50, 0)
	d.o.Counts.Row = 50
	d.next(time.Second)
	d.want(Done, 0, Failed, "50 errors in a row")
	d = begin(t, Spec{Strategy: Immediate, Approve: true})
	d.next(0)
	d.step(700)
	d.want(Approval, 100, "", "")
}

// TestClock has clocks that jump: no time passes by them.
func TestClock(t *testing.T) {
	d := begin(t, Spec{Steps: []float64{5}, Step: StepRule{MaxTime: 2 * time.Minute}})
	d.next(0)
	d.traffic(20_000, 0, 0)
	for _, jump := range []time.Duration{-3 * time.Hour, 5 * time.Hour, -time.Hour, -time.Minute} {
		d.next(jump)
		d.want(Step, 5, "", "of 1m0s have passed")
	}
	d.traffic(10_000, 0, 0)
	d.next(24 * time.Hour)
	d.want(Promoting, 100, "", "")
	if d.st.Seen.Age != time.Minute {
		t.Errorf("age is %v", d.st.Seen.Age)
	}
}

func TestAway(t *testing.T) {
	spec := Spec{Steps: []float64{5}, Guards: []GuardSpec{{Metric: Prometheus, Query: "q", Max: 1}}}
	down := map[string]Query{"q": {Err: "connection refused"}}
	d := begin(t, spec)
	d.next(0)
	d.traffic(20_000, 0, 0)
	d.o.Queries = map[string]Query{"q": {Value: math.NaN()}}
	for range 4 {
		d.next(30 * time.Second)
	}
	d.want(Step, 5, "", "no data")
	d.o.Queries = map[string]Query{"q": {Value: 1}}
	d.o.Transient = "the registry is away"
	d.next(time.Second)
	d.want(Step, 5, "", "cannot be told whether it may go on: the registry is away")
	d.o.Transient, d.o.Queries = "", down
	for range 8 {
		d.next(30 * time.Second)
	}
	d.want(Step, 5, "", "no data")
	d.o.Queries = nil // not asked: it may still be away
	d.next(30 * time.Second)
	d.want(Step, 5, "", "no data")
	d.o.Queries = down
	d.next(30 * time.Second)
	d.want(Done, 0, Errored, `query "q": connection refused`)

	// Back in time, it goes on.
	d = begin(t, spec)
	d.next(0)
	d.traffic(20_000, 0, 0)
	d.o.Queries = down
	for range 4 {
		d.next(time.Minute)
	}
	d.o.Queries = map[string]Query{"q": {Value: 1}}
	d.next(time.Second)
	d.want(Promoting, 100, "", "allowed is 1")
}

func TestRewards(t *testing.T) {
	f := func(worse float64, p Phase, v Verdict, guard string) {
		t.Helper()
		d := begin(t, Spec{Steps: []float64{50}, Guards: []GuardSpec{{Metric: Reward}}})
		d.next(0)
		s := newSim(world{}, 3)
		for range 40 {
			d.traffic(500, 0, 0)
			d.o.Rewards = nil
			for range 500 {
				r := trial.Reward{Rho: 0.5, Canary: s.r.IntN(2) == 0}
				p := 0.5
				if r.Canary {
					p -= worse
				}
				if s.r.Float64() < p {
					r.Value = 1
				}
				d.o.Rewards = append(d.o.Rewards, r)
			}
			if d.next(10 * time.Second); d.st.Phase != Step {
				break
			}
		}
		d.want(p, d.st.Weight(), v, "over")
		if d.st.Guard != guard {
			t.Errorf("by %q", d.st.Guard)
		}
	}
	f(0, Promoting, "", "")
	f(0.1, Done, Failed, "reward")
}

// TestLost has counters that go back to nothing, as those of a gateway that came back
// empty: no number of them wraps.
func TestLost(t *testing.T) {
	d := begin(t, Spec{Steps: []float64{5, 50}})
	d.next(0)
	d.step(14_000)
	d.want(Step, 50, "", "")
	d.o.Counts = trial.Counts{}
	d.next(time.Minute)
	d.want(Step, 50, "", "0 of 100 requests")
	d.o.Counts = trial.Counts{Cells: []trial.Cell{{Rho: math.NaN(), Canary: arm(5, 5)},
		{Rho: 0.5, Canary: trial.Arm{Errors: 3}}}}
	d.next(time.Minute)
	d.want(Step, 50, "", "0 of 100 requests")
}

// TestPure says that a look changes nothing of the state that it was taken in.
func TestPure(t *testing.T) {
	d := begin(t, Spec{Steps: []float64{5, 50}})
	d.next(0)
	d.step(700)
	before, _ := json.Marshal(d.st)
	one, _ := d.st.Next(d.o, d.now.Add(time.Second))
	first, _ := json.Marshal(one)
	if two, err := d.st.Command(Abort, "", d.now); err != nil || two.Phase != Done {
		t.Error(two.Phase, err)
	}
	d.o.Problem = "gone"
	d.st.Next(d.o, d.now.Add(time.Minute))
	d.o.Counts.Cells[0].Canary.Requests++
	if after, _ := json.Marshal(d.st); string(after) != string(before) {
		t.Errorf("it was\n%s\nand is\n%s", before, after)
	}
	if again, _ := json.Marshal(one); string(again) != string(first) {
		t.Errorf("it was\n%s\nand is\n%s", first, again)
	}
}

func TestSeries(t *testing.T) {
	d := begin(t, Spec{Steps: []float64{5}})
	d.next(0)
	for range 3000 {
		d.st, _ = d.st.Next(d.o, d.now)
		d.now = d.now.Add(10 * time.Second)
	}
	n := len(d.st.Evidence)
	if n > maxPoints || n < maxPoints/2 {
		t.Fatalf("%d points", n)
	}
	for i := range n - 1 {
		a, b := d.st.Evidence[i].Age, d.st.Evidence[i+1].Age
		if gap := b - a; gap < 0 || gap > d.st.Seen.Age/40 {
			t.Errorf("from %v to %v is nothing", a, b)
		}
	}
	for range 400 {
		d.command(Pause)
		d.command(Resume)
	}
	if n := len(d.st.History); n != maxHistory {
		t.Errorf("%d entries", n)
	}
	if d.st.Turn != 802 {
		t.Errorf("%d turns", d.st.Turn)
	}
}
