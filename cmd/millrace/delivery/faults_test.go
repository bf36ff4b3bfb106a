package delivery_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/rollout"
)

// Without webhooks nothing would be known before an hour is over.
const faultSettings = `
sources:
  - name: lab
    poll: 1h
    mlflow: {uri: %q, experiment: deliveries, webhook_secret_env: HOOK_SECRET}
models:
  - {name: digits, source: lab, batching: {max_batch_size: 1}}
endpoints:
  - name: digits
    stable: "@champion"
    canary:
      watch: "@challenger"
      steps: [10, 50]
      step: {min_time: 4s, min_requests: 200}
      guards: [{metric: errors}]
      then: {alias: champion}
`

const hookSecret = "a secret of a registry"

// TestMLflowAway takes MLflow away during a rollout: what serves goes on, and what follows from
// the verdict is done when MLflow is back.
func TestMLflowAway(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an MLflow server; make test runs it")
	}
	t.Parallel()
	l := openLab(t)
	l.train("first", "better")
	l.name("1", "champion")
	dir := t.TempDir()
	write(t, dir, fmt.Sprintf(faultSettings, l.server.URI))
	s := launch(t, dir, "HOOK_SECRET="+hookSecret)
	traffic := s.load("digits", l.bodies())
	until(t, "version 1 serves", 30*time.Second, func() bool {
		a, err := traffic.ask(0)
		return err == nil && a.status == http.StatusOK
	})
	l.hook(s)
	traffic.check = served
	traffic.start(4)

	l.name("2", "challenger")
	moved := time.Now()
	until(t, "the webhook starts a rollout", 20*time.Second, func() bool {
		return s.endpoint("digits").Rollout != ""
	})
	t.Logf("the rollout began %v after the alias was set",
		time.Since(moved).Round(time.Millisecond))
	until(t, "the first step begins", 20*time.Second, func() bool {
		return strings.Contains(s.must("rollout", "status", "digits"), "step 1 of 2")
	})
	l.signal(syscall.SIGSTOP) // it takes connections and says nothing
	until(t, "the second step begins", time.Minute, func() bool {
		return strings.Contains(s.must("rollout", "status", "digits"), "step 2 of 2")
	})
	again := l.command()
	l.signal(syscall.SIGKILL)
	if v := s.verdict("digits/1", time.Minute); v.State.Verdict != rollout.Successful {
		t.Errorf("the better version: %s", v.State.Sentence())
	}
	until(t, "it is said that MLflow is away", 30*time.Second, func() bool {
		return contains(s.must("describe", "rollout", "digits/1"), "Action alias champion",
			"is tried again: ")
	})
	traffic.end()
	if wrong := traffic.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}

	s.Kill()
	s = launch(t, dir, "HOOK_SECRET="+hookSecret)
	a, err := s.load("digits", l.bodies()).ask(0)
	if err != nil || a.status != http.StatusOK || a.version != "2" {
		t.Errorf("after a start without MLflow version %q answers with %d %s, %v", a.version,
			a.status, a.body, err)
	}
	l.restart(again)
	l.catchesUp()
}

// catchesUp waits for what follows from a verdict of version 2.
func (l *lab) catchesUp() {
	t := l.t
	t.Helper()
	back := time.Now()
	came := func(what string) {
		t.Logf("%s came %v after MLflow was back", what, time.Since(back).Round(time.Millisecond))
	}
	until(t, "the alias champion moves", time.Minute, func() bool {
		return l.alias("champion") == "2"
	})
	came("the alias")
	until(t, "the version is tagged", time.Minute, func() bool {
		return l.tags("2")["millrace.verdict"] == "successful"
	})
	came("the tags")
	if run, _ := l.run("digits/1"); run.Status != "FINISHED" {
		t.Errorf("the run is %s", run.Status)
	}
	came("the run")
}

// served wants an answer to be one.
func served(a answer) string {
	if a.status != http.StatusOK {
		return "this status is not expected"
	}
	return ""
}

// hook has MLflow tell a server of aliases. It takes a second until it does.
func (l *lab) hook(s *server) {
	l.t.Helper()
	to := "http://" + s.Addresses["admin"] + "/api/v1/sources/lab/webhook"
	body, err := json.Marshal(map[string]any{"name": "millrace", "status": "ACTIVE",
		"secret": hookSecret, "url": to,
		"events": []map[string]string{{"entity": "MODEL_VERSION_ALIAS", "action": "CREATED"}}})
	if err != nil {
		l.t.Fatal(err)
	}
	resp, err := http.Post(l.server.URI+"/api/2.0/mlflow/webhooks", "application/json",
		bytes.NewReader(body))
	if err != nil {
		l.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		l.t.Fatalf("MLflow takes no webhook: %s", resp.Status)
	}
	until(l.t, "a webhook comes", 30*time.Second, func() bool {
		l.name("1", "hooked")
		return contains(s.must("describe", "model", "digits"), "hooked")
	})
}

// pid finds the process of MLflow by its database.
func (l *lab) pid() int {
	l.t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		l.t.Fatal(err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(text, []byte("--backend-store-uri\x00sqlite:///"+
			l.server.Database)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err == nil {
			return pid
		}
	}
	l.t.Fatal("MLflow does not run")
	return 0
}

// signal sends a signal to MLflow and its children.
func (l *lab) signal(s syscall.Signal) {
	l.t.Helper()
	if err := syscall.Kill(-l.pid(), s); err != nil {
		l.t.Fatal(err)
	}
}

// command returns the command that MLflow was started by, with the port that it has.
func (l *lab) command() *exec.Cmd {
	l.t.Helper()
	at := filepath.Join("/proc", strconv.Itoa(l.pid()))
	read := func(name string) []string {
		text, err := os.ReadFile(filepath.Join(at, name))
		if err != nil {
			l.t.Fatal(err)
		}
		return strings.Split(strings.TrimSuffix(string(text), "\x00"), "\x00")
	}
	args := read("cmdline")
	u, err := url.Parse(l.server.URI)
	if err != nil {
		l.t.Fatal(err)
	}
	args[slices.Index(args, "--port")+1] = u.Port()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env, cmd.Dir = read("environ"), filepath.Dir(l.server.Database)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	return cmd
}

// restart starts MLflow again, until the end of the test.
func (l *lab) restart(cmd *exec.Cmd) {
	l.t.Helper()
	if err := cmd.Start(); err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // its status says nothing after a signal
	})
	until(l.t, "MLflow is back", 2*time.Minute, func() bool {
		resp, err := http.Get(l.server.URI + "/health")
		if err != nil {
			return false
		}
		return resp.Body.Close() == nil && resp.StatusCode == http.StatusOK
	})
}
