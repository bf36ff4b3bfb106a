package config

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/route"
)

const endpointText = `
models:
  - name: fraud
    aliases: {champion: 3}
    cache: {max_bytes: 1MiB, ttl: 10m}
endpoints:
  - name: fraud
    stable: "@champion"
    canary: {version: 4, weight: 0.01}
    arms: [{name: third, model: other, weight: 99.99}]
    rules: [{header: x-team, exact: risk, arm: canary}]
    sticky: {cookie: who, set_cookie: 1h}
    bandit: {policy: epsilon_greedy, epsilon: 10, ceiling: 80}
    shadows: [{version: 5, percent: 20, absolute: 1e-3}]
    timeout: 100ms
    priority: 2
    limits: {concurrency: 7, requests_per_second: 1.5}
taps:
  - name: training
    endpoints: [fraud]
    files: {path: samples, format: parquet}
`

func TestEndpoints(t *testing.T) {
	path := filepath.Join(t.TempDir(), "millrace.yaml")
	if err := os.WriteFile(path, []byte(endpointText), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := []route.Spec{{
		Name: "fraud",
		Arms: []route.ArmSpec{
			{Name: "stable", Model: "fraud", Version: "@champion"},
			{Name: "canary", Model: "fraud", Version: "4", Weight: 1},
			{Name: "third", Model: "other", Weight: 9999},
		},
		Rules:  []route.RuleSpec{{Header: "x-team", Exact: "risk", Arm: "canary"}},
		Sticky: &route.StickySpec{Cookie: "who", Set: time.Hour},
		Bandit: &route.BanditSpec{Policy: "epsilon_greedy", Epsilon: 0.1, Ceiling: 8000,
			Interval: 10 * time.Second},
		Shadows: []route.ShadowSpec{{Model: "fraud", Version: "5", Percent: 20, Absolute: 1e-3}},
		Limits: route.LimitSpec{Timeout: 100 * time.Millisecond, Concurrency: 7, Requests: 1.5,
			Priority: 2},
	}}
	if got := c.Specs(); !reflect.DeepEqual(got, want) {
		t.Errorf("the endpoints are\n%+v, want\n%+v", got, want)
	}
	if got := c.Aliases()["fraud"]["champion"]; got != "3" {
		t.Errorf("champion is %q", got)
	}
	if got := c.Taps[0].Files.Path; got != filepath.Join(filepath.Dir(path), "samples") {
		t.Errorf("the folder of the tap is %s", got)
	}
	if got := c.Server.Data; got != filepath.Join(filepath.Dir(path), "data") {
		t.Errorf("the folder of what is kept is %s", got)
	}
}

func TestEndpointFaults(t *testing.T) {
	f := func(endpoint, want string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte("endpoints:\n  - name: e\n    "+endpoint+"\n"))
		if !errors.Is(err, ErrInvalid) || !OnlyResources(err) {
			t.Errorf("%q: error is %v", endpoint, err)
			return
		}
		if got := err.Error(); !strings.HasPrefix(got, want) || strings.Contains(got, "\n") {
			t.Errorf("%q: faults are\n%s\nwant\n%s", endpoint, got, want)
		}
	}
	f("canary: {version: 2, weight: -1}",
		"f.yaml:3: endpoints[0].canary.weight: is -1, must be 0 to 100")
	f("canary: {version: 2, weight: .nan}",
		`f.yaml:3: endpoints[0].canary.weight: is ".nan", must be a number`)
	f("canary: {version: 2, weight: 0.005}",
		"f.yaml:3: endpoints[0].canary.weight: is 0.005, must be a multiple of 0.01")
	f("canary: {version: 2, weight: much}",
		`f.yaml:3: endpoints[0].canary.weight: is "much", must be a number`)
	f("arms: [{name: a, weight: 60}, {name: b, weight: 60}]", "f.yaml:")
	f(`stable: "@nobody"`, "f.yaml:3: endpoints[0].stable: ")
	f(`canary: {version: "@nobody"}`, "f.yaml:3: endpoints[0].canary.version: ")
	f("rules: [{header: a, exact: b, prefix: c, arm: stable}]", "f.yaml:3: endpoints[0].rules[0]")
	f("rules: [{header: a, exact: b, arm: canary}]", "f.yaml:3: endpoints[0].rules[0].arm: ")
	f("sticky: {header: a, set_cookie: 1h}", "f.yaml:3: endpoints[0].sticky.set_cookie: ")
	f("canary: {version: 2}\n    bandit: {policy: ucb}",
		"f.yaml:4: endpoints[0].bandit.policy: ")
	f("shadows: [{version: 2, percent: 101}]",
		"f.yaml:3: endpoints[0].shadows[0].percent: is 101, must be 0 to 100")
	f("limits: {rows_per_second: -1}", "f.yaml:3: endpoints[0].limits.rows_per_second: ")
	f("weight: 5", "f.yaml:3: endpoints[0].weight: unknown key; allowed are ")
}

func TestTapFaults(t *testing.T) {
	f := func(tap, want string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte("taps:\n  - "+tap+"\n"))
		if err == nil || OnlyResources(err) || err.Error() != want {
			t.Errorf("%q: faults are\n%v\nwant\n%s", tap, err, want)
		}
	}
	f("{name: a}", "f.yaml:2: taps[0]: leads nowhere; give it files or cloudevents")
	f("{name: a, cloudevents: {url: 'ftp://x'}}",
		`f.yaml:2: taps[0].cloudevents.url: is "ftp://x", must be an http or https URL`)
	f("{name: a, endpoints: [b], cloudevents: {url: 'http://x'}}",
		`f.yaml:2: taps[0].endpoints[0]: is "b", which no endpoint is called`)
	f("{name: a, cloudevents: {url: 'http://x'}, files: {path: x, format: jsonl}}",
		"f.yaml:2: taps[0]: has files and cloudevents; make two taps of it")
	f("{name: a, files: {path: x, format: csv}}",
		`f.yaml:2: taps[0].files.format: is "csv", must be one of parquet, jsonl`)
}

func TestShare(t *testing.T) {
	for w := range route.FullWeight + 1 {
		if got := share(float64(w) / 100); got != w {
			t.Fatalf("%v %% is %d", float64(w)/100, got)
		}
	}
}
