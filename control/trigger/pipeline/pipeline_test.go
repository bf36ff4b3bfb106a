package pipeline

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// each runs a test of each kind that asks a server.
func each(t *testing.T, f func(*testing.T, contract)) {
	for _, c := range contracts {
		t.Run(c.kind, func(t *testing.T) { f(t, c) })
	}
}

// status looks at a run and wants it to be in a state.
func status(t *testing.T, p *Pipeline, external *string, want trigger.State) trigger.Status {
	t.Helper()
	s, err := p.Status(t.Context(), trigger.Run{External: *external})
	if s.External != "" && s.External != *external { // it has been found
		*external = s.External
		s, err = p.Status(t.Context(), trigger.Run{External: *external})
	}
	if err != nil || s.State != want {
		t.Fatalf("%s: %+v, %v; want %s", *external, s, err, want)
	}
	return s
}

// TestRuns starts runs, again as after a crash, and follows them to all ends.
func TestRuns(t *testing.T) {
	each(t, func(t *testing.T, c contract) {
		s, p := c.begin(t)
		r := run("e")
		got, err := p.Start(t.Context(), r)
		if err != nil || got.External == "" || got.State != trigger.Running {
			t.Fatalf("%+v, %v", got, err)
		}
		r.Calls, r.Uncertain = 2, true
		again, err := p.Start(t.Context(), r)
		if err != nil || again.External == "" || s.count() != 1 {
			t.Fatalf("started again: %+v, %v, %d runs", again, err, s.count())
		}
		external := got.External
		s.set(c.waits)
		looked := status(t, p, &external, trigger.Running)
		if link := got.Link + looked.Link; !strings.HasPrefix(link, s.url) {
			t.Errorf("the link is %q", link)
		}
		s.set(c.succeeds)
		status(t, p, &external, trigger.Succeeded)
		s.set(c.fails)
		bad := status(t, p, &external, trigger.Failed)
		if bad.Detail == "" || c.kind != "gocd" && c.kind != "gitlab" &&
			!strings.Contains(bad.Detail+bad.Logs, "no rows") {
			t.Errorf("a failure says %+v", bad)
		}
		s.set(c.waits)
		if err := p.Cancel(t.Context(), external); err != nil {
			t.Fatal(err)
		}
		ended, err := p.Status(t.Context(), trigger.Run{External: external})
		if err != nil || ended.State != trigger.Failed && ended.State != trigger.Cancelled {
			t.Errorf("cancelled: %+v, %v", ended, err)
		}
		s.set(c.cancelled)
		ended, err = p.Status(t.Context(), trigger.Run{External: external})
		if err != nil || ended.State != trigger.Failed && ended.State != trigger.Cancelled {
			t.Errorf("cancelled: %+v, %v", ended, err)
		}
		r.Attempts, r.Calls, r.Uncertain = 2, 1, false
		if _, err := p.Start(t.Context(), r); err != nil || s.count() != 2 {
			t.Errorf("another attempt: %v, %d runs", err, s.count())
		}
		if c.kind == "gocd" {
			return // it tells runs apart by time
		}
		r.Attempts = 1
		first, err := p.Start(t.Context(), r)
		if err != nil || first.External != again.External || s.count() != 2 {
			t.Errorf("the first attempt: %+v, %v, not %+v", first, err, again)
		}
	})
}

// TestAnswerLost starts a run and does not learn of it.
func TestAnswerLost(t *testing.T) {
	each(t, func(t *testing.T, c contract) {
		s, p := c.begin(t)
		s.change(func() { s.lose = true })
		_, err := p.Start(t.Context(), run("e"))
		if !errors.Is(err, trigger.ErrUncertain) {
			t.Errorf("%v", err)
		}
		s.change(func() { s.lose = false })
		r := run("e")
		r.Calls, r.Uncertain = 2, true
		f := func(r trigger.Run, hide, found bool) {
			t.Helper()
			s.change(func() { s.hide = hide })
			got, err := p.Status(t.Context(), r)
			if found != (err == nil && got.External != "" && got.State == trigger.Running) ||
				!found && !errors.Is(err, trigger.ErrGone) || s.count() != 1 {
				t.Errorf("%s is looked for: %+v, %v, %d runs", r.Name(), got, err, s.count())
			}
		}
		later := r
		later.Attempts, later.Began = 2, r.Began.Add(time.Hour)
		f(r, true, false)
		f(later, false, false)
		f(r, false, p.Guarantee == trigger.Finds)
		got, err := p.Start(t.Context(), r)
		if err != nil || s.count() != 1 {
			t.Errorf("%+v, %v, %d runs", got, err, s.count())
		}
		external := got.External
		s.set(c.succeeds)
		status(t, p, &external, trigger.Succeeded)
	})
}

// TestStartFaults answers calls that start a run, and those before, with what goes wrong.
func TestStartFaults(t *testing.T) {
	each(t, func(t *testing.T, c contract) {
		s, p := c.begin(t)
		f := func(answer http.HandlerFunc, kind error, text string) {
			t.Helper()
			s.answer(func(w http.ResponseWriter, r *http.Request) bool {
				if s.starts(r) {
					answer(w, r)
				}
				return s.starts(r)
			})
			got, err := p.Start(t.Context(), run("e"))
			fault, ok := errors.AsType[*trigger.Fault](err)
			if !ok || fault.Kind != kind || !strings.Contains(err.Error(), text) {
				t.Errorf("%q: got %+v, %v, want %v", text, got, err, kind)
			}
		}
		code := func(n int, body string) http.HandlerFunc {
			return func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Retry-After", "60")
				w.WriteHeader(n)
				_, _ = fmt.Fprint(w, body)
			}
		}
		f(code(400, "bad"), trigger.ErrRefused, "400")
		f(code(401, "who are you"), trigger.ErrRefused, "401")
		f(code(403, "no"), trigger.ErrRefused, "403")
		f(code(404, "no such job"), trigger.ErrRefused, "404")
		f(code(422, "not an input"), trigger.ErrRefused, "not an input")
		f(code(429, "later"), nil, "429")
		f(code(500, "<html><title>Oops</title>"), trigger.ErrUncertain, "Oops")
		f(code(503, "full"), trigger.ErrUncertain, "503")
		f(func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/login", http.StatusFound)
		}, trigger.ErrRefused, "redirect")
		f(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
			trigger.ErrUncertain, "cannot")
		if s.count() != 0 {
			t.Errorf("%d runs have started", s.count())
		}
		if c.kind == "gocd" || c.kind == "dispatch" {
			return // their answers have no content
		}
		f(code(200, "<html><title>Sign in</title>"), trigger.ErrUncertain, "")
		if c.kind != "github" && c.kind != "gitea" {
			f(code(200, "{}"), trigger.ErrUncertain, "")
		}
	})
}

// TestStatusFaults looks at a run while the server fails or lies.
func TestStatusFaults(t *testing.T) {
	each(t, func(t *testing.T, c contract) {
		s, p := c.begin(t)
		got, err := p.Start(t.Context(), run("e"))
		if err != nil {
			t.Fatal(err)
		}
		external := got.External
		s.set(c.waits)
		status(t, p, &external, trigger.Running)
		s.set("dancing")
		lie, err := p.Status(t.Context(), trigger.Run{External: external})
		if c.kind != "gocd" && (err == nil || !strings.Contains(err.Error(), "dancing")) ||
			lie.State.Done() && err == nil {
			t.Errorf("a lie: %+v, %v", lie, err)
		}
		f := func(n int, body string, kind error) {
			t.Helper()
			s.answer(func(w http.ResponseWriter, r *http.Request) bool {
				w.WriteHeader(n)
				_, _ = fmt.Fprint(w, body)
				return true
			})
			got, err := p.Status(t.Context(), trigger.Run{External: external})
			fault, ok := errors.AsType[*trigger.Fault](err)
			if !ok || fault.Kind != kind {
				t.Errorf("%d %s: got %+v, %v, want %v", n, body, got, err, kind)
			}
		}
		f(404, "", trigger.ErrGone)
		f(500, "oops", nil)
		f(503, "", nil)
		f(200, "<html>Sign in</html>", nil)
		f(200, "[]", nil)
		f(200, `{"run": {"id": "1"}, "id": 1, "counter": 1, "number": 1, "state": "success",`+
			`"dag_run_id": "x", "run_id": "1", "metadata": {"name": "x"}}`, nil)
		f(200, "", nil)
		f(200, `{"state":`, nil)
		f(200, strings.Repeat(" ", 5<<20), nil)
	})
}

// TestSecrets has the server repeat all that it gets in its errors.
func TestSecrets(t *testing.T) {
	each(t, func(t *testing.T, c contract) {
		s, p := c.begin(t)
		s.answer(func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path == "/auth/token" {
				return false
			}
			_, pass, _ := r.BasicAuth()
			w.WriteHeader(http.StatusBadRequest)
			_, _ = fmt.Fprint(w, "do not repeat: ", pass, " ", r.Header["Authorization"], " ",
				form(r).Get("token"))
			return true
		})
		_, err := p.Start(t.Context(), run("e"))
		_, err2 := p.Status(t.Context(), trigger.Run{External: "40"})
		err3 := p.Cancel(t.Context(), "40")
		text := fmt.Sprint(err, err2, err3)
		if !strings.Contains(text, "do not repeat") {
			t.Errorf("the server's words are lost: %s", text)
		}
		for _, secret := range []string{password, token, "Ym90OnBhNTV3b3JkKy89"} {
			if strings.Contains(text, secret) {
				t.Errorf("%s is in: %s", secret, text)
			}
		}
		s, p = c.begin(t)
		t.Setenv("CI_PASSWORD", "")
		t.Setenv("CI_TOKEN", "")
		s.answer(func(http.ResponseWriter, *http.Request) bool {
			t.Error("asked without a secret")
			return false
		})
		if _, err := p.Start(t.Context(), run("e")); !notAsked(err) {
			t.Errorf("started without a secret: %v", err)
		}
	})
}

// notAsked says whether an error is that of a call that did not get through.
func notAsked(err error) bool {
	return err != nil && !errors.Is(err, trigger.ErrUncertain) &&
		!errors.Is(err, trigger.ErrRefused)
}

// TestSlow asks a server that does not answer, and one that is not there.
func TestSlow(t *testing.T) {
	each(t, func(t *testing.T, c contract) {
		c.config = func(config func(*Config)) func(*Config) {
			return func(cfg *Config) {
				config(cfg)
				cfg.Server.Timeout = 60 * time.Millisecond
				cfg.Server.IdleTimeout = cfg.Server.Timeout
			}
		}(c.config)
		s, p := c.begin(t)
		s.answer(func(_ http.ResponseWriter, r *http.Request) bool {
			if s.starts(r) {
				_, _ = io.Copy(io.Discard, r.Body) // or the server does not see the client leave
				select {
				case <-r.Context().Done():
				case <-time.After(10 * time.Second):
				}
			}
			return s.starts(r)
		})
		if _, err := p.Start(t.Context(), run("e")); !errors.Is(err, trigger.ErrUncertain) {
			t.Errorf("slow: %v", err)
		}
		cfg := Config{Server: DefaultServer()}
		cfg.Server.Origin, cfg.Server.Allow = "http://127.0.0.1:1", []string{"127.0.0.0/8"}
		cfg.Server.Attempts = 1
		c.config(&cfg)
		away, err := Open(cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer away.Close()
		if _, err = away.Start(t.Context(), run("e")); !notAsked(err) {
			t.Errorf("away: %v", err)
		}
	})
}

func TestValidate(t *testing.T) {
	f := func(change func(*Config), want string) {
		t.Helper()
		c := Config{Server: DefaultServer()}
		c.Server.Origin = "https://ci.example"
		change(&c)
		_, err := Open(c)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	f(func(*Config) {}, "0 kinds are set")
	f(func(c *Config) { c.Airflow, c.Argo = &Airflow{}, &Argo{} }, "2 kinds are set")
	f(func(c *Config) { c.Airflow = &Airflow{DAG: "a/b"} }, `dag: "a/b" cannot be a name`)
	f(func(c *Config) { c.Airflow = &Airflow{DAG: "a", Version: 1} }, "2 and 3 are allowed")
	f(func(c *Config) { c.Airflow, c.Server.Origin = &Airflow{DAG: "a"}, "" }, "uri")
	f(func(c *Config) { c.Kubeflow = &Kubeflow{User: "x"} }, "user_header: goes together with user")
	f(func(c *Config) { c.Kubeflow = &Kubeflow{V1: true} }, "version_id: is missing")
	f(func(c *Config) { c.GoCD = &GoCD{} }, "user: is missing")
	f(func(c *Config) { c.GitHub = &Workflow{Repository: "a/../b"} }, "owner/name")
	event := &Workflow{Repository: "a/b", EventType: "x"}
	f(func(c *Config) { c.GitHub = event }, "run_name: is needed")
	f(func(c *Config) { c.Gitea = event }, "only GitHub has it")
	f(func(c *Config) { c.GitLab = &GitLab{} }, "trigger_token_file or trigger_token_env")
	f(func(c *Config) { c.Argo = &Argo{Namespace: ".."} }, "namespace")
	f(func(c *Config) { c.Jenkins = &Jenkins{Job: "a//b"} }, "job: is missing")
	f(func(c *Config) { c.Webhook = &Webhook{} }, "secret_file or secret_env")
	f(func(c *Config) { c.Command = &Command{Argv: []string{"train"}} }, "absolute path")
}
