package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

// commandOf is a pipeline of a shell script whose runs are in a folder.
func commandOf(t *testing.T, state, script string) *Pipeline {
	t.Helper()
	p, err := Open(Config{Command: &Command{Argv: []string{"/bin/sh", "-c", script},
		WorkDir: t.TempDir(), StateDir: state}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// until waits for a condition.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not in 20s", what)
		}
	}
}

// ended waits for the end of a run.
func ended(t *testing.T, p *Pipeline, name string) trigger.Status {
	t.Helper()
	var s trigger.Status
	until(t, name, func() bool {
		var err error
		if s, err = p.Status(t.Context(), trigger.Run{External: name}); err != nil {
			t.Fatal(err)
		}
		return s.State != trigger.Running
	})
	return s
}

func TestCommand(t *testing.T) {
	t.Setenv("MY_SECRET", "do not pass on")
	f := func(script string, want trigger.State, text string) {
		t.Helper()
		p := commandOf(t, t.TempDir(), script)
		r := run("e")
		got, err := p.Start(t.Context(), r)
		if err != nil || got.External != r.Name() {
			t.Fatalf("%s: %+v, %v", script, got, err)
		}
		s := ended(t, p, got.External)
		if s.State != want || !strings.Contains(s.Logs+s.Detail, text) || len(s.Logs) > 16<<10 ||
			strings.Contains(s.Logs, "do not pass on") {
			t.Errorf("%s: %+v", script, s)
		}
	}
	f("exit 0", trigger.Succeeded, "")
	f("echo no rows >&2; exit 3", trigger.Failed, "no rows")
	f("exit 3", trigger.Failed, "ended with status 3")
	f("/no/such/command", trigger.Failed, "not found")
	f("kill -9 $$", trigger.Failed, "137")
	f("kill -9 0", trigger.Failed, "was killed")
	f(`echo "$MILLRACE_RUN $MILLRACE_ENDPOINT $MILLRACE_EPOCHS $MILLRACE_REASON"`,
		trigger.Succeeded, run("e").Name()+" fraud 3 drift of amount")
	f("env", trigger.Succeeded, "MILLRACE_SAMPLES=s3://captured/fraud")
	f("head -c 3000000 /dev/zero | tr '\\0' x; echo the end", trigger.Succeeded, "the end")
	f("cat", trigger.Succeeded, "") // it reads nothing
}

// TestCommandAgain starts a run again, from another process's sight, and finds it.
func TestCommandAgain(t *testing.T) {
	state := t.TempDir()
	out := filepath.Join(t.TempDir(), "out")
	stop := filepath.Join(t.TempDir(), "stop")
	script := fmt.Sprintf("echo begun >>%s; while [ ! -e %s ]; do sleep 0.01; done", out, stop)
	first := commandOf(t, state, script)
	r := run("e")
	if _, err := first.Start(t.Context(), r); err != nil {
		t.Fatal(err)
	}
	first.Close()
	second := commandOf(t, state, script)
	got, err := second.Start(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	status(t, second, &got.External, trigger.Running)
	if err := os.WriteFile(stop, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := ended(t, second, got.External)
	begun, err := os.ReadFile(out)
	if err != nil || string(begun) != "begun\n" || s.State != trigger.Succeeded {
		t.Errorf("%q, %v, %+v", begun, err, s)
	}
	for _, other := range []string{"millrace-other", "../../etc"} {
		_, err := second.Status(t.Context(), trigger.Run{External: other})
		if !errors.Is(err, trigger.ErrGone) {
			t.Errorf("%s: %v", other, err)
		}
	}
	ended(t, first, got.External) // who has started it frees its process
}

// TestCommandCancel ends runs that let themselves be ended, and one that does not, and
// what they have started.
func TestCommandCancel(t *testing.T) {
	f := func(script string, calls int) {
		t.Helper()
		pids := filepath.Join(t.TempDir(), "pids")
		p := commandOf(t, t.TempDir(), fmt.Sprintf(script, pids, pids))
		got, err := p.Start(t.Context(), run("e"))
		if err != nil {
			t.Fatal(err)
		}
		var group, child int
		until(t, "its processes", func() bool {
			text, _ := os.ReadFile(pids)
			n, _ := fmt.Sscan(string(text), &group, &child)
			return n == 2
		})
		status(t, p, &got.External, trigger.Running)
		for range calls {
			status(t, p, &got.External, trigger.Running)
			if err := p.Cancel(t.Context(), got.External); err != nil {
				t.Fatal(err)
			}
		}
		if s := ended(t, p, got.External); s.State != trigger.Cancelled ||
			calls == 1 && s.Logs != "begun\n" {
			t.Errorf("%s: %+v", script, s)
		}
		for _, pid := range []int{group, child} {
			until(t, "their end", func() bool {
				stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
				return err != nil || strings.Contains(string(stat), ") Z ") ||
					errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
			})
		}
		if err := p.Cancel(t.Context(), got.External); err != nil {
			t.Errorf("cancelled when it had ended: %v", err)
		}
	}
	f("echo begun; echo $$ >%s; sleep 1000 & echo $! >>%s; wait", 1)
	f("trap '' TERM; echo $$ >%s; sleep 1000 & echo $! >>%s; wait", 2)
}
