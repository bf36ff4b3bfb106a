package main

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/api/apitest"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
)

// TestTriggerCommands gives each command, and shows triggers and runs in all states.
func TestTriggerCommands(t *testing.T) {
	p := apitest.Serve(t, nil)
	f := func(err string, texts []string, args ...string) {
		t.Helper()
		admin(t, p.URL, args...).want(t, err, texts...)
	}
	began := time.Now().Add(-90 * time.Second)
	run := trigger.Run{ID: "r1", Trigger: "train", Event: "alarm/fraud/1", Reason: "amount drifts",
		State: trigger.Failed, Attempts: 2, Began: began, Started: began,
		Ended: began.Add(time.Minute), Link: "http://ci/r1", Logs: "no rows\x1b[2J\n",
		Error:   "status 1",
		Context: trigger.Context{Endpoint: "e", Extra: map[string]string{"epochs": "5"}}}
	record := func(run trigger.Run) store.Resource {
		text, err := json.Marshal(run)
		if err != nil {
			t.Fatal(err)
		}
		return store.Resource{Key: store.Key{Kind: "Run", Name: run.ID}, Status: text}
	}
	other := trigger.Run{ID: "r2", Trigger: "other", State: trigger.Pending, Began: began}
	spec := []byte(`{"on": {"alarm": "fraud"}, "airflow": {"uri": "http://a", "dag": "d"}}`)
	put := func(name, spec, status string) store.Resource {
		return store.Resource{Key: store.Key{Kind: "Trigger", Name: name}, Spec: []byte(spec),
			Status: []byte(status)}
	}
	txn := store.Txn{By: store.Author{Who: "test"}, Put: []store.Resource{
		put("train", string(spec), `{}`), record(run), record(other),
		put("a", `{"on": {"schedule": "@daily"}, "command": {"argv": ["/x"]}}`,
			`{"stopped": {"by": "ann", "at": "2026-11-25T22:00:00Z"}}`),
		put("b", `{"argo": {}, "stopped": true}`, `{}`),
		put("c", `{"argo": {}, "dry_run": true}`, `{}`),
		put("d", `{"argo": {}}`, `{"halted": "2 runs in a row have failed"}`)}}
	if _, err := p.Bolt.Txn(t.Context(), txn); err != nil {
		t.Fatal(err)
	}
	f("", []string{"alarm fraud", "airflow", "schedule @daily", "stopped by ann",
		"stopped by its settings", "dry run", "2 runs in a row"}, "get", "tr")
	f("", []string{"r1", "failed", "1m0s", "status 1", "r2", "pending"}, "get", "runs")
	f("", []string{"r1"}, "trigger", "runs", "train")
	f("", []string{"b has had no run"}, "trigger", "runs", "b")
	f("", []string{"dag: d", "Runs:", "r1"}, "describe", "trigger", "train")
	f("", []string{"Waits:", "stopped by ann"}, "describe", "trigger", "a")
	f("", []string{"failed", "alarm/fraud/1", "amount drifts", "r1-2", "http://ci/r1", "status 1",
		"1m0s", "epochs", "no rows"}, "describe", "run", "r1")
	f("not found", nil, "describe", "run", "none")
	f("", []string{"train is told to start"}, "trigger", "start", "train", "-p", "a=b", "--id", "7")
	f("has not ended", nil, "trigger", "start", "busy")
	f("", []string{"train is told to stop"}, "trigger", "stop", "train")
	f("", []string{"train is told to resume"}, "trigger", "resume", "train")
	f("", []string{"r1 is told to cancel"}, "trigger", "cancel", "r1")
	f("it is done", nil, "trigger", "retry", "done")
	f("give one name", nil, "trigger", "retry")
	f("there are alarms, endpoints, models", nil, "get", "pipelines")
	told := p.Told()
	for i, want := range []string{"start train 7map[a:b]", "stop train map[]", "resume train map[]",
		"cancel r1"} {
		if i >= len(told) || told[i] != want+" by "+userName() {
			t.Errorf("the control plane was told %q, want %q by %s", told, want, userName())
		}
	}
}
