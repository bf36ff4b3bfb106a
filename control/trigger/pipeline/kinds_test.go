package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/notify"
	"github.com/millrace-ml/millrace/control/trigger"
)

// contractOf returns a kind's contract.
func contractOf(t *testing.T, kind string) contract {
	t.Helper()
	for _, c := range contracts {
		if c.kind == kind {
			return c
		}
	}
	t.Fatal(kind)
	return contract{}
}

// TestKilled drives runs by the state machine, and kills it once at each place: before
// and after each write, and during each call. The server ends up with one run.
func TestKilled(t *testing.T) {
	each(t, func(t *testing.T, c contract) {
		places := 1
		for at := 0; at < places; at++ {
			s, p := c.begin(t)
			place := 0
			killed := func() bool {
				place++
				return place-1 == at
			}
			spec := trigger.DefaultSpec()
			spec.Trigger, spec.Guarantee, spec.Settle = "retrain", p.Guarantee, time.Second
			e := trigger.Event{ID: "alarm/1", Reason: "drift of amount", Context: run("e").Context}
			var disk []byte
			now := time.Now()
			for range 100 {
				var r trigger.Run
				if disk == nil { // the event is told until it was written down
					r, _ = trigger.Decide(nil, e, spec, now)
					if !killed() {
						disk = written(t, r)
					}
					continue
				}
				if err := json.Unmarshal(disk, &r); err != nil {
					t.Fatal(err)
				}
				if r.State.Done() {
					break
				}
				now = now.Add(time.Second)
				r, action := r.Turn(now)
				if killed() {
					continue
				}
				disk = written(t, r)
				if killed() || action == trigger.Wait {
					continue
				}
				o := trigger.Act(t.Context(), p, r, action)
				if killed() {
					continue
				}
				disk = written(t, r.Next(o, now))
				s.set(c.succeeds)
			}
			var r trigger.Run
			if err := json.Unmarshal(disk, &r); err != nil {
				t.Fatal(err)
			}
			if r.State != trigger.Succeeded || s.count() != 1 {
				t.Errorf("killed at %d of %d: %d runs, %+v", at, places, s.count(), r)
			}
			places = max(places, place)
		}
		if places < 6 {
			t.Errorf("only %d places", places)
		}
	})
}

func written(t *testing.T, r trigger.Run) []byte {
	t.Helper()
	text, err := json.Marshal(r)
	if err != nil || strings.Contains(string(text), password) ||
		strings.Contains(string(text), token) {
		t.Fatalf("%v: %s", err, text)
	}
	return text
}

// TestAirflowToken has tokens that are not taken any more.
func TestAirflowToken(t *testing.T) {
	f := func(status int, body string, want error) {
		t.Helper()
		s, p := contractOf(t, "airflow3").begin(t)
		logins, refused := 0, 0
		s.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/auth/token" {
				logins++
				return false
			}
			if refused++; refused == 2 || want != nil && refused > 2 {
				w.WriteHeader(status)
				_, _ = fmt.Fprint(w, body)
				return true
			}
			return false
		})
		if _, err := p.Start(t.Context(), run("e")); err != nil {
			t.Fatal(err)
		}
		_, err := p.Status(t.Context(), trigger.Run{External: run("e").Name()})
		if !errors.Is(err, want) || want == nil && (err != nil || logins != 2) {
			t.Errorf("%d %s: %v after %d logins", status, body, err, logins)
		}
	}
	f(401, `{"detail":"Token Expired"}`, nil)
	f(403, `{"detail":"Invalid JWT token"}`, nil)
	f(403, `{"detail":"Forbidden"}`, trigger.ErrRefused)
	f(401, `{"detail":"Token Expired"}`, trigger.ErrRefused)
}

// TestKubeflowIdentity has a server that misses the user and says so by status 500.
func TestKubeflowIdentity(t *testing.T) {
	s, p := contractOf(t, "kubeflow2").begin(t)
	s.answer(func(w http.ResponseWriter, _ *http.Request) bool {
		say(w, 500, object{"error": "Internal error: Unauthenticated: Request header error"})
		return true
	})
	if _, err := p.Start(t.Context(), run("e")); !errors.Is(err, trigger.ErrRefused) {
		t.Error(err)
	}
}

// TestGitHubWithoutDetails has servers that do not tell the run's id.
func TestGitHubWithoutDetails(t *testing.T) {
	f := func(runName bool, refuses bool, want trigger.Guarantee) {
		t.Helper()
		c := contractOf(t, "github")
		config := c.config
		c.config = func(cfg *Config) { config(cfg); cfg.GitHub.RunName = runName }
		s, p := c.begin(t)
		if p.Guarantee != want {
			t.Errorf("it %s", p.Guarantee)
		}
		s.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if !s.starts(r) {
				return false
			}
			text, _ := io.ReadAll(r.Body)
			if refuses && strings.Contains(string(text), "return_run_details") {
				say(w, 422, object{"message": `"return_run_details" is not a permitted key`})
				return true
			}
			var body struct{ Inputs map[string]string }
			if err := json.Unmarshal(text, &body); err != nil {
				t.Error(err)
			}
			title := body.Inputs[trigger.RunKey]
			if !runName {
				title = "Train"
			}
			s.add(title, body.Inputs, "queued")
			w.WriteHeader(http.StatusNoContent)
			return true
		})
		got, err := p.Start(t.Context(), run("e"))
		if err != nil || s.count() != 1 {
			t.Fatalf("%+v, %v, %d runs", got, err, s.count())
		}
		if err := p.Cancel(t.Context(), got.External); err == nil {
			t.Error("cancelled what was not found")
		}
		looked, err := p.Status(t.Context(), trigger.Run{External: got.External})
		if runName && (err != nil || looked.External != "40") ||
			!runName && (!errors.Is(err, trigger.ErrGone) ||
				!strings.Contains(err.Error(), "run-name")) {
			t.Errorf("%+v, %v", looked, err)
		}
	}
	f(true, false, trigger.Finds)
	f(true, true, trigger.Finds)
	f(false, false, trigger.Blind)
	f(false, true, trigger.Blind)
}

// TestGoCDBusy has a pipeline that runs for somebody else, and one that waits.
func TestGoCDBusy(t *testing.T) {
	s, p := contractOf(t, "gocd").begin(t)
	s.change(func() { s.hide = true })
	s.change(func() { s.add("ann's", nil, "Building") })
	_, err := p.Start(t.Context(), run("e"))
	fault, ok := errors.AsType[*trigger.Fault](err)
	if !ok || fault.Kind != nil || !strings.Contains(err.Error(), "still in progress") {
		t.Errorf("busy: %v", err)
	}
	s.change(func() { s.jobs = nil })
	got, err := p.Start(t.Context(), run("e"))
	if err != nil || !strings.HasPrefix(got.External, after) {
		t.Fatalf("%+v, %v", got, err)
	}
	status(t, p, &got.External, trigger.Running)
	if err := p.Cancel(t.Context(), got.External); err == nil {
		t.Error("cancelled what is not there")
	}
	s.change(func() { s.hide = false })
	status(t, p, &got.External, trigger.Running)
	if got.External != "40" {
		t.Errorf("it is %s", got.External)
	}
}

// TestJenkinsQueue looks at what waits, was taken out, or is forgotten in the queue.
func TestJenkinsQueue(t *testing.T) {
	f := func(code int, answer object, want trigger.State, detail string) {
		t.Helper()
		s, p := contractOf(t, "jenkins").begin(t)
		got, err := p.Start(t.Context(), run("e"))
		if err != nil || !strings.HasPrefix(got.External, "queue/40/") {
			t.Fatalf("%+v, %v", got, err)
		}
		s.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/queue/item/") {
				say(w, code, answer)
				return true
			}
			return false
		})
		looked, err := p.Status(t.Context(), trigger.Run{External: got.External})
		if err != nil || looked.State != want || looked.Detail != detail {
			t.Errorf("%+v, %v, want %s", looked, err, want)
		}
	}
	f(200, object{"why": "In the quiet period"}, trigger.Running, "In the quiet period")
	f(200, object{"cancelled": true}, trigger.Cancelled, "it was taken out of the queue")
	f(404, object{}, trigger.Running, "") // found among the builds
}

// TestWebhook delivers a run and repeats that.
func TestWebhook(t *testing.T) {
	const text = "whsec_MDEyMzQ1Njc4OWFiY2RlZg=="
	secret, err := notify.ParseSecret(text)
	if err != nil {
		t.Fatal(err)
	}
	var ids, bodies []string
	code := http.StatusServiceUnavailable
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := secret.Verify(r.Header, body, time.Now()); err != nil || r.URL.Path != "/T0KEN/" {
			t.Error(r.URL, err)
		}
		ids, bodies = append(ids, r.Header.Get("webhook-id")), append(bodies, string(body))
		w.WriteHeader(code)
		_, _ = fmt.Fprint(w, text)
	}))
	defer server.Close()
	file := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Config{Server: DefaultServer(), Webhook: &Webhook{SecretFile: file}}
	c.Server.Origin, c.Server.Allow = server.URL+"/T0KEN/", []string{"127.0.0.0/8"}
	c.Server.Attempts, c.Server.Backoff = 2, time.Millisecond
	p, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	r := run("e")
	_, err = p.Start(t.Context(), r)
	if !errors.Is(err, trigger.ErrUncertain) || strings.Contains(err.Error(), "T0KEN") ||
		strings.Contains(err.Error(), "MDEy") {
		t.Errorf("%v", err)
	}
	code = http.StatusAccepted
	got, err := p.Start(t.Context(), r)
	if err != nil || got.External != r.Name() || len(ids) != 3 || ids[0] != r.Name() ||
		ids[2] != ids[0] || bodies[2] != bodies[0] ||
		!strings.Contains(bodies[0], `"endpoint":"fraud"`) {
		t.Errorf("%+v, %v, %v, %v", got, err, ids, bodies)
	}
	status(t, p, &got.External, trigger.Succeeded)
	if err := p.Cancel(t.Context(), got.External); err == nil {
		t.Error("taken back")
	}
	if err := os.WriteFile(file, []byte("no secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Start(t.Context(), r); err == nil || strings.Contains(err.Error(), "no secret") {
		t.Errorf("%v", err)
	}
}
