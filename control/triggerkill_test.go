package control

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/incoming"
)

// drill takes an alert to the end of its run, from wherever that was left, and returns the run.
func (b *bench) drill(spec string) trigger.Run {
	b.t.Helper()
	b.put("Trigger", "train", spec)
	b.alert("01", "")
	b.eventually("its run has ended", func() bool {
		b.now = later(b.now, time.Now()).Add(10 * time.Second) // it may have to be looked for
		b.turnAll()
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.drivers) == 0
	})
	runs := b.runsOf("train")
	if len(runs) != 1 {
		b.t.Fatalf("there are %d runs", len(runs))
	}
	return runs[0]
}

// killedAt ends the plane at its nth step, as far as it gets, and says what that was.
func (b *bench) killedAt(n int, f func()) (at string) {
	steps, done := 0, make(chan struct{})
	b.Plane.cfg.step = func(what string) {
		if steps++; steps == n {
			at = what
			runtime.Goexit()
		}
	}
	go func() {
		defer close(done)
		f()
	}()
	<-done
	return at
}

// TestTriggerKilled kills the plane at each thing that it does between an alert and the end of
// the run that follows, and has the alert come again: there is exactly one run there, and we know
// how it ended. Where nobody can tell, there is one at most.
func TestTriggerKilled(t *testing.T) {
	const on = `, "on": {"alert": {"alertname": "Drift"}}`
	f := func(name string, spec func() (string, func() int), want func(trigger.Run, int) string) {
		kills := 0
		for n := 1; ; n++ {
			b := open(t)
			text, began := spec()
			at := b.killedAt(n, func() { b.drill(text) })
			if at == "" {
				break
			}
			kills++
			b.restart()
			run := b.drill(text)
			if fault := want(run, began()); fault != "" {
				t.Errorf("%s, killed at step %d (%s): %s: %d runs, the record is %+v", name, n, at,
					fault, began(), run)
			}
			b.close()
			b.start(config.Default()) // for the clean-up
		}
		if kills < 12 {
			t.Errorf("%s was killed %d times", name, kills)
		}
	}
	once := func(run trigger.Run, began int) string {
		if began != 1 || run.State != trigger.Succeeded || run.Attempts != 1 {
			return "not one run that succeeded"
		}
		return ""
	}
	f("airflow", func() (string, func() int) {
		a := serveAirflow(t)
		return a.trigger(on), a.began
	}, once)
	f("command", func() (string, func() int) {
		out := filepath.Join(t.TempDir(), "out")
		return commandTrigger(out, says, on), func() int { return len(leftBy(t, out)) }
	}, once)
	gitea := func(more string) func() (string, func() int) {
		return func() (string, func() int) {
			g := serveGitea(t)
			return fmt.Sprintf(`{"gitea": {"uri": %q, "repository": "ml/train", "file": "train.yml",
				"ref": "main"%s}, "poll": "1ms"%s}`, g.URL, more, on), g.began
		}
	}
	f("gitea with run_name", gitea(`, "run_name": true`), once)
	f("gitea", gitea(""), func(run trigger.Run, began int) string {
		switch {
		case began > 1:
			return "several runs"
		case run.State == trigger.Succeeded && began == 1 || run.State == trigger.Lost:
			return ""
		}
		return "neither lost nor succeeded"
	})
}

// gitea is a server of Gitea Actions that starts a run each time that it is asked.
type gitea struct {
	*httptest.Server
	starts atomic.Int64
	title  atomic.Value // of the last one
}

func (g *gitea) began() int { return int(g.starts.Load()) }

func serveGitea(t *testing.T) *gitea {
	g := new(gitea)
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch id := filepath.Base(r.URL.Path); {
		case r.Method == http.MethodPost:
			var body struct{ Inputs map[string]string }
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			g.title.Store(body.Inputs[trigger.RunKey])
			fmt.Fprintf(w, `{"workflow_run_id": %d}`, g.starts.Add(1))
		case id == "runs" && g.began() > 0:
			fmt.Fprintf(w, `{"workflow_runs": [{"id": %d, "display_title": "train %s"}]}`,
				g.began(), g.title.Load())
		case id == "runs":
			fmt.Fprint(w, `{"workflow_runs": []}`)
		default:
			fmt.Fprintf(w, `{"id": %s, "status": "success"}`, id)
		}
	}))
	t.Cleanup(g.Close)
	return g
}

// TestAlertHook takes webhooks of Alertmanager that know the token.
func TestAlertHook(t *testing.T) {
	b := open(t)
	b.close()
	a := serveAirflow(t)
	t.Setenv("ALERT_TOKEN", "")
	b.start(parse(t, fmt.Sprintf("server: {pipelines: {alert_token_env: ALERT_TOKEN}}\n"+
		"triggers: [{name: train, on: {alert: {alertname: Drift}}, "+
		"airflow: {uri: %q, dag: train}}]\n", a.URL)))
	b.alert("01", "ALERT_TOKEN")
	t.Setenv("ALERT_TOKEN", "other")
	b.alert("01", "not authentic")
	t.Setenv("ALERT_TOKEN", "t0ken")
	b.alert("01", "1 runs begin")
	b.alert("01", "nothing new")
	b.alert("no", "malformed")
	h := http.Header{"Authorization": {"Bearer t0ken"}}
	large := []byte(strings.Repeat(" ", 10<<20))
	if _, err := b.AlertHook(t.Context(), h, large); !errors.Is(err, incoming.ErrTooLarge) {
		t.Error(err)
	}
	works := b.fail()
	if _, err := b.AlertHook(t.Context(), h, []byte(`{"version": "4", "alerts": [{"status":
		"firing", "fingerprint": "02", "startsAt": "2026-08-22T10:00:00Z",
		"labels": {"alertname": "Drift"}}]}`)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("the store cannot be written, and the answer is %v", err)
	}
	works()
	b.stand("train", "pending")
	b.alert("02", "0 runs begin, 1 were suppressed")
	if n := a.began(); n != 0 {
		t.Errorf("%d runs begin in a webhook", n)
	}
}

// TestPushHook takes signed webhooks of a Git host, each once.
func TestPushHook(t *testing.T) {
	b := open(t)
	a := serveAirflow(t)
	t.Setenv("PUSH_SECRET", "hush")
	b.put("Trigger", "train", a.trigger(`, "cooldown": "0s", "on": {"push":
		{"repository": "ml/train", "branch": "main", "secret_env": "PUSH_SECRET"}}`),
		"Trigger", "other", a.trigger(""))
	main := [2]string{"main", "hush"} // a branch, and a secret
	f := func(name, delivery string, pushed [2]string, want string) {
		t.Helper()
		body := []byte(`{"ref": "refs/heads/` + pushed[0] + `", "after": "` +
			strings.Repeat(delivery[:1], 40) + `", "repository": {"full_name": "ml/train"}}`)
		mac := hmac.New(sha256.New, []byte(pushed[1]))
		mac.Write(body)
		text, err := b.PushHook(t.Context(), name, http.Header{"X-Github-Event": {"push"},
			"X-Github-Delivery":   {delivery},
			"X-Hub-Signature-256": {"sha256=" + hex.EncodeToString(mac.Sum(nil))}}, body)
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, want) {
			t.Errorf("%s %s: %q, want %q", name, delivery, text, want)
		}
	}
	f("none", "1", main, "no trigger")
	f("other", "1", main, "no trigger")
	f("train", "1", [2]string{"main", "guess"}, "not authentic")
	f("train", "1", [2]string{"dev", "hush"}, "does not wait")
	f("train", "1", main, "1 runs begin")
	b.finish()
	f("train", "1", main, "come before")
	b.restart()
	f("train", "1", main, "come before")
	f("train", "1b", main, "0 runs begin, 0") // another delivery of the same commit
	f("train", "2", main, "1 runs begin")
	b.finish()
	b.stand("train", "succeeded succeeded")
	if run := b.runsOf("train")[1]; run.Context.Extra["commit"] != strings.Repeat("2", 40) {
		t.Errorf("%+v", run.Context)
	}
	t.Setenv("PUSH_SECRET", "")
	f("train", "3", [2]string{"main", ""}, "PUSH_SECRET")
}

// TestServerFails has a pipeline server that is down at first, then asks to be left alone, then
// loses the run.
func TestServerFails(t *testing.T) {
	b := open(t)
	a := serveAirflow(t)
	b.put("Trigger", "train", a.trigger(""))
	a.set("success", http.StatusForbidden)
	b.tell("train", TriggerStart, "begins")
	b.finish()
	b.stand("train", "failed")
	a.set("queued", 0) // the DAG is paused
	b.tell("train", TriggerStart, "begins")
	b.eventually("it is said to wait", func() bool {
		b.turnAll()
		run := b.runsOf("train")[1]
		return run.State == trigger.Running && strings.Contains(run.Error, "may be paused")
	})
	a.set("running", 0)
	b.eventually("it runs", func() bool { b.turnAll(); return b.runsOf("train")[1].Error == "" })
	a.mu.Lock()
	a.runs = nil
	a.mu.Unlock()
	b.finish()
	b.stand("train", "failed lost")
	if run := b.runsOf("train")[1]; !strings.Contains(run.Error, "404") {
		t.Errorf("it was lost because %q", run.Error)
	}
}

// TestDriven lets the plane go by itself: a run goes on after a restart, and ends.
func TestDriven(t *testing.T) {
	b := open(t)
	b.close()
	a := serveAirflow(t)
	a.set("running", 0)
	b.cfg.manual = false
	b.start(config.Default())
	b.put("Trigger", "train", a.trigger(""))
	b.tell("train", TriggerStart, "begins")
	is := func(state trigger.State) func() bool {
		return func() bool { return b.runsOf("train")[0].State == state }
	}
	b.eventually("it runs", is(trigger.Running))
	b.restart()
	a.set("success", 0)
	b.eventually("it has succeeded", is(trigger.Succeeded))
	if n := a.began(); n != 1 {
		t.Errorf("%d have begun", n)
	}
	a.set("running", 0)
	b.tell("train", TriggerStart, "begins")
	b.eventually("it runs", func() bool { return b.runsOf("train")[1].State == trigger.Running })
	b.remove("Trigger", "train")
	b.eventually("nobody drives it", func() bool {
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.drivers)+len(b.pipelines) == 0
	})
}

// TestCloseWhileStarting ends the plane while a start is under way: that comes to its end.
func TestCloseWhileStarting(t *testing.T) {
	b := open(t)
	b.close()
	asked, answer := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(asked)
		<-answer
		fmt.Fprint(w, `{"workflow_run_id": 7}`)
	}))
	defer server.Close()
	b.cfg.manual = false
	b.start(config.Default())
	b.put("Trigger", "train", fmt.Sprintf(`{"gitea": {"uri": %q, "repository": "ml/train",
		"file": "train.yml", "ref": "main"}}`, server.URL))
	b.tell("train", TriggerStart, "begins")
	<-asked
	time.AfterFunc(50*time.Millisecond, func() { close(answer) })
	b.close()
	b.cfg.manual = true
	b.start(config.Default())
	if run := b.runsOf("train")[0]; run.State != trigger.Running || run.External != "7" {
		t.Errorf("%+v", run)
	}
}

// TestBrokenPipeline has a trigger whose pipeline cannot be opened: its run waits until it can.
func TestBrokenPipeline(t *testing.T) {
	b := open(t)
	a := serveAirflow(t)
	b.put("Trigger", "train", a.trigger(`, "access": {"ca_file": "/none.pem"}`))
	b.tell("train", TriggerStart, "begins")
	b.turnAll()
	if run := b.runsOf("train")[0]; run.State != trigger.Pending ||
		!strings.Contains(run.Error, "/none.pem") {
		t.Errorf("%+v", run)
	}
	if n := b.log.count("a pipeline cannot be opened"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
	b.put("Trigger", "train", a.trigger(""))
	b.finish()
	b.stand("train", "succeeded")
	if n := a.began(); n != 1 {
		t.Errorf("%d have begun", n)
	}
}
