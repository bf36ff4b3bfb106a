//go:build peers

package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// realAirflow is a real Airflow 3 that has the DAGs of testdata. It is ended by the test.
type realAirflow struct {
	url  string
	env  []string
	bin  string
	home string
}

const airflowTime = 3 * time.Minute // to start, or to run a task, on a busy machine

func startAirflow(t *testing.T) *realAirflow {
	t.Helper()
	data, err := filepath.Abs(filepath.Join("testdata", "airflow"))
	if err != nil {
		t.Fatal(err)
	}
	python := venv.Python(t, filepath.Join(data, "requirements.txt"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	_, port, _ := net.SplitHostPort(address)
	a := &realAirflow{url: "http://" + address, bin: filepath.Dir(python), home: t.TempDir()}
	passwords := filepath.Join(a.home, "passwords.json")
	if err := os.WriteFile(passwords, []byte(`{"bot":"`+password+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	core := "AIRFLOW__CORE__"
	a.env = append(os.Environ(), "PATH="+a.bin+":"+os.Getenv("PATH"), "AIRFLOW_HOME="+a.home,
		core+"DAGS_FOLDER="+data, core+"LOAD_EXAMPLES=False", core+"EXECUTOR=LocalExecutor",
		core+"PARALLELISM=1", core+"SIMPLE_AUTH_MANAGER_USERS=bot:admin",
		core+"SIMPLE_AUTH_MANAGER_PASSWORDS_FILE="+passwords, core+"FERNET_KEY="+
			strings.Repeat("A", 43)+"=", core+"EXECUTION_API_SERVER_URL="+a.url+"/execution/",
		"AIRFLOW__DATABASE__SQL_ALCHEMY_CONN=sqlite:///"+filepath.Join(a.home, "airflow.db"),
		"AIRFLOW__API__HOST=127.0.0.1", "AIRFLOW__API__PORT="+port, "AIRFLOW__API__WORKERS=1",
		"AIRFLOW__API__BASE_URL="+a.url, "AIRFLOW__API__SECRET_KEY=x", "PYTHONDONTWRITEBYTECODE=1",
		"AIRFLOW__API_AUTH__JWT_SECRET="+strings.Repeat("s", 64))
	for _, args := range [][]string{{"db", "migrate"}, {"dags", "reserialize"}} {
		cmd := exec.Command(filepath.Join(a.bin, "airflow"), args...)
		cmd.Env = a.env
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("airflow %v: %v\n%s", args, err, out)
		}
	}
	a.serve(t, "api-server")
	a.ready(t, "/api/v2/version", "version")
	a.ready(t, "/execution/health", "") // the first call takes long
	a.serve(t, "scheduler", "--skip-serve-logs")
	a.ready(t, "/api/v2/monitor/health", `"scheduler":{"status":"healthy"`)
	return a
}

// serve runs one of Airflow's servers, in a process group of its own.
func (a *realAirflow) serve(t *testing.T, args ...string) {
	t.Helper()
	log, err := os.Create(filepath.Join(a.home, args[0]+".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(a.bin, "airflow"), args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = a.env, log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait() // its status says nothing after a signal
		if text, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("airflow %s said:\n%s", args[0], text[max(0, len(text)-4000):])
		}
	})
}

// ready waits until a page says something.
func (a *realAirflow) ready(t *testing.T, path, want string) {
	t.Helper()
	within(t, a.url+path, func() bool {
		resp, err := http.Get(a.url + path)
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		var text json.RawMessage
		return resp.StatusCode == 200 && (want == "" ||
			json.NewDecoder(resp.Body).Decode(&text) == nil && strings.Contains(string(text), want))
	})
}

// within waits for a condition, longer than until.
func within(t *testing.T, what string, f func() bool) {
	t.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(airflowTime)
	for !f() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, airflowTime)
		}
	}
}

// open is a pipeline of one of the DAGs.
func (a *realAirflow) open(t *testing.T, dag string) *Pipeline {
	t.Helper()
	t.Setenv("CI_PASSWORD", password)
	c := Config{Server: DefaultServer(), Airflow: &Airflow{DAG: dag}}
	c.Server.Origin, c.Server.Allow = a.url, []string{"127.0.0.0/8"}
	withPassword(&c)
	p, err := Open(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// TestRealAirflow follows runs of a real Airflow to all ends, through the state machine.
func TestRealAirflow(t *testing.T) {
	a := startAirflow(t)
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
		within(t, "the end of "+r.Name(), func() bool { step(p, &r); return r.State.Done() })
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
	var list struct {
		Total int `json:"total_entries"`
	}
	if _, err := train.kind.(*airflow).call(t.Context(),
		request{path: "/api/v2/dags/train/dagRuns"}, &list); err != nil || list.Total != 1 {
		t.Errorf("%v, %d runs are there", err, list.Total)
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
func (a *realAirflow) cancelled(t *testing.T, begin func(*Pipeline, string, string) trigger.Run,
	step func(*Pipeline, *trigger.Run), end func(*Pipeline, trigger.Run) trigger.Run) {
	t.Helper()
	for _, dag := range []string{"paused", "hang"} {
		p := a.open(t, dag)
		r := begin(p, "4", "fraud")
		within(t, dag, func() bool {
			if step(p, &r); r.State != trigger.Running {
				return false
			}
			s, err := p.Status(t.Context(), r.External)
			return err == nil && strings.Contains(s.Detail, "may be paused") == (dag == "paused")
		})
		group := 0
		if dag == "hang" { // its task is in a group of its own
			within(t, "its task", func() bool {
				text, _ := os.ReadFile(filepath.Join(a.home, "hang.pid"))
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
		if strings.Contains(r.Error+r.Link+r.Logs, password) {
			t.Errorf("%s: a secret is in %+v", dag, r)
		}
		within(t, "the end of its task", func() bool {
			return group == 0 || errors.Is(syscall.Kill(-group, 0), syscall.ESRCH)
		})
	}
}
