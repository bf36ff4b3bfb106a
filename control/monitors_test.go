package control

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// stream is live rows of model m, which has one input of standard normal features.
type stream struct {
	b     *bench
	rng   *rand.Rand
	sig   *tensor.Signature
	shift float64 // of the first feature, in deviations
}

func newStream(b *bench) *stream {
	b.t.Helper()
	v, err := loaded.Acquire([]byte("m"), []byte("1"))
	if err != nil {
		b.t.Fatal(err)
	}
	defer v.Release()
	return &stream{b: b, rng: rand.New(rand.NewPCG(1, 2)), sig: v.Signature()}
}

// features is how many there are.
func (s *stream) features() int { return int(s.sig.Inputs[0].Shape[1]) }

func (s *stream) row() []float32 {
	row := make([]float32, s.features())
	for i := range row {
		row[i] = float32(s.rng.NormFloat64())
	}
	row[0] += float32(s.shift)
	return row
}

// send lets the monitors see rows that a version has answered.
func (s *stream) send(version string, rows int) {
	s.b.t.Helper()
	var data []byte
	for range rows {
		for _, x := range s.row() {
			data = binary.LittleEndian.AppendUint32(data, math.Float32bits(x))
		}
	}
	in := s.sig.Inputs[0]
	s.b.Sampled(&Sample{Endpoint: "e", Model: "m", Version: version, Request: monitor.Request{
		Time: s.b.now, Inputs: []tensor.Tensor{{Name: in.Name, Datatype: in.Datatype,
			Shape: []int64{int64(rows), int64(s.features())}, Data: data}}}})
}

// reference writes a CSV file of such rows, with a target, and returns its path.
func (s *stream) reference(rows int) string {
	s.b.t.Helper()
	var text strings.Builder
	names := make([]string, s.features())
	for i := range names {
		names[i] = s.name(i)
	}
	fmt.Fprintf(&text, "%s,target\n", strings.Join(names, ","))
	for range rows {
		for _, x := range s.row() {
			fmt.Fprintf(&text, "%g,", x)
		}
		text.WriteString("1\n")
	}
	path := filepath.Join(s.b.t.TempDir(), "train.csv")
	if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
		s.b.t.Fatal(err)
	}
	return path
}

// name is what a feature is called.
func (s *stream) name(i int) string {
	if in := &s.sig.Inputs[0]; i < len(in.Columns) {
		return in.Columns[i].Name
	}
	return fmt.Sprintf("%s.%d", s.sig.Inputs[0].Name, i)
}

// watching is a bench with an endpoint of model m and a monitor of it, whose first tick is next.
func watching(t *testing.T, more string) (*bench, *stream) {
	t.Helper()
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	s := newStream(b)
	s.b = b
	b.put("Monitor", "watch", fmt.Sprintf(`{"endpoint": "e", "reference": {"file": %q},
		"ignore": ["target"], "false_alarm_every": "7d"%s}`, s.reference(5000), more))
	b.opened()
	return b, s
}

// opened waits until the monitors are open.
func (b *bench) opened() {
	b.t.Helper()
	b.eventually("the monitor is open", func() bool {
		b.tickAll(b.now)
		b.mu.Lock()
		defer b.mu.Unlock()
		w := b.watches["watch"]
		return w != nil && w.open
	})
}

// ticks sends rows and ticks so many times, until a state.
func (s *stream) ticks(most int, until monitor.State) int {
	s.b.t.Helper()
	for n := range most {
		if s.status().State == until {
			return n
		}
		s.send(s.status().Version, 50)
		s.b.now = s.b.now.Add(time.Minute + time.Second)
		s.b.tickAll(s.b.now)
	}
	return most
}

func (s *stream) status() MonitorStatus {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	return s.b.view.monitors["watch"].status
}

// alarms lists the records.
func (b *bench) alarms() []monitor.Alarm {
	b.t.Helper()
	list, _, err := b.store.List(b.t.Context(), KindAlarm)
	if err != nil {
		b.t.Fatal(err)
	}
	all := make([]monitor.Alarm, len(list))
	for i := range list {
		if err := json.Unmarshal(list[i].Status, &all[i]); err != nil {
			b.t.Fatal(err)
		}
	}
	return all
}

// Sound rows are no alarm; shifted ones are one, which outlasts a restart and is not raised again;
// a new version ends it.
func TestMonitor(t *testing.T) {
	b, s := watching(t, "")
	if n := b.gw.spec("e").Monitored; n != 1000 {
		t.Errorf("%d rows a second are copied", n)
	}
	if n := s.ticks(100, monitor.StateAlarm); n < 100 {
		t.Fatalf("an alarm after %d ticks: %s", n, s.status().Reason)
	}
	s.shift = 2
	n := s.ticks(20, monitor.StateAlarm)
	status := s.status()
	t.Logf("alarm after %d ticks: %s", n, status.Reason)
	if status.State != monitor.StateAlarm || !strings.Contains(status.Reason, s.name(0)) {
		t.Fatalf("the status is %+v", status)
	}
	b.restart()
	b.opened()
	if s.status().State != monitor.StateAlarm {
		t.Fatalf("after a restart the state is %s", s.status().State)
	}
	s.ticks(100, monitor.StateResolved)
	if all := b.alarms(); len(all) != 1 || !all[0].Resolved.IsZero() {
		t.Fatalf("the alarms are %+v", all)
	}
	if _, err := b.Monitor(t.Context(), "watch", MonitorAcknowledge, ana); err != nil {
		t.Fatal(err)
	}
	b.aliases("2", "2")
	b.opened()
	status = s.status()
	if status.Version != "2" || status.State != monitor.StateLearning {
		t.Errorf("with a new version: %+v", status)
	}
	a := b.alarms()[0]
	if a.By != "ana" || a.Resolved.IsZero() || !strings.Contains(a.Resolution, "version 2") {
		t.Errorf("the alarm is %+v", a)
	}
	if events := b.view.endpoints["e"].status.Events; len(events) != 3 ||
		!strings.Contains(events[0].Text, "drift alarm watch/1") {
		t.Errorf("the endpoint's events are %+v", events)
	}
	s.shift = 0
	if n := s.ticks(100, monitor.StateAlarm); n < 100 || s.status().State != monitor.StateOK {
		t.Errorf("after %d ticks of the new version: %s", n, s.status().Reason)
	}
	b.remove("Monitor", "watch")
	b.tickAll(b.now)
	if len(b.alarms()) != 0 || b.gw.spec("e").Monitored != 0 {
		t.Error("something is left of the monitor")
	}
	if _, err := os.Stat(b.monitorFile("watch")); err == nil {
		t.Error("its file is left")
	}
}

// Rows of a canary are counted, and are no drift.
func TestMonitorLeavesOutOtherVersions(t *testing.T) {
	b, s := watching(t, "")
	s.ticks(10, monitor.StateAlarm)
	s.shift = 5
	for range 10 {
		s.send("2", 50)
		s.shift = 0
		s.ticks(1, monitor.StateAlarm)
		s.shift = 5
	}
	if st := s.status(); st.State != monitor.StateOK {
		t.Errorf("the state is %s: %s", st.State, st.Reason)
	}
	b.watches["watch"].mu.Lock()
	defer b.watches["watch"].mu.Unlock()
	if n := b.watches["watch"].skipped; n != 10 {
		t.Errorf("%d requests are left out", n)
	}
}

// A reference that was learned outlasts a restart, and a reset forgets it.
func TestMonitorLearns(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	s := newStream(b)
	b.put("Monitor", "watch", `{"endpoint": "e", "reference": {"learn": 1000}, "ignore": ["label",
		"probabilities.0", "probabilities.1", "probabilities.2", "probabilities.class"]}`)
	b.opened()
	if n := s.ticks(40, monitor.StateOK); n < 19 || n > 22 {
		t.Fatalf("50 rows a tick are 1000 after %d: %s", n, s.status().Reason)
	}
	s.ticks(5, monitor.StateAlarm)
	b.restart()
	b.opened()
	s.shift = 3
	if s.ticks(20, monitor.StateAlarm); s.status().State != monitor.StateAlarm {
		t.Fatalf("after a restart: %+v", s.status())
	}
	if _, err := b.Monitor(t.Context(), "watch", MonitorReset, ana); err != nil {
		t.Fatal(err)
	}
	b.opened()
	s.ticks(5, monitor.StateOK)
	if st := s.status(); st.State != monitor.StateLearning ||
		!strings.Contains(st.Reason, "of 1000") {
		t.Fatalf("after a reset: %s: %s", st.State, st.Reason)
	}
	if a := b.alarms()[0]; a.Resolution != "reset by ana" {
		t.Errorf("the alarm is %+v", a)
	}
	s.ticks(30, monitor.StateOK)
	if n := s.ticks(100, monitor.StateAlarm); n < 100 {
		t.Errorf("what was learned anew is drift after %d ticks: %s", n, s.status().Reason)
	}
}

// A reference among the version's files may come later; then it is used, and each version has
// its own.
func TestMonitorArtifact(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	s := newStream(b)
	b.put("Monitor", "watch",
		`{"endpoint": "e", "reference": {"artifact": "drift.csv"}, "ignore": ["target"]}`)
	b.eventually("it is missing", func() bool {
		b.tickAll(b.now)
		return s.status().State == monitor.StateError
	})
	folder := filepath.Join(b.cfg.Data, ModelDir, "m", "1")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(s.reference(1000), filepath.Join(folder, "drift.csv")); err != nil {
		t.Fatal(err)
	}
	b.now = time.Now().Add(reopenInterval)
	b.opened()
	if s.ticks(5, monitor.StateOK); s.status().State != monitor.StateOK ||
		!strings.Contains(s.status().Reference, "1000 rows") {
		t.Fatalf("the status is %+v", s.status())
	}
	b.aliases("2", "2")
	b.eventually("version 2 has none", func() bool {
		b.tickAll(b.now)
		return strings.Contains(s.status().Reason, "version 2 of model m has no file")
	})
}

// An alarm and the run of the pipeline that it starts are there together, once.
func TestAlarmStartsRun(t *testing.T) {
	b, s := watching(t, "")
	b.put("Trigger", "train", `{"on": {"alarm": "watch"}, "command": {"argv": ["/bin/true"]},
		"dry_run": true}`)
	s.ticks(5, monitor.StateAlarm)
	s.shift = 3
	s.ticks(20, monitor.StateAlarm)
	list, _, err := b.store.List(t.Context(), KindRun)
	if err != nil || len(list) != 1 {
		t.Fatal(list, err)
	}
	alarm, err := b.store.Get(t.Context(), store.Key{Kind: KindAlarm, Name: "watch/1"})
	if err != nil {
		t.Fatal(err)
	}
	changes, err := b.store.Audit(t.Context(), store.Query{})
	if err != nil {
		t.Fatal(err)
	}
	times := make(map[string]time.Time)
	for _, c := range slices.Backward(changes) {
		if c.Kind == KindAlarm || c.Kind == KindRun {
			if _, there := times[c.Kind]; !there {
				times[c.Kind] = c.Time
			}
		}
	}
	if !times[KindAlarm].Equal(times[KindRun]) || !alarm.Created.Equal(times[KindAlarm]) {
		t.Errorf("they are of %v", times)
	}
	text := string(list[0].Status)
	if !strings.Contains(text, "alarm/watch/1") || !strings.Contains(text, "watch/1") {
		t.Errorf("the run is %s", text)
	}
	s.ticks(50, monitor.StateResolved)
	if list, _, err = b.store.List(t.Context(), KindRun); err != nil || len(list) != 1 {
		t.Errorf("%d runs of one alarm, %v", len(list), err)
	}
}

// What cannot be watched says why, and what to do.
func TestMonitorFaults(t *testing.T) {
	b := open(t)
	b.aliases("1", "2")
	b.put("Endpoint", "e", `{"model": "m", "stable": "@champion"}`)
	s := newStream(b)
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	f := func(spec, want string) {
		t.Helper()
		b.put("Monitor", "watch", `{"endpoint": "e", "reference": `+spec+`}`)
		b.eventually(want, func() bool {
			b.now = b.now.Add(time.Minute)
			b.tickAll(b.now)
			st := s.status()
			return st.State == monitor.StateError && strings.Contains(st.Reason, want)
		})
	}
	f(`{"artifact": "drift.parquet"}`, "millrace reference build")
	f(`{"file": "/nowhere.csv"}`, "no such file")
	f(fmt.Sprintf(`{"file": %q}`, file("a.csv", "")), "empty")
	f(fmt.Sprintf(`{"file": %q}`, file("a.csv", "a,b\n1,2\n")), "too few rows")
	f(fmt.Sprintf(`{"file": %q}`, file("a.json", "{}")), "not a profile")
	f(fmt.Sprintf(`{"file": %q}`, file("a.parquet", "PAR1")), "as Parquet")
	f(fmt.Sprintf(`{"file": %q}`, s.reference(300)), "target")
	f(fmt.Sprintf(`{"file": %q}`, file("a.csv", "other\n"+strings.Repeat("1.5\n", 300))), "other")
	_, err := b.Apply(t.Context(), Change{Delete: []store.Key{{Kind: "Endpoint", Name: "e"}},
		By: ana})
	if err == nil || !strings.Contains(err.Error(), "no endpoint is called") {
		t.Errorf("an endpoint with a monitor is deleted: %v", err)
	}
}

// alertmanager is the contract of Alertmanager's API v2: alerts by their labels.
type alertmanager struct {
	*httptest.Server
	mu     sync.Mutex
	down   bool
	alerts map[string]map[string]any
	ended  int
}

func newAlertmanager(t *testing.T) *alertmanager {
	a := &alertmanager{alerts: make(map[string]map[string]any)}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *alertmanager) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	text, err := io.ReadAll(r.Body)
	var list []map[string]any
	if err == nil {
		err = json.Unmarshal(text, &list)
	}
	if err != nil || a.down || r.URL.Path != "/api/v2/alerts" {
		w.WriteHeader(http.StatusServiceUnavailable)
		return
	}
	for _, one := range list {
		labels, _ := json.Marshal(one["labels"])
		a.alerts[string(labels)] = one
		if end, err := time.Parse(time.RFC3339Nano, fmt.Sprint(one["endsAt"])); err != nil ||
			!end.After(time.Now()) {
			a.ended++
		}
	}
}

// Alertmanager learns of an alarm, again and again while it is on, and of its end once; also when
// it was away at first. The alarm is a run of MLflow that ends with it.
func TestAlertmanager(t *testing.T) {
	am := newAlertmanager(t)
	am.down = true
	b, s := watching(t, fmt.Sprintf(`, "alertmanager": {"url": %q}`, am.URL))
	tell := newTeller(b.Plane)
	defer tell.close()
	s.ticks(5, monitor.StateAlarm)
	s.shift = 3
	s.ticks(20, monitor.StateAlarm)
	now := time.Now()
	tell.tellAll(t.Context(), now)
	if a := b.alarms()[0]; !a.Alerted.IsZero() || !strings.Contains(a.Error, "503") {
		t.Fatalf("while it is away: %+v", a)
	}
	am.down = false
	for range 5 {
		now = now.Add(30 * time.Second)
		tell.tellAll(t.Context(), now)
	}
	if a := b.alarms()[0]; a.Alerted.IsZero() || a.Error != "" || a.Logged != loggedRaised {
		t.Fatalf("the alarm is %+v", a)
	}
	if _, err := b.Monitor(t.Context(), "watch", MonitorResolve, ana); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		now = now.Add(time.Second)
		tell.tellAll(t.Context(), now)
	}
	if len(am.alerts) != 1 || am.ended != 1 {
		t.Errorf("%d alerts, of which %d ends: %v", len(am.alerts), am.ended, am.alerts)
	}
	if a := b.alarms()[0]; a.Ended.IsZero() || a.Logged != loggedResolved || a.Error != "" {
		t.Errorf("the alarm is %+v", a)
	}
	records, err := b.outboxes[localOutbox].Records()
	if err != nil || len(records) != 1 {
		t.Fatal(records, err)
	}
	r := records[0].Record
	if r.Status != "finished" || len(r.Series[0].Points) == 0 || len(r.Artifacts) != 3 ||
		!strings.Contains(string(r.Artifacts[1].Content), "###") {
		t.Errorf("the run is %+v", r)
	}
}

// What a crash or a person has made of a monitor's file costs the evidence, and nothing else.
func TestMonitorFileDamaged(t *testing.T) {
	b, s := watching(t, "")
	s.ticks(10, monitor.StateAlarm)
	b.close()
	if err := os.WriteFile(b.monitorFile("watch"), []byte(`{"key": "`), 0o644); err != nil {
		t.Fatal(err)
	}
	b.start(config.Default())
	b.opened()
	if b.log.count("it begins anew") != 1 {
		t.Errorf("the log is %s", b.log.text.String())
	}
	s.shift = 3
	if s.ticks(20, monitor.StateAlarm); s.status().State != monitor.StateAlarm {
		t.Errorf("the state is %s", s.status().State)
	}
}

// BenchmarkArrange is a look at a thousand monitors of which none is due.
func BenchmarkArrange(b *testing.B) {
	file := config.Default()
	p, err := Open(Config{Data: b.TempDir(), Log: slog.New(slog.DiscardHandler), manual: true},
		&fakeGateway{counted: make(map[string]Observed)}, loaded, &file)
	if err != nil {
		b.Fatal(err)
	}
	defer p.Close()
	put := []string{"Model", "m", `{"aliases": {"champion": "1"}}`,
		"Endpoint", "e", `{"model": "m", "stable": "@champion"}`}
	for i := range 1000 {
		put = append(put, "Monitor", fmt.Sprint("w", i),
			`{"endpoint": "e", "reference": {"learn": 1000}, "tick": "24h"}`)
	}
	if _, err := p.Apply(b.Context(), texts(put...)); err != nil {
		b.Fatal(err)
	}
	now := time.Now()
	p.tickAll(now)
	p.wait.Wait()
	b.ReportAllocs()
	for b.Loop() {
		p.tickAll(now)
	}
}
