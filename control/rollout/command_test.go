package rollout

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestCommands gives all commands in all phases.
func TestCommands(t *testing.T) {
	at := func(p Phase, paused bool) State {
		s := Begin("r1", Spec{Strategy: Canary, Approve: true}, Subject{}, start)
		s.Phase, s.Paused = p, paused
		return s
	}
	f := func(p Phase, paused bool, c Command, want Phase) {
		t.Helper()
		s := at(p, paused)
		got, err := s.Command(c, "ana", start)
		if want == "" {
			if !errors.Is(err, ErrNotNow) || got.Turn != s.Turn {
				t.Errorf("%s in %s, paused %v: %v, %v", c, p, paused, got.Phase, err)
			}
			return
		}
		if err != nil || got.Phase != want || got.Paused != (c == Pause) {
			t.Errorf("%s in %s, paused %v: %v, %v", c, p, paused, got.Phase, err)
		}
		last := got.History[len(got.History)-1]
		if last.By != "ana" || last.To != want || last.Reason == "" {
			t.Errorf("%s in %s: entry %+v", c, p, last)
		}
	}
	for _, p := range []Phase{Pending, Shadow, Step, Approval} {
		f(p, false, Pause, p)
		f(p, true, Pause, "")
		f(p, false, Resume, "")
		f(p, true, Resume, p)
		f(p, false, Abort, Done)
		f(p, true, Abort, Done)
	}
	for _, p := range []Phase{Promoting, Done} {
		for _, c := range []Command{Pause, Resume, Approve, Promote, Abort, "retry"} {
			f(p, false, c, "")
		}
	}
	f(Pending, false, Promote, "")
	f(Shadow, false, Promote, Promoting)
	f(Step, true, Promote, Promoting)
	f(Approval, false, Promote, Promoting)
	f(Approval, false, Approve, Promoting)
	f(Step, false, Approve, "")
	f(Shadow, false, "retry", "")
}

func TestCommandErrors(t *testing.T) {
	f := func(s State, c Command, want string) {
		t.Helper()
		_, err := s.Command(c, "ana", start)
		if err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	s := Begin("r1", Spec{}, Subject{}, start)
	f(s, Resume, "cannot resume rollout r1: rollout: not possible now; it is in phase pending, "+
		"possible: pause, abort")
	s, _ = s.Next(Observation{}, start)
	s, _ = s.Command(Pause, "", start)
	f(s, Pause, "it is paused in phase step, possible: resume, promote, abort")
	s, _ = s.Command(Abort, "bo", start)
	f(s, Promote, "it is done (failed), possible: a new rollout")
}

// TestTwoPeople has one who promotes and one who aborts, in both orders: the first
// decides, and the rollout has one verdict.
func TestTwoPeople(t *testing.T) {
	f := func(first, second Command, want Verdict, weight float64) {
		t.Helper()
		s, _ := Begin("r1", Spec{}, Subject{}, start).Next(Observation{}, start)
		s, err := s.Command(first, "ana", start)
		if err != nil {
			t.Fatal(err)
		}
		s, err = s.Command(second, "bo", start)
		if !errors.Is(err, ErrNotNow) {
			t.Errorf("%s after %s: %v", second, first, err)
		}
		s, _ = s.Next(Observation{Problem: "it crashed"}, start.Add(time.Second))
		verdicts := slices.DeleteFunc(slices.Clone(s.History), func(e Entry) bool {
			return e.Verdict == ""
		})
		if s.Phase != Done || s.Verdict != want || s.Weight() != weight || len(verdicts) != 1 {
			t.Errorf("%s, %s: %s %s at %v", first, second, s.Phase, s.Verdict, s.Weight())
		}
	}
	f(Promote, Abort, Successful, 100)
	f(Abort, Promote, Failed, 0)
}

func TestSentence(t *testing.T) {
	f := func(s State, want string) {
		t.Helper()
		if got := s.Sentence(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	d := begin(t, Spec{Steps: []float64{5, 50}, Guards: []GuardSpec{{Metric: Errors}}})
	f(d.st, "version 8 has not begun beside 7: the rollout waits to begin.")
	d.next(0)
	f(d.st, "version 8 is tried beside 7 in step 1 (5 %), after 0 of its requests: the first "+
		"step begins.")
	d.step(28_000)
	d.traffic(2040, 31, 9)
	d.command(Pause)
	f(d.st, "version 8 is paused in step 2 (50 %), with 50 % of the traffic: paused by ana.")
	d.next(time.Second)
	f(d.st, "version 8 was rolled back after 1,020 of its requests in step 2 (50 %): errors: "+
		"canary 31 of 2220 (1.4 %), stable 9 of 23820 (0.0378 %); a sound version shows this at "+
		"most once in 202 rollouts, the limit is once in 27.8.")

	d = begin(t, Spec{Steps: []float64{5}, Step: StepRule{MaxTime: time.Minute}, Approve: true})
	d.next(0)
	d.step(0)
	f(d.st, "version 8 waits for a person in step 1 (5 %), with 5 % of the traffic (resume, "+
		"promote, abort): the canary has had 0 of 100 requests in 1m0s.")
	aborted, _ := d.st.Command(Abort, "ana", d.now)
	f(aborted, "version 8 was taken back after 0 of its requests: ana aborted it in step 1 (5 %).")
	d.command(Promote)
	f(d.st, "version 8 is being promoted in place of 7: ana promoted it in step 1 (5 %).")
	d.next(0)
	f(d.st, "version 8 was promoted after 0 of its requests: ana promoted it in step 1 (5 %).")

	d = begin(t, Spec{Strategy: BlueGreen, Approve: true})
	d.next(0)
	f(d.st, "version 8 waits for approval, with 0 % of the traffic: a person must approve the "+
		"switch.")
}
