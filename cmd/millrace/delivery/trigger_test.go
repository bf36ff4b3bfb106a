package delivery_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-ml/millrace/cmd/millrace/processtest"
	"github.com/millrace-ml/millrace/control/trigger"
)

// airflow is a server that keeps the names of runs as Airflow 3 does. It can leave the one who
// starts a run without an answer.
type airflow struct {
	*httptest.Server
	mu     sync.Mutex
	runs   []string // guarded by mu, as all below
	state  string
	silent bool
	starts int // calls
}

func newAirflow(t *testing.T) *airflow {
	a := &airflow{state: "running"}
	a.Server = httptest.NewServer(http.HandlerFunc(a.answer))
	t.Cleanup(a.Close)
	return a
}

func (a *airflow) answer(w http.ResponseWriter, r *http.Request) {
	name := path.Base(r.URL.Path)
	a.mu.Lock()
	status := http.StatusOK
	if r.Method == http.MethodPost {
		var body struct {
			ID string `json:"dag_run_id"`
		}
		_ = json.NewDecoder(r.Body).Decode(&body) // what is no JSON has no name
		a.starts++
		if name = body.ID; slices.Contains(a.runs, name) {
			status = http.StatusConflict
		} else {
			a.runs = append(a.runs, name)
		}
	}
	silent, state := a.silent, a.state
	a.mu.Unlock()
	if silent {
		<-r.Context().Done()
		return
	}
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"dag_run_id": %q, "state": %q}`, name, state)
}

// set changes how it answers.
func (a *airflow) set(state string, silent bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.silent = state, silent
}

// seen returns the number of calls that start, and of runs.
func (a *airflow) seen() (starts, runs int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.starts, len(a.runs)
}

// run returns the only run of a trigger.
func (s *server) run(name string) (run trigger.Run) {
	s.t.Helper()
	out := s.must("trigger", "runs", name)
	id := ""
	for _, word := range strings.Fields(out) {
		if strings.HasPrefix(word, "millrace-") {
			if id != "" {
				s.t.Fatalf("there are several runs:\n%s", out)
			}
			id = word
		}
	}
	if !s.get("runs/"+id, &run) {
		s.t.Fatalf("there is no run %q:\n%s", id, out)
	}
	return run
}

// TestTriggerKill kills the server while it starts a run, whose pipeline has it already but has not
// said so, and once more while the run goes on: there is one run, and it is followed to its end.
func TestTriggerKill(t *testing.T) {
	t.Parallel()
	models, err := filepath.Abs("../../../configs/models")
	if err != nil {
		t.Fatal(err)
	}
	a, dir := newAirflow(t), t.TempDir()
	a.set("running", true)
	write(t, dir, fmt.Sprintf("repository: {paths: [%q], mode: explicit, load: [wine]}\n"+
		"endpoints: [{name: wine}]\ntriggers:\n- {name: retrain, endpoint: wine, poll: 100ms, "+
		"parameters: {epochs: \"5\"}, airflow: {uri: %q, dag: train}}\n", models, a.URL))
	s := launch(t, dir)
	s.must("trigger", "start", "retrain", "--id", "1", "--param", "alpha=0.5")
	until(t, "the pipeline has the run", processtest.Patience, func() bool {
		starts, _ := a.seen()
		return starts > 0
	})
	if run := s.run("retrain"); run.State != trigger.Starting || !run.Calling {
		t.Errorf("the start is under way, and the record is %+v", run)
	}
	s.Kill()
	a.set("running", false)
	s = launch(t, dir)
	until(t, "the run is followed", processtest.Patience, func() bool {
		return s.run("retrain").State == trigger.Running
	})
	out := s.must("trigger", "start", "retrain", "--id", "1")
	if !contains(out, "has started before") {
		t.Errorf("the same start, once more, says %s", out)
	}
	out, err = s.millrace("trigger", "start", "retrain")
	if err == nil || !contains(out, "max_runs") {
		t.Errorf("a second start says %s", out)
	}
	s.Kill()
	a.set("success", false)
	s = launch(t, dir)
	until(t, "the run has ended", processtest.Patience, func() bool {
		return s.run("retrain").State == trigger.Succeeded
	})
	starts, runs := a.seen()
	run := s.run("retrain")
	if starts != 2 || runs != 1 || run.Context.Version != "1" ||
		run.Context.Extra["alpha"] != "0.5" {
		t.Errorf("%d starts, %d runs, %+v", starts, runs, run)
	}
	s.shows(run.ID)
}

// shows wants the commands to show a run that has succeeded, and its trigger, which it stops.
func (s *server) shows(id string) {
	s.t.Helper()
	s.must("trigger", "stop", "retrain")
	out := s.must("get", "triggers")
	if !contains(out, "retrain", "a person", "airflow", "stopped by") {
		s.t.Errorf("the triggers are\n%s", out)
	}
	out = s.must("describe", "run", id)
	if !contains(out, "succeeded", "epochs", "alpha", "/dags/train/runs/"+id) {
		s.t.Errorf("the run is\n%s", out)
	}
	out, err := s.millrace("trigger", "retry", id)
	if err == nil || !contains(out, "succeeded") {
		s.t.Errorf("a retry of what has succeeded says %s", out)
	}
}
