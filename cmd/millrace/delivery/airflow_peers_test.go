//go:build peers

package delivery_test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/pipeline/airflowtest"
	"github.com/millrace-ml/millrace/gateway/clients/venv"
)

// The DAGs succeed if they are told of the endpoint that the alarm is about.
const airflowDAGs = `
from airflow.providers.standard.operators.bash import BashOperator
from airflow.sdk import DAG

for name in ["lost-call", "lost-answer"]:
    with DAG(name, schedule=None, is_paused_upon_creation=False):
        BashOperator(task_id="fit", bash_command='test "$ENDPOINT" = iris', append_env=True,
                     env={"ENDPOINT": "{{ dag_run.conf['endpoint'] }}"})
`

const airflowTriggers = `
triggers:
  - name: lost-call
    on: {alarm: iris}
    airflow: {uri: %[1]q, dag: lost-call}
    access: {username: %[2]s, password_env: AIRFLOW_PASSWORD}
    poll: 500ms
  - name: lost-answer
    on: {alarm: iris}
    airflow: {uri: %[1]q, dag: lost-answer}
    access: {username: %[2]s, password_env: AIRFLOW_PASSWORD}
    poll: 500ms
`

// keeper is a proxy of Airflow that can keep the starts of runs.
type keeper struct {
	*httptest.Server
	t      *testing.T
	bare   http.Handler // Airflow itself
	shut   atomic.Bool
	caught chan string // path of a start that does not come back
}

func newKeeper(t *testing.T, uri string) *keeper {
	t.Helper()
	to, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	k := &keeper{t: t, bare: httputil.NewSingleHostReverseProxy(to), caught: make(chan string, 2)}
	k.Server = httptest.NewServer(k)
	t.Cleanup(k.Close)
	return k
}

// ServeHTTP passes requests on. While it is shut, no start comes back: that of lost-call does not
// reach Airflow, that of lost-answer does.
func (k *keeper) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !k.shut.Load() || r.Method != http.MethodPost || path.Base(r.URL.Path) != "dagRuns" {
		k.bare.ServeHTTP(w, r)
		return
	}
	if strings.Contains(r.URL.Path, "/lost-call/") {
		_, _ = io.Copy(io.Discard, r.Body) // so that it is seen when the caller leaves
	} else {
		answer := httptest.NewRecorder()
		k.bare.ServeHTTP(answer, r)
		if answer.Code >= 500 { // SQLite is locked at times; millrace tries again
			w.WriteHeader(answer.Code)
			return
		}
		if answer.Code >= 300 {
			k.t.Errorf("%s is answered with %d %s", r.URL, answer.Code, answer.Body)
		}
	}
	k.caught <- r.URL.Path
	<-r.Context().Done()
}

// airflowSettings writes the settings of a server whose monitor starts both DAGs.
func airflowSettings(t *testing.T, rng *rand.Rand, uri string) (dir string) {
	t.Helper()
	dir = monitorSettings(t, rng, newAlertmanager(t))
	name := filepath.Join(dir, "millrace.yaml")
	text, err := os.ReadFile(name)
	if err == nil {
		text = fmt.Appendf(text, airflowTriggers, uri, airflowtest.User)
		err = os.WriteFile(name, text, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestRealAirflow has a drift alarm start two DAGs of a real Airflow. Millrace is killed before it
// has either answer, when one of the calls has not got through: there is one run of each, which is
// followed to its end.
func TestRealAirflow(t *testing.T) {
	t.Parallel()
	python := venv.Python(t, "../../../control/trigger/pipeline/testdata/airflow/requirements.txt")
	a := airflowtest.Start(t, python, filepath.Dir(writeFile(t, "dags.py", airflowDAGs)))
	k := newKeeper(t, a.URL)
	rng := rand.New(rand.NewPCG(6, 6))
	dir, password := airflowSettings(t, rng, k.URL), "AIRFLOW_PASSWORD="+airflowtest.Password
	s := launch(t, dir, password)
	until(t, "the reference is read", peerTime, func() bool {
		return s.monitor().State == monitor.StateOK
	})
	rows := requests(flowers(rng, 3000, 2))

	k.shut.Store(true)
	shifted := s.load("iris", rows)
	shifted.start(1)
	until(t, "both starts are under way", peerTime, func() bool { return len(k.caught) == 2 })
	s.Kill()
	shifted.end()
	k.shut.Store(false)
	if call, answer := a.Runs(t, "lost-call"), a.Runs(t, "lost-answer"); len(call) != 0 ||
		len(answer) != 1 {
		t.Errorf("when millrace is killed the runs there are %+v and %+v", call, answer)
	}

	s = launch(t, dir, password)
	shifted = s.load("iris", rows) // the drift goes on, and is the same alarm
	shifted.start(1)
	defer shifted.end()
	for _, name := range []string{"lost-call", "lost-answer"} {
		var run trigger.Run
		until(t, "the end of "+name, airflowtest.Patience, func() bool {
			run = s.run(name)
			return run.State.Done()
		})
		there := a.Runs(t, name)
		want := airflowtest.Run{ID: run.Name(), State: "success"}
		if len(there) != 1 || there[0] != want {
			t.Errorf("the runs of %s there are %+v, want %+v", name, there, want)
		}
		if run.ID != trigger.ID(name, "alarm/iris/1") || run.State != trigger.Succeeded ||
			run.Attempts != 1 || run.Calls < 2 ||
			run.Link != k.URL+"/dags/"+name+"/runs/"+run.Name() {
			t.Errorf("the run of %s is %+v", name, run)
		}
	}
	if st := s.monitor(); st.State != monitor.StateAlarm || st.Alarms != 1 {
		t.Errorf("at the end the monitor is %s with %d alarms", st.State, st.Alarms)
	}
}
