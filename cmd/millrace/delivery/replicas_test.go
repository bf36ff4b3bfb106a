package delivery_test

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
)

// way leads from a replica to its judge, wherever that listens, and keeps what passes.
type way struct {
	*httptest.Server
	mu    sync.Mutex
	to    string // address of the admin port. Guarded by mu, as all below.
	last  []byte // body that the judge has taken with rows in it
	times int
}

func newWay(t *testing.T) *way {
	w := new(way)
	w.Server = httptest.NewServer(w)
	t.Cleanup(w.Close)
	return w
}

func (w *way) ServeHTTP(out http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	status, text := w.post(r.URL.Path, body)
	out.WriteHeader(status)
	_, _ = out.Write([]byte(text))
}

// post brings a body to the judge.
func (w *way) post(path string, body []byte) (status int, text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	resp, err := http.Post("http://"+w.to+path, "application/json", bytes.NewReader(body))
	if err != nil {
		return http.StatusBadGateway, err.Error()
	}
	defer resp.Body.Close()
	answer, _ := io.ReadAll(resp.Body)
	if resp.StatusCode == http.StatusOK {
		w.times++
		if !bytes.Contains(body, []byte(`"rows":0,`)) {
			w.last = body
		}
	}
	return resp.StatusCode, string(answer)
}

// lead lets the way lead to a server.
func (w *way) lead(s *server) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.to = s.Addresses["admin"]
}

// passed returns how often the judge has taken something, and the last that had rows.
func (w *way) passed() (times int, last []byte) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.times, w.last
}

// replicaSettings writes the settings of a replica: those of the judge but for who is told.
func replicaSettings(t *testing.T, judge string, w *way) (dir string) {
	t.Helper()
	dir = t.TempDir()
	for _, name := range []string{"train.csv", "millrace.yaml"} {
		text, err := os.ReadFile(filepath.Join(judge, name))
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(text, []byte("    alertmanager:")); at >= 0 {
			text = fmt.Appendf(text[:at], "    judge: %q\n", w.URL)
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// taken is how many rows of replicas the judge has taken since it was started.
func (s *server) taken(t *testing.T) (rows int) {
	t.Helper()
	for line := range strings.Lines(s.metrics(t)) {
		_, _ = fmt.Sscanf(line, `millrace_monitor_replica_rows_total{monitor="iris"} %d`, &rows)
	}
	return rows
}

// pair is two servers, of which one judges what both count.
type pair struct {
	*testing.T
	*way
	judge, replica       *server
	judgeDir, replicaDir string
}

func newPair(t *testing.T, rng *rand.Rand, am *alertmanager) *pair {
	p := &pair{T: t, way: newWay(t), judgeDir: monitorSettings(t, rng, am)}
	p.judge = launch(t, p.judgeDir)
	p.lead(p.judge)
	p.replicaDir = replicaSettings(t, p.judgeDir, p.way)
	p.replica = launch(t, p.replicaDir)
	until(t, "the replica counts for the judge", 30*time.Second, func() bool {
		times, _ := p.passed()
		return times > 2 && p.replica.monitor().State == monitor.StateCounting
	})
	return p
}

// load sends rows to both until it is ended.
func (p *pair) load(rows [][]byte) (end func()) {
	both := [...]*load{p.judge.load("iris", rows), p.replica.load("iris", rows)}
	for _, l := range both {
		l.start(1)
	}
	return func() {
		for _, l := range both {
			l.end()
		}
	}
}

// Two servers of which one judges: sound rows are no alarm, and drift in the rows of both is one,
// which the judge alone raises, also when the other was killed meanwhile.
func TestReplicasWatchAsOne(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	am := newAlertmanager(t)
	p := newPair(t, rng, am)
	end := p.load(requests(flowers(rng, 3000, 0)))
	until(t, "sound rows have come", 60*time.Second, func() bool {
		return p.judge.taken(t) > 1500
	})
	p.replica.Kill()
	end()
	p.replica = launch(t, p.replicaDir)
	if st := p.judge.monitor(); st.State != monitor.StateOK || st.Alarms != 0 {
		t.Fatalf("with sound rows the state is %s: %s", st.State, st.Reason)
	}

	end = p.load(requests(flowers(rng, 3000, 2)))
	until(t, "an alarm", 30*time.Second, func() bool {
		return p.judge.monitor().State == monitor.StateAlarm
	})
	until(t, "Alertmanager knows", 20*time.Second, func() bool {
		n, _ := am.seen()
		return n == 1
	})
	until(t, "people see the replicas", 30*time.Second, func() bool {
		return contains(p.judge.must("describe", "monitor", "iris"),
			"Replicas that count for it:", "State:", "alarm")
	})
	end()
	if st := p.judge.monitor(); st.Alarms != 1 || !strings.Contains(st.Reason, "petal length") {
		t.Errorf("the judge has %d alarms: %s", st.Alarms, st.Reason)
	}
	if st := p.replica.monitor(); st.State != monitor.StateCounting || st.Alarms != 0 ||
		p.replica.get("alarms/iris/1", new(monitor.Alarm)) {
		t.Errorf("the replica has %d alarms: %s", st.Alarms, st.Reason)
	}
	if text := p.replica.must("describe", "monitor", "iris"); !contains(text, "counting",
		"counts for the judge at "+p.Listener.Addr().String(), "Sent:") ||
		strings.Contains(text, "Evidence:") {
		t.Errorf("people see\n%s", text)
	}
}

// Rows of a replica are not lost while its judge is killed, nor counted twice when they come again;
// those of another version are refused.
func TestJudgeIsKilled(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	p := newPair(t, rng, newAlertmanager(t))
	p.judge.Kill()
	ask := p.replica.load("iris", requests(flowers(rng, 50, 0)))
	for i := range ask.rows {
		if _, err := ask.ask(i); err != nil {
			t.Fatal(err)
		}
	}
	until(t, "the replica says that the judge is away", 30*time.Second, func() bool {
		return strings.Contains(p.replica.must("get", "monitors"), "counting") &&
			strings.Contains(p.replica.monitor().Reason, "it cannot be told: ")
	})
	p.judge = launch(t, p.judgeDir)
	p.lead(p.judge)
	until(t, "the rows of meanwhile are taken", 30*time.Second, func() bool {
		return p.judge.taken(t) == 50
	})
	const path = "/api/v1/monitors/iris/windows"
	before, last := p.passed()
	status, text := p.post(path, last)
	until(t, "there are more ticks", 30*time.Second, func() bool {
		times, _ := p.passed()
		return times > before+4
	})
	if n := p.judge.taken(t); n != 50 || status != http.StatusOK {
		t.Errorf("after a repetition %d rows are taken; the answer is %d %s", n, status, text)
	}
	other := []byte(`{"replica": "me", "sequence": 1, "model": "iris", "version": "9"}`)
	if status, text = p.post(path, other); status != http.StatusConflict ||
		!contains(text, "version 9") {
		t.Errorf("another version is answered with %d %s", status, text)
	}
	if status, text = p.post(path, last[:len(last)/2]); status != http.StatusBadRequest {
		t.Errorf("half a window is answered with %d %s", status, text)
	}
}
