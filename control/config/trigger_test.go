package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/trigger"
)

const triggerText = `
endpoints: [{name: fraud}]
monitors: [{name: fraud, endpoint: fraud, reference: {learn: 10000}}]
server: {pipelines: {max_runs: 3, alert_token_file: token}}
taps: [{name: samples, files: {path: samples, format: jsonl}}]
triggers:
  - name: airflow
    on: {alarm: fraud}
    airflow: {uri: "http://127.0.0.1:8080", dag: train_fraud, version: 2}
    access: {username: bot, password_env: AIRFLOW_PASSWORD, ca_file: ca.pem}
    cooldown: 0s
    max_runs: 2
    daily_budget: 9
    max_failures: 1
    poll: 1s
    start_timeout: 2m
    run_timeout: 3h
    cancel_timeout: 4m
  - name: kubeflow
    on: {rollout: fraud}
    kubeflow: {uri: "https://kfp/pipeline", pipeline_id: 7f, namespace: ml}
  - name: gocd
    on: {schedule: "CRON_TZ=Europe/Berlin 0 3 * * *"}
    gocd: {uri: "https://gocd", pipeline: train, user: millrace}
    access: {token_env: GOCD_TOKEN}
    inputs: [endpoint, version]
  - name: github
    on: {alert: {alertname: Slow, team: a}}
    endpoint: fraud
    github: {repository: ml/train, file: train.yml, ref: main, run_name: true}
    access: {token_env: GITHUB_TOKEN}
  - name: gitea
    on: {push: {repository: ml/train, branch: main, secret_file: hook}}
    gitea: {uri: "http://127.0.0.1:3000", repository: ml/train, file: train.yml, ref: main}
    parameters: {epochs: "5"}
  - name: gitlab
    on: {data: {endpoint: fraud, rows: 10000}}
    gitlab: {uri: "https://gitlab", project: ml/train, ref: main, trigger_token_env: T}
  - {name: argo, argo: {uri: "https://argo", namespace: ml, template: train}, stopped: true}
  - {name: jenkins, jenkins: {uri: "https://jenkins", job: team/train}, dry_run: true}
  - {name: webhook, webhook: {uri: "https://hooks/1", secret_file: secret}}
  - {name: command, command: {argv: [/bin/true], work_dir: work}}
`

// TestTriggers reads triggers of all kinds, which are the same after a way through resources.
func TestTriggers(t *testing.T) {
	path := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(path, []byte(triggerText), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	again := Default()
	for _, r := range c.Resources() {
		if err := again.Add(r); err != nil {
			t.Fatalf("%s: %v", r.Spec, err)
		}
	}
	if !reflect.DeepEqual(again.Triggers, c.Triggers) {
		t.Errorf("got %+v, want %+v", again.Triggers, c.Triggers)
	}
	if err := again.Validate(); err != nil {
		t.Error(err)
	}
	for i := range c.Triggers {
		if tr := &c.Triggers[i]; tr.Kind() != tr.Name {
			t.Errorf("%s is of the kind %q", tr.Name, tr.Kind())
		}
	}
	want := trigger.DefaultSpec()
	want.Trigger, want.Cooldown, want.MaxRuns, want.DailyBudget = "airflow", 0, 2, 9
	want.MaxFailures, want.Poll, want.StartTimeout = 1, time.Second, 2*time.Minute
	want.RunTimeout, want.CancelTimeout = 3*time.Hour, 4*time.Minute
	if got := c.Triggers[0].Spec(); got != want {
		t.Errorf("the spec is %+v, want %+v", got, want)
	}
	want = trigger.DefaultSpec()
	want.Trigger, want.Stopped = "argo", true
	if got := c.Triggers[6].Spec(); got != want {
		t.Errorf("the spec is %+v, want %+v", got, want)
	}
	dir := filepath.Dir(path)
	p := c.Triggers[0].Pipeline("/x").Server
	if p.CAFile != filepath.Join(dir, "ca.pem") || p.Username != "bot" ||
		p.Allow[0] != "127.0.0.1" {
		t.Errorf("%+v", p)
	}
	for i, path := range []string{c.Triggers[4].On.Push.SecretFile,
		c.Triggers[8].Webhook.SecretFile, c.Triggers[9].Command.WorkDir,
		c.Server.Pipelines.AlertTokenFile} {
		if filepath.Dir(path) != dir {
			t.Errorf("path %d is %s, not in %s", i, path, dir)
		}
	}
	if got := c.Triggers[3].Pipeline("/x").Server.Origin; got != gitHubAPI {
		t.Errorf("GitHub is at %s", got)
	}
	if !again.Remove(KindTrigger, "argo") || again.Remove(KindTrigger, "argo") {
		t.Error("a trigger can be removed twice, or not once")
	}
}

// TestUntapped has triggers that wait for files that no tap keeps.
func TestUntapped(t *testing.T) {
	f := func(taps, want string) {
		t.Helper()
		_, err := Parse("f", []byte("endpoints: [{name: e}, {name: d}]\ntaps: ["+taps+"]\n"+
			"triggers: [{name: a, on: {data: {endpoint: e, rows: 1}}, command: {argv: [/x]}}]"))
		if got := fmt.Sprint(err); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", taps, got, want)
		}
	}
	const fault = `triggers[0].on.data.endpoint: is "e", of which no tap keeps files`
	f("", fault)
	f("{name: t, cloudevents: {url: 'http://x'}}", fault)
	f("{name: t, files: {path: p, format: jsonl}, endpoints: [d]}", fault)
	f("{name: t, files: {path: p, format: jsonl}, endpoints: [d, e]}", "<nil>")
	f("{name: t, files: {path: p, format: jsonl}}", "<nil>")
}

func TestTriggerFaults(t *testing.T) {
	f := func(spec, want string) {
		t.Helper()
		c := Default()
		err := c.Add(Resource{KindTrigger, "x", json.RawMessage(spec)})
		if err == nil {
			err = c.Named(c.Validate())
		}
		if err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %v, want %s", spec, err, want)
		}
	}
	f(`{}`, `trigger x: has 0 of airflow, kubeflow, gocd,`)
	f(`{"command": {"argv": ["/x"]}, "argo": {}}`, `trigger x: has 2 of airflow,`)
	f(`{"airflow": {"dag": "a"}}`, `trigger x: airflow.uri: `)
	f(`{"airflow": {"uri": "ftp://x", "dag": "a"}}`, `trigger x: airflow.uri: `)
	f(`{"airflow": {"uri": "http://x"}}`, `trigger x: airflow.dag: is missing`)
	f(`{"airflow": {"uri": "http://x", "dag": "a", "version": 4}}`,
		`trigger x: airflow.version: is "4", must be one of 0, 2, 3`)
	f(`{"airflow": {"uri": "http://x", "dag": "a", "password": "p"}}`,
		`airflow.password: unknown key`)
	f(`{"airflow": {"uri": "http://x", "dag": "a"}, "access": {"username": "u"}}`,
		`trigger x: access.username: goes together with password_file or password_env`)
	f(`{"airflow": {"uri": "http://x", "dag": "a"}, "access": {"allow": ["10.0.0.0/99"]}}`,
		`trigger x: access.allow: `)
	f(`{"gitea": {"repository": "ml/train", "file": "a", "ref": "b"}}`, `trigger x: gitea.uri: `)
	f(`{"github": {"repository": "train", "file": "a", "ref": "b"}}`,
		`trigger x: github.repository: "train"; owner/name is wanted`)
	f(`{"webhook": {"uri": "http://x"}}`,
		`trigger x: webhook: secret_file or secret_env: is missing`)
	f(`{"command": {"argv": ["train"]}}`,
		`trigger x: command.argv: must begin with an absolute path`)
	on := func(on string) string { return `{"command": {"argv": ["/x"]}, "on": ` + on + `}` }
	f(on(`{"alarm": "a"}`), `trigger x: on.alarm: is "a", which no monitor is called`)
	f(on(`{"rollout": "a"}`), `trigger x: is about "a", which no endpoint is called`)
	f(on(`{"alert": {"a": "b"}, "schedule": "@daily"}`),
		`trigger x: on: has 2 keys, must have one at most`)
	f(on(`{"schedule": "0 25 * * *"}`),
		`trigger x: on.schedule: is "0 25 * * *", must be five fields`)
	f(on(`{"schedule": "0 0 30 2 *"}`),
		`trigger x: on.schedule: is "0 0 30 2 *", which never comes`)
	f(on(`{"data": {"endpoint": "a", "rows": 1}}`), `trigger x: is about "a", which no`)
	f(on(`{"data": {"endpoint": "a"}}`), `trigger x: is about "a", which no endpoint is called
trigger x: on.data.rows: is 0, must be 1 to`)
	f(on(`{"push": {"repository": "a/b"}}`), `trigger x: on.push: must have one of secret_env and`)
	f(on(`{"push": {"secret_env": "S"}}`), `trigger x: on.push.repository: is empty`)
	f(`{"command": {"argv": ["/x"]}, "endpoint": "a"}`,
		`trigger x: is about "a", which no endpoint is called`)
	f(`{"command": {"argv": ["/x"]}, "cooldown": "-1s"}`,
		`trigger x: cooldown: is -1s, must be 0s to`)
	f(`{"command": {"argv": ["/x"]}, "daily_budget": 101}`,
		`trigger x: daily_budget: is 101, must be`)
	if _, err := Parse("f", []byte("triggers: [{name: a, command: {argv: [/x]}}, "+
		"{name: a, command: {argv: [/x]}}]")); err == nil ||
		!strings.Contains(err.Error(), `triggers[1].name: "a" is there twice, first in`) {
		t.Error(err)
	}
}
