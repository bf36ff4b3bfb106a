//go:build peers

package delivery_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

const giteaTriggers = `
repository: {paths: [.], mode: explicit}
triggers:
  - name: lost-call
    on: {push: {repository: ml/train, branch: main, secret_env: PUSH_SECRET}}
    gitea: {uri: %[1]q, repository: ml/train, file: lost-call.yml, ref: main, run_name: true}
    access: {token_env: GITEA_TOKEN}
    inputs: [commit]
    poll: 500ms
  - name: lost-answer
    on: {push: {repository: ml/train, branch: main, secret_env: PUSH_SECRET}}
    gitea: {uri: %[1]q, repository: ml/train, file: lost-answer.yml, ref: main, run_name: true}
    access: {token_env: GITEA_TOKEN}
    inputs: [commit]
    poll: 500ms
`

// settleTime is how long what may have been started is looked for, and more.
const settleTime = 3 * time.Minute

// TestRealGitea pushes to a real Gitea, whose webhooks have two triggers start workflows there.
// Millrace is killed during both dispatches, one of which has not got through, and the webhooks are
// sent again: there is one run of each, which is followed to its end.
func TestRealGitea(t *testing.T) {
	t.Parallel()
	g := startGitea(t)
	folder := g.repository()
	dir, hooks := t.TempDir(), newRelay(t)
	write(t, dir, fmt.Sprintf(giteaTriggers, g.URL))
	env := []string{"PUSH_SECRET=" + pushSecret, "GITEA_TOKEN=" + g.token}
	s := launch(t, dir, env...)
	hooks.lead(s)
	g.hook(hooks, "lost-call")
	g.hook(hooks, "lost-answer")

	g.shut.Store(true)
	commit := g.push(folder)
	until(t, "both webhooks are answered", peerTime, func() bool { return len(hooks.all()) == 2 })
	until(t, "both dispatches are under way", peerTime, func() bool { return len(g.caught) == 2 })
	s.Kill()
	g.shut.Store(false)
	if got := g.titles(); len(got) != 1 {
		t.Errorf("when millrace is killed the runs there are %q", got)
	}
	s = launch(t, dir, env...)
	hooks.lead(s)
	replay(t, hooks)

	r := g.register()
	var lost, failed trigger.Run
	for range 2 {
		task := r.take()
		lost, failed = s.pushed("lost-call", commit), s.pushed("lost-answer", commit)
		inputs := task.Context.Event.Inputs
		switch name := inputs[trigger.RunKey]; {
		case inputs["commit"] != commit:
			t.Errorf("%s is to fit %q, want %s", name, inputs["commit"], commit)
		case name == lost.Name():
			r.finish(task, "RESULT_SUCCESS")
		case name == failed.Name():
			r.finish(task, "RESULT_FAILURE")
		default:
			t.Errorf("there is a run %q", name)
		}
	}
	until(t, "millrace knows the ends", settleTime, func() bool {
		lost, failed = s.pushed("lost-call", commit), s.pushed("lost-answer", commit)
		if got := g.titles(); len(got) != 2 {
			t.Fatalf("the runs there are %q", got)
		}
		return lost.State.Done() && failed.State.Done()
	})
	if lost.State != trigger.Succeeded || lost.Attempts != 1 || lost.Calls != 2 {
		t.Errorf("the run whose start had not got through: %+v", lost)
	}
	if failed.State != trigger.Failed || !strings.Contains(failed.Error, "fit") ||
		!strings.Contains(failed.Logs, fittingLog) || failed.Calls != 1 { // it was found at once
		t.Errorf("the run whose start had got through: %+v", failed)
	}
	if got := g.titles(); len(got) != 2 || got[lost.External] != "train "+lost.Name() ||
		got[failed.External] != "train "+failed.Name() {
		t.Errorf("the runs there are %q; want %s and %s", got, lost.Name(), failed.Name())
	}
}

// pushed returns the run of a trigger that follows from a push.
func (s *server) pushed(name, commit string) (run trigger.Run) {
	s.t.Helper()
	s.get("runs/"+trigger.ID(name, "push/ml/train/refs/heads/main/"+commit), &run)
	return run
}

// replay sends all webhooks once more, and forges them.
func replay(t *testing.T, hooks *relay) {
	t.Helper()
	for _, h := range hooks.all() {
		if h.status != http.StatusOK || !contains(h.answer, "1 runs begin") {
			t.Errorf("a webhook is answered with %d %s", h.status, h.answer)
		}
		if err := hooks.again(&h); err != nil || h.status != http.StatusOK ||
			!contains(h.answer, "has come before") {
			t.Errorf("a replayed webhook is answered with %d %s, %v", h.status, h.answer, err)
		}
		h.body = append([]byte(" "), h.body...)
		if err := hooks.again(&h); err != nil || h.status != http.StatusUnauthorized {
			t.Errorf("a forged webhook is answered with %d %s, %v", h.status, h.answer, err)
		}
	}
}

// runner takes jobs of Gitea as its own runner does, by its protocol, and only says how they end.
type runner struct {
	g      *gitea
	header http.Header
}

// job is one that a runner has taken.
type job struct {
	ID      string
	Context struct {
		Event struct{ Inputs map[string]string }
	}
}

// register makes a runner known to Gitea.
func (g *gitea) register() *runner {
	g.t.Helper()
	r := &runner{g, http.Header{}}
	var token struct{ Token string }
	g.api("/repos/ml/train/actions/runners/registration-token", struct{}{}, &token)
	var answer struct{ Runner struct{ UUID, Token string } }
	r.call("Register", map[string]any{"name": "test", "token": token.Token, "version": "1",
		"labels": []string{"any"}}, &answer)
	r.header.Set("x-runner-uuid", answer.Runner.UUID)
	r.header.Set("x-runner-token", answer.Runner.Token)
	r.call("Declare", map[string]any{"version": "1", "labels": []string{"any"}}, nil)
	return r
}

// call calls a method of Gitea's service for runners.
func (r *runner) call(method string, body, out any) {
	r.g.t.Helper()
	url := r.g.URL + "/api/actions/runner.v1.RunnerService/" + method
	if status := (call{url, r.header, body}).read(r.g.t, out); status != http.StatusOK {
		r.g.t.Fatalf("%s is answered with %d", method, status)
	}
}

// take waits for a job.
func (r *runner) take() (j job) {
	r.g.t.Helper()
	until(r.g.t, "there is a job", settleTime, func() bool {
		var answer struct{ Task job }
		r.call("FetchTask", map[string]any{"tasksVersion": "0"}, &answer)
		j = answer.Task
		return j.ID != ""
	})
	return j
}

// fittingLog is what a job says.
const fittingLog = "the forest grows"

// finish ends a job.
func (r *runner) finish(j job, result string) {
	r.g.t.Helper()
	now := time.Now()
	r.call("UpdateLog", map[string]any{"taskId": j.ID, "index": "0", "noMore": true,
		"rows": []any{map[string]any{"time": now, "content": fittingLog}}}, nil)
	r.call("UpdateTask", map[string]any{"state": map[string]any{"id": j.ID, "result": result,
		"startedAt": now, "stoppedAt": now}}, nil)
}
