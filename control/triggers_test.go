package control

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
)

// commandTrigger is a trigger of a shell command, with more keys. $OUT is a file of its own.
func commandTrigger(out, script, more string) string {
	argv, _ := json.Marshal([]string{"/bin/sh", "-c", "OUT=" + out + "; " + script})
	return fmt.Sprintf(`{"command": {"argv": %s}, "poll": "1ms"%s}`, argv, more)
}

// says is a script that leaves a line of what it got to know.
const says = `echo $MILLRACE_RUN $MILLRACE_ENDPOINT $MILLRACE_VERSION $MILLRACE_ALPHA >>$OUT`

// leftBy returns the lines that scripts have left.
func leftBy(t *testing.T, path string) []string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return slices.Collect(strings.Lines(string(text)))
}

// runsOf returns the records of a trigger's runs, the earliest first.
func (b *bench) runsOf(name string) []trigger.Run {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []trigger.Run
	for _, it := range stored(b.t, b.store).starts {
		if it.status.Trigger == name {
			list = append(list, it.status)
		}
	}
	slices.SortFunc(list, func(a, b trigger.Run) int { return a.Began.Compare(b.Began) })
	return list
}

// stand wants the runs of a trigger to be in these states, the earliest first.
func (b *bench) stand(name, want string) {
	b.t.Helper()
	var words []string
	for _, r := range b.runsOf(name) {
		words = append(words, string(r.State))
	}
	if got := strings.Join(words, " "); got != want {
		b.t.Errorf("the runs of %s are %q, want %q", name, got, want)
	}
}

// turnAll takes all runs one turn on, at the time of the bench where that is ahead.
func (b *bench) turnAll() {
	now := time.Now()
	if b.now.After(now) {
		b.now = b.now.Add(5 * time.Millisecond)
		now = b.now
	}
	b.mu.Lock()
	drivers := maps.Clone(b.drivers)
	b.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(drivers)) {
		b.turn(id, drivers[id], now)
	}
}

// finish turns until all runs have ended.
func (b *bench) finish() {
	b.t.Helper()
	b.eventually("no run is under way", func() bool {
		b.turnAll()
		b.mu.Lock()
		defer b.mu.Unlock()
		return len(b.drivers) == 0
	})
}

// tell gives a command to a trigger and wants a text in the answer, or in the error.
func (b *bench) tell(name, command, want string) {
	b.t.Helper()
	text, err := b.Trigger(b.t.Context(), name, command, Start{By: ana,
		Parameters: map[string]string{"alpha": "0.5"}})
	if err != nil {
		text = err.Error()
	}
	if !strings.Contains(text, want) {
		b.t.Errorf("%s %s says %q, want %q", command, name, text, want)
	}
}

// tellRun gives a command to a run and wants a text in the answer, or in the error.
func (b *bench) tellRun(id, command, want string) {
	b.t.Helper()
	text, err := b.Run(b.t.Context(), id, command, ana)
	if err != nil {
		text = err.Error()
	}
	if !strings.Contains(text, want) {
		b.t.Errorf("%s of a run says %q, want %q", command, text, want)
	}
}

// TestTriggerByHand starts a command, which gets to know the endpoint and the parameters.
func TestTriggerByHand(t *testing.T) {
	b := open(t)
	out := filepath.Join(t.TempDir(), "out")
	b.aliases("1", "1")
	b.put("Endpoint", "e", fixed("1"), "Trigger", "train", commandTrigger(out, says,
		`, "endpoint": "e", "daily_budget": 3, "parameters": {"alpha": "1", "beta": "2"}`))
	b.tell("train", TriggerStart, "begins")
	b.tell("train", TriggerStart, "max_runs")
	b.finish()
	b.stand("train", "succeeded")
	run := b.runsOf("train")[0]
	if run.By != "ana" || run.Context.Model != "m" || run.Context.Extra["beta"] != "2" {
		t.Errorf("%+v", run)
	}
	if got := leftBy(t, out); len(got) != 1 || got[0] != run.ID+" e 1 0.5\n" {
		t.Errorf("the command has written %q", got)
	}
	b.tell("train", TriggerStop, "starts nothing")
	b.tell("train", TriggerStop, "was stopped by ana")
	b.restart()
	b.tell("train", TriggerStart, "the trigger is stopped")
	b.tell("train", TriggerResume, "starts again")
	for range 2 {
		again := Start{ID: "x", By: ana}
		if text, err := b.Trigger(t.Context(), "train", TriggerStart, again); err != nil {
			t.Error(text, err)
		}
	}
	b.finish()
	b.tell("train", TriggerStart, "begins")
	b.tell("train", "dance", "knows no")
	b.tell("none", TriggerStart, "not found")
	b.finish()
	b.stand("train", "succeeded succeeded succeeded")
	b.tell("train", TriggerStart, "daily_budget")
	b.tellRun(run.ID, RunCancel, "succeeded")
	b.tellRun(run.ID, RunRetry, "succeeded")
	b.tellRun("none", RunRetry, "not found")
	b.remove("Trigger", "train")
	if n := len(b.runsOf("train")); n != 0 {
		t.Errorf("the trigger has left, %d of its runs have not", n)
	}
	if err := b.tidyCommands(); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(filepath.Join(b.cfg.Data, commandDir, "*")); len(left) != 0 {
		t.Errorf("%v is left, %v", left, err)
	}
}

// TestRunCommands cancels a run before it has begun, and one that goes on; both are retried.
func TestRunCommands(t *testing.T) {
	b := open(t)
	out := filepath.Join(t.TempDir(), "out")
	b.put("Trigger", "train", commandTrigger(out, "echo . >>$OUT; sleep 600", `, "max_runs": 2`))
	b.tell("train", TriggerStart, "begins")
	first := b.runsOf("train")[0].ID
	b.tellRun(first, RunCancel, "had not started")
	b.tellRun(first, RunRetry, "attempt 2")
	b.turnAll()
	b.stand("train", "running")
	b.restart()
	b.turnAll()
	b.stand("train", "running")
	b.eventually("its command has begun", func() bool { return len(leftBy(t, out)) > 0 })
	b.tellRun(first, RunCancel, "is to be cancelled")
	b.tellRun(first, RunCancel, "ana")
	b.finish()
	b.stand("train", "cancelled")
	if got := leftBy(t, out); len(got) != 1 {
		t.Errorf("it began %d times", len(got))
	}
}

// TestHalted has runs that fail until only a person may start more.
func TestHalted(t *testing.T) {
	b := open(t)
	out := filepath.Join(t.TempDir(), "out")
	b.put("Trigger", "train", commandTrigger(out, `echo no rows; test -e $OUT`,
		`, "on": {"alert": {"alertname": "Drift"}}, "cooldown": "0s", "max_failures": 2`))
	for i := range 4 {
		b.alert(fmt.Sprintf("%02x", i), "")
		b.finish()
		b.look(time.Second)
	}
	b.stand("train", "failed failed suppressed suppressed")
	run := b.runsOf("train")[0]
	if run.Logs != "no rows\n" || !strings.Contains(run.Error, "status 1") {
		t.Errorf("%+v", run)
	}
	waits := func() string { return b.view.triggers["train"].status.Halted }
	if !strings.Contains(waits(), "2 runs in a row have failed") {
		t.Errorf("the trigger is halted because %q", waits())
	}
	if n := b.log.count("a trigger waits for a person"); n != 1 {
		t.Errorf("that was said %d times", n)
	}
	metrics := gathered(t, b.Plane)
	for text, want := range map[string]string{
		"millrace_trigger_waits train":                          "1",
		"millrace_trigger_runs_total failed train":              "2",
		"millrace_trigger_runs_total suppressed train":          "2",
		"millrace_trigger_active_runs running train":            "0",
		"millrace_trigger_last_success_timestamp_seconds train": "",
	} {
		if metrics[text] != want {
			t.Errorf("%s is %q, want %q", text, metrics[text], want)
		}
	}
	if err := os.WriteFile(out, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	b.tell("train", TriggerStart, "begins")
	b.finish()
	b.look(time.Second)
	if waits() != "" || gathered(t, b.Plane)["millrace_trigger_waits train"] != "0" {
		t.Errorf("after a success it is halted: %q", waits())
	}
	b.alert("ff", "")
	b.finish()
	b.stand("train", "failed failed suppressed suppressed succeeded succeeded")
}

// alert sends a webhook of Alertmanager with one alert that fires, and wants a text in the answer.
func (b *bench) alert(fingerprint, want string) {
	b.t.Helper()
	body := `{"version": "4", "alerts": [{"status": "firing", "fingerprint": "` + fingerprint +
		`", "startsAt": "2026-08-22T10:00:00Z", "labels": {"alertname": "Drift", "team": "a"}}]}`
	text, err := b.AlertHook(b.t.Context(), http.Header{"Authorization": {"Bearer t0ken"}},
		[]byte(body))
	if err != nil {
		text = err.Error()
	}
	if !strings.Contains(text, want) {
		b.t.Errorf("the webhook of an alert is answered by %q, want %q", text, want)
	}
}

// TestCooldown starts what happened in the cooldown once that is over, unless more has come since.
func TestCooldown(t *testing.T) {
	b := open(t)
	b.now = time.Now()
	out := filepath.Join(t.TempDir(), "out")
	b.put("Trigger", "train", commandTrigger(out, says,
		`, "on": {"alert": {"team": "a"}}, "cooldown": "1h"`))
	b.alert("01", "1 runs begin")
	b.alert("01", "nothing new")
	b.finish()
	b.alert("02", "0 runs begin, 1 were suppressed")
	b.alert("03", "0 runs begin, 1 were suppressed")
	b.look(30 * time.Minute)
	b.stand("train", "succeeded suppressed suppressed")
	b.look(40 * time.Minute)
	b.finish()
	b.stand("train", "succeeded suppressed succeeded")
	b.look(3 * time.Hour)
	b.stand("train", "succeeded suppressed succeeded")
	b.put("Trigger", "dry", commandTrigger(out, says, `, "on": {"alert": {"team": "a"}},
		"dry_run": true`), "Trigger", "other", commandTrigger(out, says,
		`, "on": {"alert": {"team": "a", "alertname": "Slow"}}`))
	b.alert("04", "")
	b.stand("dry", "suppressed")
	b.stand("other", "")
	if got := leftBy(t, out); len(got) != 2 {
		t.Errorf("it began %d times", len(got))
	}
}

// TestMeanwhile starts the latest of what happened while a run was under way once it has ended.
func TestMeanwhile(t *testing.T) {
	b := open(t)
	b.now = time.Now()
	b.put("Trigger", "train", commandTrigger("/dev/null", says,
		`, "on": {"alert": {"team": "a"}}, "cooldown": "0s"`))
	b.alert("01", "1 runs begin")
	b.alert("02", "0 runs begin, 1 were suppressed")
	b.look(time.Minute)
	b.alert("03", "0 runs begin, 1 were suppressed")
	b.finish()
	b.look(time.Minute)
	b.finish()
	b.look(time.Hour)
	b.stand("train", "succeeded suppressed succeeded")
}

// TestAlarm starts for an alarm what it tells, and in the cooldown only once that is over, if the
// alarm is not.
func TestAlarm(t *testing.T) {
	b := open(t)
	b.now = time.Now()
	b.aliases("1", "1")
	b.put("Endpoint", "e", fixed("1"), "Monitor", "fraud",
		`{"endpoint": "e", "reference": {"learn": 1000}}`, "Trigger", "train",
		commandTrigger("/dev/null", says, `, "on": {"alarm": "fraud"}, "cooldown": "1h"`))
	raise := func(n int, resolved time.Time) {
		t.Helper()
		b.mu.Lock()
		defer b.mu.Unlock()
		b.now = b.now.Add(time.Millisecond)
		name := fmt.Sprintf("fraud/%d", n)
		records := b.started(occasion{on: onAlarm, name: "fraud", event: trigger.Event{
			ID: "alarm/" + name, Reason: "amount drifts", Context: trigger.Context{
				Endpoint: "e", Version: "7", Evidence: `{"amount": 9}`}}}, b.now)
		if err := b.commit(t.Context(), store.Txn{By: ana, Put: append(records, store.Resource{
			Key: store.Key{Kind: KindAlarm, Name: name}, Status: encode(monitor.Alarm{
				Monitor: "fraud", Number: n, Resolved: resolved})})}); err != nil {
			t.Error(err)
		}
	}
	raise(1, time.Time{})
	b.finish()
	b.stand("train", "succeeded")
	if c := b.runsOf("train")[0].Context; c.Version != "7" || c.Evidence != `{"amount": 9}` {
		t.Errorf("%+v", c)
	}
	raise(2, b.now)
	b.look(2 * time.Hour)
	b.finish()
	b.stand("train", "succeeded suppressed")
	b.now = time.Now()
	raise(3, time.Time{})
	b.look(3 * time.Hour)
	b.finish()
	b.stand("train", "succeeded suppressed succeeded")
	b.tell("train", TriggerStart, "begins")
	for _, r := range b.runsOf("train") {
		if c := r.Context; r.By == "ana" && (c.Endpoint != "e" || c.Version != "1") {
			t.Errorf("by hand: %+v", c)
		}
	}
	if _, err := b.Apply(t.Context(), Change{By: ana,
		Delete: []store.Key{{Kind: "Monitor", Name: "fraud"}}}); err == nil ||
		!strings.Contains(err.Error(), `trigger train: on.alarm: is "fraud"`) {
		t.Errorf("what a trigger waits for is deleted: %v", err)
	}
}

// TestManyRecords has more events than are kept.
func TestManyRecords(t *testing.T) {
	b := open(t)
	b.put("Trigger", "train", commandTrigger("/dev/null", says,
		`, "on": {"alert": {"team": "a"}}, "dry_run": true`))
	for i := range 3 * keepSuppressed {
		b.alert(fmt.Sprintf("%02x", i), "")
	}
	b.look(time.Second)
	if n := len(b.runsOf("train")); n != keepSuppressed {
		t.Errorf("%d records are kept", n)
	}
}

// TestSchedule starts at the times of a schedule, once each, and makes up for the last that was
// missed.
func TestSchedule(t *testing.T) {
	b := open(t)
	b.now = time.Date(2026, 11, 25, 2, 30, 0, 0, time.UTC)
	spec := func(schedule string) string {
		return commandTrigger("/dev/null", says, `, "cooldown": "0s", "daily_budget": 100, "on":
			{"schedule": "`+schedule+`"}`)
	}
	b.put("Trigger", "train", spec("CRON_TZ=UTC 0 3 * * *"))
	f := func(after time.Duration, want string) {
		t.Helper()
		b.look(after)
		b.finish()
		var words []string
		for _, r := range b.runsOf("train") {
			words = append(words, strings.TrimPrefix(r.Event, "schedule/2026-11-"))
		}
		if got := strings.Join(words, " "); got != want {
			t.Errorf("at %v it has started for %q, want %q", b.now, got, want)
		}
	}
	f(0, "")
	f(29*time.Minute, "")
	f(time.Minute, "25T03:00:00Z")
	f(time.Minute, "25T03:00:00Z")
	b.restart()
	f(time.Minute, "25T03:00:00Z")
	f(72*time.Hour, "25T03:00:00Z 28T03:00:00Z") // it was down
	b.put("Trigger", "train", spec("@every 1h"))
	f(time.Second, "25T03:00:00Z 28T03:00:00Z")
	f(30*time.Minute, "25T03:00:00Z 28T03:00:00Z")
	f(30*time.Minute, "25T03:00:00Z 28T03:00:00Z 28T04:02:01Z")
	f(-3*time.Hour, "25T03:00:00Z 28T03:00:00Z 28T04:02:01Z") // the clock was put back
	f(time.Hour, "25T03:00:00Z 28T02:02:01Z 28T03:00:00Z 28T04:02:01Z")
}

// TestTriggerOnRollout starts in the transaction that ends a rollout badly.
func TestTriggerOnRollout(t *testing.T) {
	b := open(t)
	out := filepath.Join(t.TempDir(), "out")
	b.aliases("1", "2")
	b.endpoint("")
	b.put("Trigger", "train", commandTrigger(out, says, `, "on": {"rollout": "e"}`))
	b.Plane.cfg.step = func(what string) {
		if what != "committed" {
			return
		}
		v := stored(t, b.store)
		if r := v.rollouts["e/1"]; r != nil && r.status.State.Verdict != "" && len(v.starts) != 1 {
			t.Errorf("the rollout has ended, and %d runs are on record", len(v.starts))
		}
	}
	b.look(time.Second)
	b.pass(300)
	b.finish()
	if s := b.state(); s.Verdict != "failed" {
		t.Fatalf("the rollout is %s", s.Verdict)
	}
	b.stand("train", "succeeded")
	run := b.runsOf("train")[0]
	if run.Context.Version != "2" || run.Context.Endpoint != "e" ||
		!strings.Contains(run.Context.Evidence, `"verdict":"failed"`) {
		t.Errorf("%+v", run)
	}
	_, err := b.Apply(t.Context(), Change{Delete: []store.Key{{Kind: "Endpoint", Name: "e"}}})
	if !errors.Is(err, config.ErrInvalid) ||
		!strings.Contains(err.Error(), `trigger train: is about "e"`) {
		t.Errorf("what a trigger waits for is deleted: %v", err)
	}
}

// airflow is a server of Airflow 3, as far as triggers need it: it keeps the names of runs.
type airflow struct {
	*httptest.Server
	mu    sync.Mutex
	runs  []string // guarded by mu, as all below
	state string
	down  int // status of the answers; 0: it answers
}

func serveAirflow(t *testing.T) *airflow {
	a := &airflow{state: "success"}
	a.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.mu.Lock()
		defer a.mu.Unlock()
		var body struct {
			ID string `json:"dag_run_id"`
		}
		if a.down != 0 {
			w.WriteHeader(a.down)
			return
		}
		name := filepath.Base(r.URL.Path)
		if r.Method == http.MethodPost {
			if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
				t.Error(err)
			}
			if name = body.ID; slices.Contains(a.runs, name) {
				w.WriteHeader(http.StatusConflict)
				return
			}
			a.runs = append(a.runs, name)
		}
		if !slices.Contains(a.runs, name) {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		fmt.Fprintf(w, `{"dag_run_id": %q, "state": %q}`, name, a.state)
	}))
	t.Cleanup(a.Close)
	return a
}

// set changes how the server answers.
func (a *airflow) set(state string, down int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.state, a.down = state, down
}

// began counts the runs.
func (a *airflow) began() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.runs)
}

func (a *airflow) trigger(more string) string {
	return fmt.Sprintf(`{"airflow": {"uri": %q, "dag": "train"}, "poll": "1ms"%s}`, a.URL, more)
}

// TestAllRuns bounds the runs of all triggers at once; more wait.
func TestAllRuns(t *testing.T) {
	b := open(t)
	b.close()
	a := serveAirflow(t)
	a.set("running", 0)
	b.start(parse(t, fmt.Sprintf("server: {pipelines: {max_runs: 2}}\ntriggers:\n"+
		"- {name: a, airflow: &a {uri: %q, dag: train}, poll: 1ms}\n"+
		"- {name: b, airflow: *a, poll: 1ms}\n- {name: c, airflow: *a, poll: 1ms}\n", a.URL)))
	for _, name := range []string{"a", "b", "c"} {
		b.tell(name, TriggerStart, "begins")
	}
	for range 3 {
		b.turnAll()
	}
	if n := a.began(); n != 2 {
		t.Errorf("%d have begun", n)
	}
	a.set("success", 0)
	b.finish()
	if n := a.began(); n != 3 {
		t.Errorf("%d have begun in the end", n)
	}
}

// gathered returns the metrics of a plane by name and values of labels.
func gathered(t *testing.T, p *Plane) map[string]string {
	t.Helper()
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(p)
	families, err := r.Gather()
	if err != nil {
		t.Error(err)
	}
	all := make(map[string]string)
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += " " + l.GetValue()
			}
			all[name] = fmt.Sprint(m.GetGauge().GetValue() + m.GetCounter().GetValue())
		}
	}
	return all
}
