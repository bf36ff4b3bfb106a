package trigger

import (
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
)

var t0 = time.Date(2026, 11, 25, 22, 0, 0, 0, time.UTC)

func spec(g Guarantee) Spec {
	s := DefaultSpec()
	s.Trigger, s.Guarantee = "retrain-fraud", g
	return s
}

// pending is a run that is to start.
func pending(t *testing.T, g Guarantee) Run {
	t.Helper()
	r, fresh := Decide(nil, Event{ID: "alarm/fraud/17", Reason: "drift"}, spec(g), t0)
	if !fresh || r.State != Pending {
		t.Fatalf("%+v", r)
	}
	return r
}

// play is a run whose turns were taken, one after the other, with what came of each.
func play(t *testing.T, r Run, script ...any) Run {
	t.Helper()
	for i, came := range script {
		now := r.Due
		var a Action
		if r, a = r.Turn(now); a == Wait {
			t.Fatalf("turn %d: nothing to do for %+v", i, r)
		}
		o := Observation{Action: a, Jitter: 0.5}
		switch came := came.(type) {
		case Status:
			o.Status = came
		case error:
			o.Err = came
		}
		r = stored(t, r).Next(o, now)
	}
	return r
}

// stored is what a run is after it was written to disk and read.
func stored(t *testing.T, r Run) Run {
	t.Helper()
	text, err := json.Marshal(r)
	var back Run
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || !reflect.DeepEqual(r, back) {
		t.Fatalf("%v: %+v is %+v after it was stored", err, r, back)
	}
	return back
}

func TestNext(t *testing.T) {
	ok := Status{State: Running, External: "7", Link: "https://ci.example/7"}
	end := func(s State) Status { return Status{State: s, Detail: "detail"} }
	unsure := &Fault{Kind: ErrUncertain, Text: "cut"}
	refused := &Fault{Kind: ErrRefused, Text: "403"}
	gone, away := &Fault{Kind: ErrGone, Text: "404"}, errors.New("connection refused")
	f := func(g Guarantee, script []any, want State, fault string) {
		t.Helper()
		got := play(t, pending(t, g), script...)
		if got.State != want || !strings.Contains(got.Error, fault) ||
			want.Done() != !got.Ended.IsZero() || got.Calling {
			t.Errorf("%v: got %+v, want %s with %q", script, got, want, fault)
		}
	}
	f(Keeps, []any{ok}, Running, "")
	f(Keeps, []any{ok, ok, end(Succeeded)}, Succeeded, "")
	f(Keeps, []any{ok, end(Failed)}, Failed, "detail")
	f(Keeps, []any{ok, end(Cancelled)}, Cancelled, "detail")
	f(Keeps, []any{away}, Pending, "connection refused")
	f(Keeps, []any{away, away, ok, end(Succeeded)}, Succeeded, "")
	f(Keeps, []any{refused}, Failed, "403")
	f(Keeps, []any{gone}, Failed, "404")
	f(Keeps, []any{unsure}, Starting, "cut")
	f(Finds, []any{unsure}, Starting, "cut")
	f(Finds, []any{unsure, gone}, Starting, "cut")
	f(Finds, []any{unsure, away}, Starting, "connection refused")
	f(Finds, []any{unsure, refused, unsure}, Starting, "cut")
	f(Finds, []any{unsure, gone, away, ok}, Running, "")
	f(Finds, []any{unsure, ok, end(Succeeded)}, Succeeded, "")
	f(Finds, []any{unsure, Status{State: Running}}, Starting, "an id of 0 bytes")
	f(Blind, []any{unsure}, Lost, "look there")
	f(Keeps, []any{unsure, refused}, Lost, "403")
	f(Keeps, []any{unsure, away}, Starting, "connection refused")
	f(Keeps, []any{unsure, ok, end(Succeeded)}, Succeeded, "")
	f(Keeps, []any{Status{State: Running}}, Starting, "an id of 0 bytes")
	f(Keeps, []any{Status{State: Running, External: strings.Repeat("7", 600)}}, Starting, "600")
	f(Keeps, []any{ok, gone, gone}, Running, "404")
	f(Keeps, []any{ok, gone, gone, ok, gone}, Running, "404")
	f(Keeps, []any{ok, gone, gone, gone}, Lost, "404")
	f(Keeps, []any{ok, away, refused, unsure}, Running, "cut")
	f(Keeps, []any{ok, Status{State: "dancing"}}, Running, "dancing")
	f(Keeps, []any{ok, Status{}}, Running, "makes no sense")
	f(Keeps, []any{ok, Status{State: Pending}}, Running, "makes no sense")
	f(Keeps, []any{ok, Status{State: Suppressed}}, Running, "makes no sense")
}

// TestLate gives a run what comes when it is elsewhere already.
func TestLate(t *testing.T) {
	done := play(t, pending(t, Keeps), Status{State: Running, External: "7"}, Status{State: Failed})
	f := func(r Run, a Action, s State) {
		t.Helper()
		o := Observation{Action: a, Status: Status{State: s, External: "8"}}
		got := r.Next(o, t0.Add(time.Hour))
		if !reflect.DeepEqual(got, r) {
			t.Errorf("%s made %+v of %+v", a, got, r)
		}
	}
	f(done, Look, Succeeded)
	f(done, Start, Running)
	f(done, End, Running)
	f(play(t, pending(t, Keeps), Status{State: Running, External: "7"}), Start, Running)
	f(pending(t, Keeps), Look, Succeeded)
	f(pending(t, Keeps), Wait, Succeeded)
	if _, a := done.Turn(t0.Add(1000 * time.Hour)); a != Wait {
		t.Errorf("%s for a run that has ended", a)
	}
}

// TestPauses holds the pauses after errors against what they are to be.
func TestPauses(t *testing.T) {
	f := func(g Guarantee, script []any, want time.Duration) {
		t.Helper()
		before := play(t, pending(t, g), script[:len(script)-1]...)
		got := play(t, before, script[len(script)-1])
		if pause := got.Due.Sub(before.Due); pause != want {
			t.Errorf("%v: a pause of %v, want %v", script, pause, want)
		}
	}
	away := errors.New("away")
	unsure, gone := &Fault{Kind: ErrUncertain, Text: "cut"}, &Fault{Kind: ErrGone, Text: "none"}
	ok := Status{State: Running, External: "7"}
	f(Keeps, []any{away}, 500*time.Millisecond)
	f(Keeps, []any{away, away, away}, 2*time.Second)
	f(Keeps, []any{away, away, away, away, away, away, away, away, away, away}, 150*time.Second)
	f(Keeps, []any{&Fault{Text: "429", RetryAfter: time.Minute}}, time.Minute)
	f(Keeps, []any{&Fault{Text: "429", RetryAfter: 1e6 * time.Hour}}, time.Hour)
	f(Keeps, []any{unsure}, 500*time.Millisecond)
	f(Finds, []any{unsure}, 500*time.Millisecond)
	f(Finds, []any{away, away, away, away, unsure}, 500*time.Millisecond)
	f(Finds, []any{&Fault{Kind: ErrUncertain, RetryAfter: time.Minute}}, time.Minute)
	f(Finds, []any{unsure, gone}, time.Second)
	f(Finds, []any{unsure, gone, away, gone}, 4*time.Second)
	f(Finds, []any{unsure, &Fault{Kind: ErrGone, RetryAfter: time.Hour}}, 119500*time.Millisecond)
	f(Finds, []any{unsure, ok}, 15*time.Second)
	f(Keeps, []any{ok}, 15*time.Second)
	f(Keeps, []any{ok, away}, 15*time.Second)
	f(Keeps, []any{ok, ok}, 15*time.Second)
	s := spec(Keeps)
	for n := range 2000 {
		if p := s.pause(n, 1); p < time.Second || p > s.MaxBackoff || s.pause(n, 0) != 0 ||
			s.pause(n, 7) != p {
			t.Fatalf("a pause of %v after %d faults", p, n)
		}
	}
}

// TestSettle looks for a run that may have started, and starts it again once it would be there.
func TestSettle(t *testing.T) {
	f := func(jitter float64, want string) {
		t.Helper()
		var log []string
		r := pending(t, Finds)
		for r.Calls < 2 || r.Calling {
			var a Action
			now := r.Due
			r, a = r.Turn(now)
			kind := ErrGone
			if a == Start {
				kind = ErrUncertain
			}
			log = append(log, fmt.Sprint(a, " ", now.Sub(t0)))
			r = stored(t, r).Next(Observation{Action: a, Err: &Fault{Kind: kind},
				Jitter: jitter}, now)
		}
		if got := strings.Join(log, ", "); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	f(1, "start 0s, look 1s, look 3s, look 7s, look 15s, look 31s, look 1m3s, start 2m0s")
	f(0.5, "start 0s, look 500ms, look 1.5s, look 3.5s, look 7.5s, look 15.5s, look 31.5s, "+
		"look 1m3.5s, start 2m0s")
}

// TestTimeouts lets the time pass.
func TestTimeouts(t *testing.T) {
	away, unsure := errors.New("away"), &Fault{Kind: ErrUncertain, Text: "cut"}
	f := func(r Run, after time.Duration, want, fault string) {
		t.Helper()
		got, a := r.Turn(t0.Add(after))
		if string(got.State)+" "+string(a) != want || !strings.Contains(got.Error+got.Stop, fault) {
			t.Errorf("got %s and %+v, want %s with %q", a, got, want, fault)
		}
	}
	running := play(t, pending(t, Keeps), Status{State: Running, External: "7"})
	f(pending(t, Keeps), 100*time.Hour, "starting start", "") // it was not tried before
	f(play(t, pending(t, Keeps), away), time.Hour, "starting start", "")
	f(play(t, pending(t, Keeps), away), 2*time.Hour, "failed wait", "start_timeout): away")
	f(play(t, pending(t, Keeps), unsure), 2*time.Hour, "lost wait", "start_timeout")
	f(running, time.Second, "running wait", "")
	f(running, 24*time.Hour, "running look", "")
	f(running, 25*time.Hour, "running end", "run_timeout")
	late, _ := running.Turn(t0.Add(25 * time.Hour))
	f(late, 25*time.Hour+10*time.Minute, "running end", "run_timeout")
	f(late, 26*time.Hour, "lost wait", "cancel_timeout")
	cancelled := Observation{Action: End, Status: Status{State: Failed}}
	ended := late.Next(cancelled, t0.Add(25*time.Hour))
	f(ended, 26*time.Hour, "failed wait", "run_timeout) and was cancelled")
}

func TestCancel(t *testing.T) {
	away, unsure := errors.New("away"), &Fault{Kind: ErrUncertain, Text: "cut"}
	ok := Status{State: Running, External: "7"}
	f := func(before []any, now State, after []any, want State) {
		t.Helper()
		r, err := play(t, pending(t, Keeps), before...).Cancel("ann", t0.Add(time.Minute))
		if err != nil || r.State != now {
			t.Errorf("%v: %v, %+v, want %s", before, err, r, now)
			return
		}
		if r = play(t, r, after...); r.State != want || !strings.Contains(r.Error+r.Stop, "ann") {
			t.Errorf("%v, %v: %+v, want %s", before, after, r, want)
		}
		if _, err := r.Cancel("bob", t0); !errors.Is(err, ErrNotNow) {
			t.Errorf("cancelled twice: %v", err)
		}
	}
	f(nil, Cancelled, nil, Cancelled)
	f([]any{away}, Cancelled, nil, Cancelled)
	f([]any{ok}, Running, []any{Status{State: Running}, Status{State: Failed}}, Cancelled)
	f([]any{ok}, Running, []any{Status{State: Succeeded}}, Succeeded)
	f([]any{ok}, Running, []any{away, Status{State: Cancelled}}, Cancelled)

	// While it is being started.
	calling, _ := pending(t, Keeps).Turn(t0)
	calling, err := calling.Cancel("ann", t0)
	if err != nil {
		t.Fatal(err)
	}
	g := func(o Observation, want State) {
		t.Helper()
		o.Action = Start
		if got := calling.Next(o, t0); got.State != want {
			t.Errorf("%+v: got %+v, want %s", o, got, want)
		}
	}
	g(Observation{Status: ok}, Running)
	g(Observation{Err: away}, Cancelled)
	g(Observation{Err: unsure}, Lost)
	if got, a := calling.Next(Observation{Action: Start, Status: ok}, t0).Turn(t0); a != End {
		t.Errorf("%s for %+v", a, got)
	}
	waiting, err := play(t, pending(t, Finds), unsure).Cancel("ann", t0)
	if got, a := waiting.Turn(t0); err != nil || got.State != Lost || a != Wait {
		t.Errorf("%v: %s for %+v", err, a, got)
	}
	found := waiting.Next(Observation{Action: Look, Status: ok}, t0) // while it was cancelled
	if got, a := found.Turn(t0); got.State != Running || a != End {
		t.Errorf("%s for %+v", a, got)
	}
}

// TestBrokenOff is a process that died during the call of Start.
func TestBrokenOff(t *testing.T) {
	f := func(g Guarantee, want State, then Action, calls int) {
		t.Helper()
		r, a := pending(t, g).Turn(t0)
		if a != Start || !r.Calling {
			t.Fatalf("%s, %+v", a, r)
		}
		r, a = stored(t, r).Turn(t0.Add(time.Second))
		if r.State != want || a != then || r.Calls != calls ||
			(g == Finds) != r.Settles.Equal(t0.Add(2*time.Minute+time.Second)) {
			t.Errorf("%s: %s, %+v", g, a, r)
		}
	}
	f(Keeps, Starting, Start, 2)
	f(Finds, Starting, Look, 1)
	f(Blind, Lost, Wait, 1)
}

// TestBounds gives what is larger than anybody needs, and links that are none.
func TestBounds(t *testing.T) {
	long := strings.Repeat("é\x00", 1<<20)
	r := play(t, pending(t, Keeps),
		Status{State: Running, External: "7", Link: "javascript:alert(1)"},
		Status{State: Running, External: long, Link: "https://" + long, Logs: long, Detail: long},
		errors.New(long))
	if r.External != "7" || r.Link != "" || len(r.Logs) > maxLogs || len(r.Error) > maxText+3 {
		t.Errorf("%q, %q, %d bytes of logs, %d of error", r.External, r.Link, len(r.Logs),
			len(r.Error))
	}
	e := Event{ID: long, Reason: long, By: long, Context: Context{Endpoint: long, Evidence: long,
		Extra: map[string]string{"ref": long, long: "x"}}}
	for n := range 2 * maxExtra {
		e.Context.Extra[fmt.Sprint(n)] = long
	}
	big, _ := Decide(nil, e, spec(Keeps), t0)
	text, err := json.Marshal(big)
	if err != nil || len(text) > 8*(maxExtra+8)*maxText || len(big.Context.Extra) != maxExtra {
		t.Errorf("%v: a run of %d bytes, %d parameters", err, len(text), len(big.Context.Extra))
	}
}

func TestNames(t *testing.T) {
	allowed := regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	seen := map[string]string{}
	for _, trigger := range []string{"a", "retrain-fraud", "Retrain Fraud", "Ä/..", "", "-",
		strings.Repeat("long name ", 20), "x-\n"} {
		for _, event := range []string{"", "1", "alarm/1", "Ω"} {
			r := Run{ID: ID(trigger, event), Attempts: 99_999}
			if !allowed.MatchString(r.Name()) || len(r.Name()) > 63 {
				t.Errorf("%q is called %q", trigger, r.Name())
			}
			key := fmt.Sprintf("%q %q", trigger, event)
			if other := seen[r.ID]; other != "" {
				t.Errorf("%s and %s are both %s", key, other, r.ID)
			}
			seen[r.ID] = key
		}
	}
	r := Run{ID: "x", Attempts: 1, Reason: "drift", Context: Context{Endpoint: "fraud",
		Extra: map[string]string{"reason": "mine", "epochs": "3"}}}
	want := map[string]string{RunKey: "x", "reason": "drift", "endpoint": "fraud", "epochs": "3"}
	if got := r.Parameters(); !reflect.DeepEqual(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}
