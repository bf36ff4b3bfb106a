package gateway_test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/route/trial"
	"github.com/millrace-ml/millrace/runtime/model"
)

// onTrial is an endpoint "e" whose canary, version 2, is on trial with a weight.
func onTrial(weight int) route.Spec {
	return route.Spec{Name: "e", Arms: arms("2", weight), Trial: "e.1"}
}

// trial returns what is counted of endpoint e's rollout.
func (s *server) trial(t testing.TB) gateway.Trial {
	t.Helper()
	got, ok := s.core.Trial("e")
	if !ok {
		t.Fatal("the endpoint has no trial")
	}
	return got
}

// seen is what a trial has counted of both arms together.
type seen struct{ picked, requests, errors, answers, row, fallbacks uint64 }

func seenOf(c trial.Counts) seen {
	a, b := c.Arms()
	s := seen{picked: a.Picked + b.Picked, requests: a.Requests + b.Requests,
		errors: a.Errors + b.Errors, row: c.Row, fallbacks: c.Fallbacks}
	for _, n := range append(a.Latency, b.Latency...) {
		s.answers += n
	}
	return s
}

// TestTrialCounts sends requests of all kinds both ways, and wants those counted
// whose arm was drawn.
func TestTrialCounts(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	id := 0
	f := func(spec route.Spec, want seen, ask func(w way)) {
		t.Helper()
		id++
		spec.Trial = fmt.Sprint("e.", id)
		s.set(t, nil, spec)
		for _, w := range s.ways() {
			ask(w)
		}
		if got := s.trial(t); got.ID != spec.Trial || seenOf(got.Counts) != want {
			t.Errorf("%d: got %+v, want %+v", id, seenOf(got.Counts), want)
		}
	}
	half := onTrial(5000)
	half.Rules = []route.RuleSpec{{Header: "x-team", Exact: "risk", Arm: "canary"}}
	n := uint64(len(s.ways()))
	f(half, seen{picked: 2 * n, requests: 2 * n, answers: 2 * n}, func(w way) {
		w.infer(t, askE, zeros)
		w.infer(t, askE, zeros)
	})
	f(half, seen{}, func(w way) {
		w.infer(t, askE, zeros, "x-team: risk")
		w.infer(t, "/v2/models/e/versions/2/infer", zeros)
		w.infer(t, "/v2/models/simple/infer", zeros)
	})
	f(half, seen{picked: n, requests: n}, func(w way) { w.infer(t, askE, `{"inputs":[]}`) })

	late := onTrial(route.FullWeight)
	late.Limits.Timeout = 1
	f(late, seen{picked: n, requests: n, errors: n, row: 2 * n}, func(w way) {
		w.infer(t, askE, zeros)
		w.infer(t, "/v2/models/e/versions/2/infer", zeros)
		w.infer(t, "/v2/models/e/versions/1/infer", zeros)
	})
	limited := onTrial(5000)
	limited.Limits.Requests = 1e-9 // one
	f(limited, seen{picked: 1, requests: 1, answers: 1}, func(w way) { w.infer(t, askE, zeros) })
	none := onTrial(0)
	f(none, seen{}, func(w way) { w.infer(t, askE, zeros) })
	gone := onTrial(route.FullWeight)
	gone.Arms[1].Version = "9"
	f(gone, seen{picked: n, fallbacks: n}, func(w way) { w.infer(t, askE, zeros) })
}

// TestTrialUsers has users who come again and again by each kind of sticky key.
func TestTrialUsers(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	const users, times = 10, 3
	f := func(sticky route.StickySpec, ask func(w way, user int)) {
		t.Helper()
		spec := onTrial(5000)
		spec.Sticky, spec.Trial = &sticky, "of "+sticky.Header+sticky.Cookie+sticky.Input
		s.set(t, nil, spec)
		for i := range times {
			for user := range users {
				ask(s.ways()[i%2], user)
			}
		}
		want := seen{picked: users, requests: users * times, answers: users}
		if got := seenOf(s.trial(t).Counts); got != want {
			t.Errorf("%+v: got %+v, want %+v", sticky, got, want)
		}
	}
	f(route.StickySpec{Header: "x-user"}, func(w way, user int) {
		w.infer(t, askE, zeros, fmt.Sprint("x-user: ", user))
	})
	f(route.StickySpec{Input: "INPUT0"}, func(w way, user int) {
		w.infer(t, askE, strings.Replace(zeros, `"data":[0`, fmt.Sprintf(`"data":[%d`, user), 1))
	})
	cookies := make([]string, users)
	f(route.StickySpec{Cookie: "who", Set: time.Hour}, func(w way, user int) {
		resp, _ := w.infer(t, askE, zeros, "Cookie: "+cookies[user])
		if set, _, _ := strings.Cut(resp.Header.Get("Set-Cookie"), ";"); set != "" {
			cookies[user] = set
		}
	})
}

// TestTrialGoesOn keeps the counts as long as the trial, and their cells apart.
func TestTrialGoesOn(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	w := s.ways()[0]
	f := func(cells ...uint64) {
		t.Helper()
		w.infer(t, askE, zeros)
		var got []uint64
		for _, c := range s.trial(t).Counts.Cells {
			got = append(got, c.Canary.Requests+c.Stable.Requests)
		}
		if !slices.Equal(got, cells) {
			t.Errorf("the cells have %v requests, want %v", got, cells)
		}
	}
	s.set(t, nil, onTrial(1000))
	f(1)
	s.set(t, nil, onTrial(5000))
	f(1, 1)
	s.core.SetWeights("e", []int{9000, 1000})
	f(2, 1)
	three := onTrial(1000) // of those that the third arm leaves
	three.Arms = append(three.Arms, route.ArmSpec{Name: "third", Model: "simple", Weight: 8000})
	s.set(t, nil, three)
	if cells := s.trial(t).Counts.Cells; cells[len(cells)-1].Rho != 0.5 {
		t.Errorf("beside a third arm the cells are %+v", cells)
	}
	next := onTrial(1000)
	next.Trial = "e.2"
	s.set(t, nil, next)
	f(1)
	s.set(t, nil, onTrial(1000))
	f(1)
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", 1000)})
	w.infer(t, askE, zeros)
	if got, ok := s.core.Trial("e"); ok {
		t.Errorf("an endpoint without a trial has %+v", got)
	}
	if _, ok := s.core.Trial("nobody"); ok {
		t.Error("an endpoint that is not there has a trial")
	}
}

// TestTrialUnderLoad moves the weights while clients ask, and wants no request lost.
func TestTrialUnderLoad(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	s.set(t, nil, onTrial(100))
	const clients, each = 4, 150
	var wait sync.WaitGroup
	for i := range clients {
		wait.Go(func() {
			c := connect(t, s.ways()[i%2])
			for range each {
				c.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s",
					askE, len(zeros), zeros))
				if resp, text := c.receive("POST"); resp.StatusCode != 200 {
					t.Errorf("while weights move: %d %s", resp.StatusCode, text)
					return
				}
			}
		})
	}
	over := make(chan struct{})
	go func() {
		wait.Wait()
		close(over)
	}()
	for i := 0; ; i++ {
		s.core.SetWeights("e", []int{9999 - 100*(i%30), 1 + 100*(i%30)})
		select {
		case <-over:
			got := seenOf(s.trial(t).Counts)
			want := seen{picked: clients * each, requests: clients * each, answers: clients * each}
			if got != want {
				t.Errorf("got %+v, want %+v", got, want)
			}
			return
		default:
		}
	}
}

// TestTrialNonFinite asks a linear model for answers that are not finite, and for others.
func TestTrialNonFinite(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	s.set(t, nil, route.Spec{Name: "e", Trial: "e.1", Arms: []route.ArmSpec{
		{Name: "stable", Model: "diabetes"},
		{Name: "canary", Model: "diabetes", Weight: route.FullWeight}}})
	for _, w := range s.ways() {
		for _, value := range []string{"0.5", "NaN", "Infinity"} {
			body := fmt.Sprintf(`{"inputs":[{"name":"X","datatype":"FP64","shape":[1,10],`+
				`"data":[%s0]}]}`, strings.Repeat(value+",", 9))
			if resp, text := w.infer(t, askE, body); resp.StatusCode != 200 {
				t.Fatalf("%d %s", resp.StatusCode, text)
			}
		}
	}
	n := uint64(len(s.ways()))
	got := s.trial(t).Counts.Cells[0].Canary
	if got.NonFinite != 2*n || got.Requests != 3*n || got.Errors != 0 {
		t.Errorf("of %d answers, two thirds of which are not finite: %+v", 3*n, got)
	}
}

// TestTrialRewards gives rewards for requests that were drawn, and for others.
func TestTrialRewards(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	cfg := feedback.DefaultConfig()
	cfg.Path = filepath.Join(t.TempDir(), "feedback.db")
	ledger, err := feedback.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ledger.Close() })
	s.core.SetLedger(ledger)
	spec := onTrial(5000)
	spec.Rules = []route.RuleSpec{{Header: "x-team", Exact: "risk", Arm: "canary"}}
	s.set(t, nil, spec)
	tell := func(id, what string) {
		t.Helper()
		resp, text := s.ask(t, "POST", "/v2/feedback", `{"id":"`+id+`",`+what+`}`)
		if resp.StatusCode != 200 {
			t.Errorf("feedback is answered with %d %s", resp.StatusCode, text)
		}
	}
	var want []trial.Reward
	for i := range 12 {
		w := s.ways()[i%2]
		drawn, _ := w.infer(t, askE, zeros)
		ruled, _ := w.infer(t, askE, zeros, "x-team: risk")
		pinned, _ := w.infer(t, "/v2/models/e/versions/2/infer", zeros)
		for _, resp := range []string{ruled.Header.Get("x-request-id"),
			pinned.Header.Get("x-request-id")} {
			tell(resp, `"reward":1`)
		}
		value := float64(i) / 16
		tell(drawn.Header.Get("x-request-id"), fmt.Sprintf(`"reward":%v`, value))
		tell(drawn.Header.Get("x-request-id"), `"reward":1`) // a duplicate
		labelled, _ := w.infer(t, askE, zeros)
		tell(labelled.Header.Get("x-request-id"), `"label":1`)
		want = append(want, trial.Reward{Rho: 0.5, Value: value,
			Canary: drawn.Header.Get("x-millrace-route") == "canary"})
	}
	if got := s.trial(t); !slices.Equal(got.Rewards, want) || got.Lost != 0 {
		t.Errorf("the rewards are %v and %d lost, want %v", got.Rewards, got.Lost, want)
	}
	if got := s.trial(t); len(got.Rewards) != 0 {
		t.Errorf("told twice: %v", got.Rewards)
	}
}

// user is the headers of a request with a sticky key.
type user []byte

func (u user) Header(name string) []byte {
	if name == "x-user" {
		return u
	}
	return nil
}

// begun returns a request from Begin to Finish, without what lies between.
func (s *server) begun(t testing.TB, spec route.Spec, h route.Headers) func() {
	s.set(t, nil, spec)
	name := []byte(spec.Name)
	return func() {
		x, err := s.core.Begin(gateway.Query{Name: name, Headers: h}, gateway.ProtocolHTTP)
		if err != nil {
			t.Fatal(err)
		}
		s.core.Finish(x, nil)
	}
}

// counted are the endpoints whose counting is measured.
func counted() map[string]route.Spec {
	plain, sticky := onTrial(1000), onTrial(1000)
	sticky.Sticky = &route.StickySpec{Header: "x-user"}
	without, stickyWithout := plain, sticky
	without.Trial, stickyWithout.Trial = "", ""
	return map[string]route.Spec{"without": without, "trial": plain,
		"sticky_without": stickyWithout, "sticky_trial": sticky}
}

func TestTrialDoesNotAllocate(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	for name, spec := range counted() {
		if n := testing.AllocsPerRun(1000, s.begun(t, spec, user("somebody"))); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// BenchmarkTrial is a request from Begin to Finish with and without a trial. Of sticky
// users 4096 come again and again, or 65536, whose bits have to come from memory.
func BenchmarkTrial(b *testing.B) {
	s := serve(b, model.ModeNone, twoVersions(b), nil)
	all := counted()
	f := func(name string, users int) {
		h := make(user, 8)
		request := s.begun(b, all[name], h)
		b.Run(fmt.Sprintf("%s/%d", name, users), func(b *testing.B) {
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				h[0], h[1] = byte(i%users), byte(i%users>>8)
				request()
			}
		})
	}
	f("without", 1)
	f("trial", 1)
	f("sticky_without", 4096)
	f("sticky_trial", 4096)
	f("sticky_without", 65536)
	f("sticky_trial", 65536)
}
