package trigger

import (
	"errors"
	"strings"
	"testing"
	"time"
)

// past is a run of the trigger that began so long ago, and ended an hour later if its
// state is an end.
func past(s State, ago time.Duration, by string) Run {
	r := Run{ID: ID("retrain-fraud", ago.String()), State: s, By: by, Attempts: 1,
		Began: t0.Add(-ago), Called: t0.Add(-ago), Error: "no memory"}
	if s.Done() {
		r.Ended = r.Began.Add(time.Hour)
	}
	return r
}

func TestDecide(t *testing.T) {
	const h = time.Hour
	const atOnce = -1 // until it is worth asking again; 0 is never
	by := ""
	f := func(history []Run, change func(*Spec), why string, until time.Duration) {
		t.Helper()
		s := spec(Keeps)
		if change != nil {
			change(&s)
		}
		r, fresh := Decide(history, Event{ID: "e", By: by}, s, t0)
		want := Suppressed
		if why == "" {
			want = Pending
		}
		if !fresh || r.State != want || !strings.Contains(r.Error, why) ||
			until != 0 && r.Due.Sub(t0) != max(until, 0) ||
			until == 0 && why != "" && !r.Due.IsZero() {
			t.Errorf("got %+v, want %s with %q until %v", r, want, why, until)
		}
	}
	f(nil, nil, "", 0)
	f(nil, func(s *Spec) { s.DryRun = true }, "dry run", 0)
	f([]Run{past(Starting, h, "")}, nil, "have not ended", atOnce)
	f([]Run{past(Pending, h, "")}, nil, "have not ended", atOnce)
	f([]Run{past(Running, h, "")}, func(s *Spec) { s.MaxRuns = 2 }, "", 0)
	f([]Run{past(Succeeded, 3*h, "")}, nil, "2h0m0s ago; 6h0m0s must pass", 4*h)
	f([]Run{past(Succeeded, 7*h, "")}, nil, "", 0)
	f([]Run{past(Suppressed, 1*h, "")}, nil, "", 0)
	two := []Run{past(Succeeded, 30*h, ""), past(Failed, 20*h, ""), past(Lost, 10*h, "")}
	f(two, nil, "", 0)
	three := []Run{past(Failed, 30*h, ""), past(Lost, 10*h, ""), past(Failed, 20*h, "")}
	f(three, nil, "3 runs in a row have failed (max_failures), the last one: no memory", 0)
	f(append(three, past(Succeeded, 15*h, "")), nil, "", 0)
	f(append(three, past(Cancelled, 15*h, "")), nil, "3 runs in a row", 0)
	f(append(three, past(Failed, 9*h, "ann")), nil, "", 0)
	f(append(three, past(Running, h, "")), func(s *Spec) { s.Cooldown, s.MaxRuns = 0, 9 },
		"3 runs in a row", 0)
	day4 := []Run{past(Succeeded, 23*h, ""), past(Succeeded, 8*h, ""), past(Failed, 12*h, ""),
		past(Cancelled, 10*h, "")}
	f(day4, nil, "4 runs began within a day; 4 are allowed", h)
	f(day4[1:], nil, "", 0)
	f([]Run{past(Succeeded, 24*h, ""), past(Succeeded, 8*h, ""), past(Failed, 12*h, ""),
		past(Succeeded, 10*h, "")}, nil, "", 0)
	retried := past(Succeeded, 8*h, "")
	retried.Earlier = []time.Time{t0.Add(-9 * h), t0.Add(-10 * h), t0.Add(-11 * h), t0.Add(-50 * h)}
	f([]Run{retried}, nil, "4 runs began within a day", 13*h)

	by = "ann"
	f(nil, func(s *Spec) { s.Stopped = true }, "stopped", 0)
	f([]Run{past(Running, h, "")}, nil, "1 of its runs have not ended", atOnce)
	f([]Run{past(Succeeded, 3*h, "")}, nil, "", 0)
	f(three, nil, "", 0)
	f(day4, nil, "4 runs began within a day", h)
}

// TestDecideAgain tells of an event that has its run.
func TestDecideAgain(t *testing.T) {
	e := Event{ID: "e", Reason: "drift"}
	f := func(s State, fresh bool) {
		t.Helper()
		r := past(s, 100*time.Hour, "")
		r.ID = ID("retrain-fraud", "e")
		got, is := Decide([]Run{past(Succeeded, 200*time.Hour, ""), r}, e, spec(Keeps), t0)
		want := s
		if fresh {
			want = Pending
		}
		if is != fresh || got.ID != r.ID || got.State != want {
			t.Errorf("%s: %v, %+v", s, is, got)
		}
	}
	f(Pending, false)
	f(Starting, false)
	f(Running, false)
	f(Succeeded, false)
	f(Failed, false)
	f(Lost, false)
	f(Cancelled, false)
	f(Suppressed, true)
}

func TestRetry(t *testing.T) {
	f := func(s State, others []Run, why string) {
		t.Helper()
		r := past(s, 10*time.Hour, "")
		got, err := r.Retry(append(others, r), spec(Keeps), "ann", t0)
		if why != "" {
			if !errors.Is(err, ErrNotNow) || !strings.Contains(err.Error(), why) {
				t.Errorf("%s: %v, want %q", s, err, why)
			}
			return
		}
		if err != nil || got.State != Pending || got.Name() != r.ID+"-2" || got.Error != "" ||
			len(got.Earlier) != 1 || got.By != "ann" || !got.Called.IsZero() {
			t.Errorf("%s: %v, %+v", s, err, got)
		}
	}
	f(Failed, nil, "")
	f(Lost, nil, "")
	f(Cancelled, nil, "")
	f(Succeeded, nil, "it is succeeded")
	f(Suppressed, nil, "it is suppressed")
	f(Running, nil, "it is running")
	f(Failed, []Run{past(Running, time.Hour, "")}, "have not ended")
	f(Failed, []Run{past(Failed, 2*time.Hour, ""), past(Failed, 3*time.Hour, "")}, "")
	f(Failed, []Run{past(Failed, 2*time.Hour, ""), past(Failed, 3*time.Hour, ""),
		past(Failed, 4*time.Hour, "")}, "within a day")
}

func TestSpec(t *testing.T) {
	s := spec(Finds)
	if err := s.Validate(); err != nil {
		t.Error(err)
	}
	bad := Spec{Guarantee: "hopes", Cooldown: -1, Backoff: 2, MaxBackoff: 1}
	for _, key := range []string{"trigger", "guarantee", "cooldown", "max_runs", "daily_budget",
		"max_failures", "poll", "backoff", "settle", "start_timeout", "run_timeout",
		"cancel_timeout"} {
		if err := bad.Validate(); err == nil || !strings.Contains("\n"+err.Error(), "\n"+key+":") {
			t.Errorf("no fault of %s in: %v", key, err)
		}
	}
}
