package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/notify"
	"github.com/millrace-ml/millrace/control/rollout"
)

// peer is a server that answers what a test says, and notes what it is asked.
type peer struct {
	*httptest.Server

	mu     sync.Mutex
	status int
	body   string
	asked  []*http.Request // their bodies are in bodies
	bodies []string
}

func newPeer(t *testing.T) *peer {
	p := &peer{status: http.StatusOK}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.asked, p.bodies = append(p.asked, r), append(p.bodies, string(body))
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(p.status)
		_, _ = io.WriteString(w, p.body)
	}))
	t.Cleanup(p.Close)
	return p
}

func (p *peer) answer(status int, body string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.status, p.body = status, body
}

func (p *peer) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.asked)
}

// vector is Prometheus's answer with a value.
func vector(value string) string {
	return `{"status": "success", "data": {"resultType": "vector", "result": [{"metric": {},
		"value": [1764000000.1, "` + value + `"]}]}}`
}

func TestPrometheus(t *testing.T) {
	const query = `sum(rate(x{a="b"}[1m]))`
	p := newPeer(t)
	f := func(status int, body, want string) {
		t.Helper()
		p.answer(status, body)
		value, err := askPrometheus(t.Context(), p.URL+"/prefix/", query)
		got := fmt.Sprint(value)
		if err != nil {
			got = err.Error()
		}
		if !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	f(200, vector("0.25"), "0.25")
	f(200, vector("NaN"), "NaN")
	f(200, vector("+Inf"), "+Inf")
	f(200, vector("much"), "invalid syntax")
	f(200, `{"data": {"resultType": "scalar", "result": [1, "7"]}}`, "7")
	f(200, `{"data": {"resultType": "vector", "result": []}}`, "NaN")
	f(200, `{"data": {"resultType": "vector", "result": [{"value": [1, "1"]},
		{"value": [1, "2"]}]}}`, "the query has 2 values; sum or max makes one")
	f(200, `{"data": {"resultType": "matrix", "result": []}}`, "gives a matrix; a number is needed")
	f(200, `{"data": {"resultType": "scalar", "result": "7"}}`, "cannot unmarshal")
	f(400, `{"status": "error", "error": "parse error: x"}`, "the query is refused: parse error: x")
	f(503, `down`, "503")
	f(200, `<html>`, "an HTML page came")
	asked := p.asked[0].URL
	if asked.Path != "/prefix/api/v1/query" || asked.Query().Get("query") != query {
		t.Errorf("asked is %s", asked)
	}
	if _, err := askPrometheus(t.Context(), "no address", "x"); err == nil {
		t.Error("what is no address answers")
	}
}

// TestPrometheusGuard rolls back by a query's value.
func TestPrometheusGuard(t *testing.T) {
	p := newPeer(t)
	p.answer(200, vector("0.5"))
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion", "canary": {"watch": "@challenger",
		"steps": [10], "guards": [{"metric": "prometheus", "query": "q", "max": 1,
		"server": "`+p.URL+`"}]}}`)
	b.look(0)
	b.look(time.Second)
	seen := func() rollout.Queried { return b.state().Seen.Queries["q"] }
	round := func() { // a question, and the look that takes the answer
		t.Helper()
		n := p.count()
		b.look(askInterval)
		b.eventually("Prometheus is asked", func() bool { return p.count() > n })
		b.eventually("the answer is there", func() bool {
			a := &b.runs["e/1"].asker
			a.mu.Lock()
			defer a.mu.Unlock()
			return !a.under
		})
		b.traffic(300, 0)
		b.look(time.Second)
	}
	round()
	b.look(leastSave)
	if q := seen(); !q.Known || q.Value != 0.5 {
		t.Errorf("known is %+v", q)
	}
	p.answer(200, vector("7"))
	for range 3 {
		round()
	}
	if s := b.state(); s.Verdict != rollout.Failed || !strings.Contains(s.Guard, "prometheus") {
		t.Errorf("the rollout is %s by %s: %s", s.Verdict, s.Guard, s.Reason)
	}
	b.serves("stable=1")
}

// hook verifies what a hook is asked and returns the event.
func (p *peer) event(t *testing.T, i int, secret string) notify.Event {
	t.Helper()
	s, err := notify.ParseSecret(secret)
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := s.Verify(p.asked[i].Header, []byte(p.bodies[i]), time.Now()); err != nil {
		t.Error(err)
	}
	var e notify.Event
	if err := json.Unmarshal([]byte(p.bodies[i]), &e); err != nil {
		t.Error(err)
	}
	e.ID = p.asked[i].Header.Get("webhook-id")
	return e
}

// TestHooks holds a rollout until a hook agrees, and tells it of the end.
func TestHooks(t *testing.T) {
	const secret = "whsec_bm9ib2R5IGtub3dzIHRoaXMgb25l"
	t.Setenv("TEST_HOOK_SECRET", secret)
	p := newPeer(t)
	p.answer(200, `{"allow": false, "reason": "not on a Friday"}`)
	b := open(t)
	b.aliases("1", "2")
	b.endpoint(`, "hooks": [{"url": "` + p.URL + `", "secret_env": "TEST_HOOK_SECRET",
		"on": ["start", "promotion", "end"]}]`)
	b.look(0)
	waits := func(why string) {
		t.Helper()
		b.eventually(why, func() bool { b.look(0); return strings.Contains(b.record().Held, why) })
	}
	waits("does not agree: not on a Friday")
	b.serves("stable=1")
	n := p.count()
	for range 3 {
		b.look(askAgain / 4)
	}
	if p.count() != n {
		t.Error("a hook that has just said no is asked again")
	}
	p.answer(200, "")
	b.look(askAgain)
	b.eventually("it begins", func() bool { b.look(0); return b.state().Phase == rollout.Step })
	if e := p.event(t, 0, secret); e.ID != "e%2F1%2Fstart-1%2F0%2F1" ||
		e.Type != notify.BeforeStart || e.Data.Canary != "2" {
		t.Errorf("asked is %+v", e)
	}
	if e := p.event(t, 1, secret); e.ID != "e%2F1%2Fstart-1%2F0%2F2" {
		t.Errorf("asked is %+v", e)
	}
	p.answer(500, "")
	for range 40 {
		b.traffic(3000, 0)
		b.look(10 * time.Second)
	}
	waits("does not agree")
	b.serves("stable=1 canary=2:5000")
	p.answer(204, "")
	b.eventually("it is promoted", func() bool {
		b.look(askAgain)
		return b.status("e").Former != nil
	})
	b.serves("stable=2")
	b.eventually("the end is told", func() bool {
		e := p.event(t, p.count()-1, secret)
		return e.Type == notify.AfterEnd && e.Data.Weight == 100
	})
}

// TestHookSecret has a hook without its secret hold a rollout, and say what is missing.
func TestHookSecret(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.endpoint(`, "hooks": [{"url": "https://example.com", "secret_env": "TEST_NO_SECRET"}]`)
	b.look(0)
	b.eventually("it says what is missing", func() bool {
		b.look(0)
		return strings.Contains(b.record().Held, "variable TEST_NO_SECRET has no secret")
	})
	b.serves("stable=1")
}

// TestNotices tells a chat of each step.
func TestNotices(t *testing.T) {
	p := newPeer(t)
	t.Setenv("TEST_CHAT", p.URL)
	b := open(t)
	b.aliases("1", "2")
	b.endpoint(`, "notify": [{"kind": "slack", "url_env": "TEST_CHAT"},
		{"kind": "teams", "url_env": "TEST_NO_CHAT"}]`)
	b.look(0)
	b.look(time.Second)
	b.says("abort", "aborted")
	b.eventually("both are told", func() bool { return p.count() == 2 })
	if !strings.Contains(p.bodies[1], "ana aborted it") {
		t.Errorf("told is %s", p.bodies[1])
	}
	if b.log.count("TEST_NO_CHAT has no address") != 2 {
		t.Error("it is not said that a chat has no address")
	}
}
