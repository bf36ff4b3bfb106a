//go:build peers

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
	"github.com/millrace-ml/millrace/control/trigger/pipeline/airflowtest"
	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// realAirflow is a real Airflow 3 that has the DAGs of testdata.
type realAirflow struct{ *airflowtest.Server }

// open is a pipeline of one of the DAGs.
func (a realAirflow) open(t *testing.T, dag string) *Pipeline {
	t.Helper()
	t.Setenv("CI_PASSWORD", airflowtest.Password)
	c := Config{Server: DefaultServer(), Airflow: &Airflow{DAG: dag}}
	c.Server.Origin, c.Server.Allow = a.URL, []string{"127.0.0.0/8"}
	c.Server.Username, c.Server.PasswordEnv = airflowtest.User, "CI_PASSWORD"
	p, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// TestRealAirflow follows runs of a real Airflow to all ends, through the state machine.
func TestRealAirflow(t *testing.T) {
	data := filepath.Join("testdata", "airflow")
	python := venv.Python(t, filepath.Join(data, "requirements.txt"))
	a := realAirflow{airflowtest.Start(t, python, data)}
	begin := func(p *Pipeline, id, endpoint string) trigger.Run {
		t.Helper()
		spec := trigger.DefaultSpec()
		spec.Trigger, spec.Guarantee, spec.Poll = "retrain", p.Guarantee, 100*time.Millisecond
		r, _ := trigger.Decide(nil, trigger.Event{ID: id, Reason: "drift of amount",
			Context: trigger.Context{Endpoint: endpoint}}, spec, time.Now())
		return r
	}
	// step takes a run's next turn, if it is time.
	step := func(p *Pipeline, r *trigger.Run) {
		var action trigger.Action
		*r, action = r.Turn(time.Now())
		if action != trigger.Wait {
			*r = r.Next(trigger.Act(t.Context(), p, *r, action), time.Now())
		}
	}
	end := func(p *Pipeline, r trigger.Run) trigger.Run {
		t.Helper()
		airflowtest.Until(t, "the end of "+r.Name(), func() bool {
			step(p, &r)
			return r.State.Done()
		})
		return r
	}

	train := a.open(t, "train")
	r := begin(train, "1", "fraud")
	killed, _ := r.Turn(time.Now())
	// Nobody lives to see what came of this.
	trigger.Act(t.Context(), train, killed, trigger.Start)
	if r = end(train, killed); r.State != trigger.Succeeded || r.Calls != 2 {
		t.Errorf("after a kill: %+v", r)
	}
	if runs := a.Runs(t, "train"); len(runs) != 1 || runs[0].ID != r.Name() {
		t.Errorf("the runs that are there: %+v", runs)
	}
	r = end(train, begin(train, "2", "other"))
	if r.State != trigger.Failed || r.Error != "the task fit has failed" ||
		!strings.Contains(r.Logs, "run "+r.Name()) {
		t.Errorf("a failure: %+v", r)
	}
	r = end(a.open(t, "nowhere"), begin(train, "3", "fraud"))
	if r.State != trigger.Failed || !strings.Contains(r.Error, "not found") {
		t.Errorf("no DAG: %+v", r)
	}
	a.cancelled(t, begin, step, end)
}

// cancelled cancels a run that waits for ever, and one that runs for ever.
func (a realAirflow) cancelled(t *testing.T, begin func(*Pipeline, string, string) trigger.Run,
	step func(*Pipeline, *trigger.Run), end func(*Pipeline, trigger.Run) trigger.Run) {
	t.Helper()
	for _, dag := range []string{"paused", "hang"} {
		p := a.open(t, dag)
		r := begin(p, "4", "fraud")
		airflowtest.Until(t, dag, func() bool {
			if step(p, &r); r.State != trigger.Running {
				return false
			}
			s, err := p.Status(t.Context(), r)
			return err == nil && strings.Contains(s.Detail, "may be paused") == (dag == "paused")
		})
		group := 0
		if dag == "hang" { // its task is in a group of its own
			airflowtest.Until(t, "its task", func() bool {
				text, _ := os.ReadFile(filepath.Join(a.Home, "hang.pid"))
				n, _ := fmt.Sscan(string(text), &group)
				return n == 1
			})
			t.Cleanup(func() { _ = syscall.Kill(-group, syscall.SIGKILL) })
		}
		r, err := r.Cancel("ann", time.Now())
		if r = end(p, r); err != nil || r.State != trigger.Cancelled ||
			r.Error != "cancelled by ann" {
			t.Errorf("%s: %v, %+v", dag, err, r)
		}
		if strings.Contains(r.Error+r.Link+r.Logs, airflowtest.Password) {
			t.Errorf("%s: a secret is in %+v", dag, r)
		}
		airflowtest.Until(t, "the end of its task", func() bool {
			return group == 0 || errors.Is(syscall.Kill(-group, 0), syscall.ESRCH)
		})
	}
}
