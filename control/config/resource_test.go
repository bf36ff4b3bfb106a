package config

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
	"time"
)

const resources = `
sources:
  - name: lab
    poll: 10s
    mlflow: {uri: "http://127.0.0.1:5000", webhook_secret_env: SECRET}
    access: {token_env: TOKEN, allow: [10.0.0.0/8]}
    convert: {command: [python, convert.py], memory: 2GiB}
  - {name: inbox, push: true}
models:
  - name: fraud
    source: lab
    registered: team fraud
    batching: {max_batch_size: 64, max_queue_delay: 0s}
endpoints:
  - name: fraud
    stable: "@champion"
    sticky: {header: x-user, salt: "\U0001F600"}
    canary:
      watch: "@challenger"
      shadow: {percent: 100, requests: 1000}
      steps: [1, 5, 25.5, 50]
      step: {min_time: 2m, min_requests: 500}
      guards:
        - {metric: errors}
        - {metric: latency, quantile: 0.95}
        - {metric: disagreement, max: 0.02}
      then: {alias: champion}
      freeze: [{days: [fri, sat], from: "22:00", to: "06:00", zone: Europe/Berlin}]
`

// TestResources wants settings to be the same after a way through resources.
func TestResources(t *testing.T) {
	c, err := Parse("f.yaml", []byte(resources))
	if err != nil {
		t.Fatal(err)
	}
	all := c.Resources()
	if len(all) != 4 {
		t.Fatalf("%d resources, want 4", len(all))
	}
	again := Default()
	for _, r := range all {
		if strings.Contains(string(r.Spec), `"name"`) {
			t.Errorf("%s %s has its name in the spec: %s", r.Kind, r.Name, r.Spec)
		}
		text, err := json.Marshal(r) // as it is stored: with escapes
		if err != nil {
			t.Fatal(err)
		}
		var stored Resource
		if err := json.Unmarshal(text, &stored); err != nil {
			t.Fatal(err)
		}
		if err := again.Add(stored); err != nil {
			t.Fatalf("%s: %v", r.Spec, err)
		}
	}
	if !reflect.DeepEqual(again, c) {
		t.Errorf("got %+v, want %+v", again, c)
	}
	if !again.Remove(KindEndpoint, "fraud") || again.Remove(KindEndpoint, "fraud") {
		t.Error("an endpoint can be removed twice, or not once")
	}
}

func TestResourceFaults(t *testing.T) {
	f := func(kind, spec, want string) {
		t.Helper()
		c := Default()
		err := c.Add(Resource{kind, "x", json.RawMessage(spec)})
		if err == nil {
			err = c.Named(c.Validate())
		}
		if err == nil || err.Error() != want {
			t.Errorf("%s %s: %v, want %s", kind, spec, err, want)
		}
	}
	f("Endpiont", `{}`,
		`kind: is "Endpiont", must be one of Source, Model, Endpoint, Monitor, Trigger`)
	f(KindEndpoint, `{"stabel": "1"}`, `stabel: unknown key; did you mean stable?`)
	f(KindEndpoint, `{"stable": {}}`, `stable: is a mapping, must be text`)
	f(KindEndpoint, `{`, `not JSON: unexpected EOF`)
	f(KindEndpoint, `{} {}`, `not JSON: something follows the object`)
	f(KindEndpoint, `[]`, `is a list, must be a mapping (key: value)`)
	f(KindEndpoint, `{"name": "y"}`, `name: is "y", but the resource is called "x"`)
	f(KindEndpoint, `{"stable": "@best"}`,
		`endpoint x: stable: model "x" has no alias "best"; it has none`)
	f(KindEndpoint, `{"canary": {}}`,
		`endpoint x: canary: tries nothing; give it a version, or an alias to watch`)
	f(KindEndpoint, `{"canary": {"version": "2", "steps": [5]}}`,
		`endpoint x: canary: has keys of `+
			`a rollout beside a fixed version; put watch: "@alias" in the place of version`)
	f(KindModel, `{"source": "lab"}`, `model x: source: is "lab", which no source is called`)
	f(KindModel, `{"golden": {"file": "a.csv"}}`,
		`model x: golden.min_score: is missing; it says what score will do`)
	f(KindModel, `{"golden": {"file": "a.csv", "metric": "mae", "max_error": 1, "min_score": 1}}`,
		`model x: golden.min_score: does not go with the metric; max_error does`)
	f(KindModel, `{"golden": {"file": "a.csv", "min_score": 0.9}}`,
		`model x: golden: is for versions that come from a source; the model has none`)
	f(KindSource, `{}`,
		`source x: has 0 of mlflow, folder, git, blob, oci, https and push, must have one`)
	f(KindSource, `{"mlflow": {"uri": "ftp://x"}}`,
		`source x: mlflow.uri: is "ftp://x", must be a URL that begins with one of `+
			`["http" "https"]`)
}

func TestCanaryFaults(t *testing.T) {
	f := func(canary, want string) {
		t.Helper()
		_, err := Parse("f", []byte("sources: [{name: s, push: true}]\n"+
			"models: [{name: m, source: s}, {name: n, source: s}]\n"+
			"endpoints: [{name: m, stable: \"@ok\", canary: "+canary+"}]"))
		if got := ""; err != nil {
			got = err.Error()
			if !strings.HasSuffix(got, want) || want == "" {
				t.Errorf("%s: %s, want %q", canary, got, want)
			}
		} else if want != "" {
			t.Errorf("%s is taken, want %q", canary, want)
		}
	}
	f(`{watch: "@new"}`, "")
	f(`{watch: new}`, `canary.watch: is "new", must be an alias such as "@challenger"`)
	f(`{watch: "@ok"}`, `canary.watch: is "@ok", as stable is; watch another alias`)
	f(`{watch: "@new", model: n}`, `canary.model: is "n", a rollout is of versions of one model`)
	f(`{watch: "@new", weight: 5}`, `canary.weight: is set by the rollout; give steps`)
	f(`{watch: "@new", steps: [5, 5]}`,
		`canary.steps[1]: is 5, must be above the step before (5) and at most 100`)
	f(`{watch: "@new", strategy: bluegreen}`, `canary.strategy: is "bluegreen", must be one of `+
		`canary, blue_green, immediate; did you mean blue_green?`)
	f(`{watch: "@new", guards: [{metric: prometheus, server: "http://p"}]}`,
		`canary.guards[0].query: is for the metric prometheus, which needs it`)
	f(`{watch: "@new", freeze: [{from: "9", to: "10:00"}]}`,
		`canary.freeze[0].from: is "9", must be a time such as 22:00`)
	f(`{watch: "@new", hooks: [{url: "http://x", secret_env: S, on: [stop]}]}`,
		`canary.hooks[0].on[0]: is "stop", must be one of start, step, promotion, end; `+
			`did you mean step?`)
}

func TestFrozen(t *testing.T) {
	f := func(z Freeze, at string, want bool) {
		t.Helper()
		now, err := time.Parse(time.RFC3339, at)
		if err != nil {
			t.Fatal(err)
		}
		if got := z.Frozen(now); got != want {
			t.Errorf("%+v at %s: %v, want %v", z, at, got, want)
		}
	}
	day := Freeze{From: "09:00", To: "17:00"}
	f(day, "2026-11-25T09:00:00Z", true)
	f(day, "2026-11-25T17:00:00Z", false)
	night := Freeze{Days: []string{"fri"}, From: "22:00", To: "06:00", Zone: "Europe/Berlin"}
	f(night, "2026-11-27T21:30:00Z", true)  // Friday 22:30 in Berlin
	f(night, "2026-11-28T04:59:00Z", true)  // Saturday morning still
	f(night, "2026-11-28T05:01:00Z", false) // after 06:00
	f(night, "2026-11-27T04:00:00Z", false) // Friday morning belongs to Thursday
	f(night, "2026-11-28T21:30:00Z", false)
}
