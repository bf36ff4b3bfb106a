package delivery_test

import (
	"bytes"
	"encoding/json"
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

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/monitor"
)

// alertmanager takes alerts as Alertmanager's API v2 does, by their labels.
type alertmanager struct {
	*httptest.Server
	mu     sync.Mutex
	starts map[string]string // startsAt by labels. Guarded by mu, as all below.
	ends   int               // alerts that came with an end that had passed
	wrong  string
}

func newAlertmanager(t *testing.T) *alertmanager {
	a := &alertmanager{starts: make(map[string]string)}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *alertmanager) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	var list []struct {
		Labels           map[string]string
		StartsAt, EndsAt time.Time
		GeneratorURL     string
	}
	text, _ := io.ReadAll(r.Body)
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := json.Unmarshal(text, &list); err != nil || r.URL.Path != "/api/v2/alerts" {
		a.wrong = fmt.Sprintf("%s %s: %s", r.Method, r.URL, text)
	}
	for _, one := range list {
		labels, _ := json.Marshal(one.Labels)
		a.starts[string(labels)] = one.StartsAt.String()
		if !one.EndsAt.After(time.Now()) {
			a.ends++
		}
		if !strings.HasSuffix(one.GeneratorURL, "/api/v1/monitors/iris") {
			a.wrong = "the alert leads to " + one.GeneratorURL
		}
	}
}

// seen returns how many alerts there were, and how many ends.
func (a *alertmanager) seen() (alerts, ends int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.starts), a.ends
}

// flowers draws rows as of irises, whose petals are longer by some centimetres.
func flowers(rng *rand.Rand, n int, longer float32) (rows [][]float32) {
	for range n {
		row := []float32{5.8, 3, 3.7, 1.2}
		for i, deviation := range []float64{0.8, 0.4, 1.7, 0.7} {
			row[i] += float32(rng.NormFloat64() * deviation)
		}
		row[2] += longer
		rows = append(rows, row)
	}
	return rows
}

// requests are bodies for some rows.
func requests(rows [][]float32) (bodies [][]byte) {
	for _, row := range rows {
		bodies = append(bodies, infer("X", row))
	}
	return bodies
}

// monitorSettings writes the settings of a server that watches the sample model iris.
func monitorSettings(t *testing.T, rng *rand.Rand, am *alertmanager) (dir string) {
	t.Helper()
	dir = t.TempDir()
	var csv strings.Builder
	csv.WriteString("sepal length (cm),sepal width (cm),petal length (cm),petal width (cm)," +
		"species\n")
	for _, row := range flowers(rng, 5000, 0) {
		fmt.Fprintf(&csv, "%g,%g,%g,%g,setosa\n", row[0], row[1], row[2], row[3])
	}
	err := os.WriteFile(filepath.Join(dir, "train.csv"), []byte(csv.String()), 0o644)
	if err != nil {
		t.Fatal(err)
	}
	models, err := filepath.Abs("../../../configs/models")
	if err != nil {
		t.Fatal(err)
	}
	write(t, dir, fmt.Sprintf(`
repository: {paths: [%q], mode: explicit, load: [iris]}
endpoints:
  - name: iris
monitors:
  - name: iris
    endpoint: iris
    reference: {file: train.csv}
    ignore: [species]
    tick: 200ms
    false_alarm_every: 1h
    alertmanager: {url: %q}
`, models, am.URL))
	return dir
}

func (s *server) monitor() (status control.MonitorStatus) {
	s.t.Helper()
	s.get("monitors/iris", &status)
	return status
}

// A monitor in a server that is killed amid an alarm: sound rows raise none, shifted ones raise
// one, which is the same after the kill, and Alertmanager learns of it and of its end once.
func TestDriftAlarm(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	am := newAlertmanager(t)
	dir := monitorSettings(t, rng, am)
	s := launch(t, dir)
	until(t, "the reference is read", 20*time.Second, func() bool {
		return s.monitor().State == monitor.StateOK
	})
	sound := s.load("iris", requests(flowers(rng, 3000, 0)))
	began := time.Now()
	sound.start(1)
	until(t, "the monitor has ticked 20 times", 60*time.Second, func() bool {
		return sound.status(200) > 3000 && time.Since(began) > 4*time.Second
	})
	sound.end()
	if st := s.monitor(); st.State != monitor.StateOK || st.Alarms != 0 {
		t.Fatalf("with sound rows the state is %s: %s", st.State, st.Reason)
	}
	shifted := s.load("iris", requests(flowers(rng, 3000, 2)))
	began = time.Now()
	shifted.start(1)
	until(t, "an alarm", 20*time.Second, func() bool {
		return s.monitor().State == monitor.StateAlarm
	})
	st := s.monitor()
	t.Logf("alarm after %v of shifted rows: %s", time.Since(began), st.Reason)
	if !strings.Contains(st.Reason, "petal length") {
		t.Errorf("the reason is %s", st.Reason)
	}
	until(t, "Alertmanager knows", 20*time.Second, func() bool {
		n, _ := am.seen()
		return n == 1
	})
	s.Kill()
	shifted.end()

	s = launch(t, dir)
	shifted = s.load("iris", requests(flowers(rng, 3000, 2)))
	shifted.start(1)
	until(t, "rows are seen again", 30*time.Second, func() bool {
		return shifted.status(200) > 2000
	})
	if st := s.monitor(); st.State != monitor.StateAlarm || st.Alarms != 1 {
		t.Fatalf("after the kill the state is %s with %d alarms", st.State, st.Alarms)
	}
	s.wantMonitorTexts(t)
	shifted.end() // else there is another alarm after this one
	s.must("monitor", "ack", "iris")
	s.must("monitor", "resolve", "iris")
	until(t, "Alertmanager knows the end", 20*time.Second, func() bool {
		_, ends := am.seen()
		return ends > 0
	})
	var a monitor.Alarm
	if !s.get("alarms/iris/1", &a) || a.Resolved.IsZero() || a.Acknowledged.IsZero() {
		t.Errorf("the alarm is %+v", a)
	}
	am.mu.Lock()
	defer am.mu.Unlock()
	if am.ends != 1 || am.wrong != "" {
		t.Errorf("%d ends, %s", am.ends, am.wrong)
	}
}

// A monitor that is told what answers should have been: as long as few are wrong it raises no
// alarm, when many are it raises one that says so.
func TestPerformanceAlarm(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	dir := monitorSettings(t, rng, newAlertmanager(t))
	path := filepath.Join(dir, "millrace.yaml")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "    performance: {output: output_label, reference_error: 0.05}\n"...)
	if err := os.WriteFile(path, text, 0o644); err != nil {
		t.Fatal(err)
	}
	s := launch(t, dir)
	until(t, "the reference is read", 20*time.Second, func() bool {
		return s.monitor().State == monitor.StateOK
	})
	began := time.Now()
	for time.Since(began) < 5*time.Second {
		s.label(rng, 0.03)
	}
	if st := s.monitor(); st.State != monitor.StateOK || st.Alarms != 0 {
		t.Fatalf("of answers that are right the state is %s: %s", st.State, st.Reason)
	}
	until(t, "an alarm", 30*time.Second, func() bool {
		s.label(rng, 0.4)
		return s.monitor().State == monitor.StateAlarm
	})
	if text := s.must("describe", "alarm", "iris/1"); !contains(text, "performance") {
		t.Errorf("the alarm is\n%s", text)
	}
}

// label asks for some irises and says what they are, of a share something else than the answer.
func (s *server) label(rng *rand.Rand, wrong float64) {
	s.t.Helper()
	post := func(path string, body []byte, answer any) (id string) {
		resp, err := s.client.Post("http://"+s.Addresses["http"]+path, "application/json",
			bytes.NewReader(body))
		if err != nil {
			s.t.Fatal(err)
		}
		defer resp.Body.Close()
		if err := json.NewDecoder(resp.Body).Decode(answer); err != nil || resp.StatusCode != 200 {
			s.t.Fatalf("%s is answered with %d, %v", path, resp.StatusCode, err)
		}
		return resp.Header.Get("x-request-id")
	}
	for _, body := range requests(flowers(rng, 10, 0)) {
		var answer struct{ Outputs []struct{ Data []any } }
		id := post("/v2/models/iris/infer", body, &answer)
		label := answer.Outputs[0].Data[0]
		if rng.Float64() < wrong {
			label = "a rose"
		}
		told, err := json.Marshal(map[string]any{"id": id, "label": label})
		if err != nil {
			s.t.Fatal(err)
		}
		post("/v2/feedback", told, new(any))
	}
}

// wantMonitorTexts wants people to see an alarm.
func (s *server) wantMonitorTexts(t *testing.T) {
	t.Helper()
	for _, c := range []struct {
		args  string
		parts []string
	}{
		{"get monitors", []string{"iris", "alarm", "petal length"}},
		{"get alarms", []string{"iris/1", "on"}},
		{"describe monitor iris", []string{"State:", "alarm", "Reference:", "5000 rows"}},
		{"describe alarm iris/1", []string{"petal length (cm): evidence", "###", "Examples:"}},
		{"describe endpoint iris", []string{"drift alarm iris/1"}},
	} {
		if text := s.must(strings.Fields(c.args)...); !contains(text, c.parts...) {
			t.Errorf("%s says\n%s", c.args, text)
		}
	}
	if text := s.metrics(t); !contains(text,
		`millrace_monitor_state{endpoint="iris",monitor="iris",state="alarm"} 1`,
		`millrace_monitor_alarms_total{monitor="iris"} 1`, "millrace_monitor_feature_evidence{") {
		t.Errorf("the metrics are\n%s", text)
	}
}

// metrics returns the lines about monitors.
func (s *server) metrics(t *testing.T) string {
	t.Helper()
	resp, err := s.client.Get("http://" + s.Addresses["admin"] + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	var lines strings.Builder
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "millrace_monitor_") {
			lines.WriteString(line)
		}
	}
	return lines.String()
}
