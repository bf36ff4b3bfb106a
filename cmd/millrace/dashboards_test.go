package main

import (
	"encoding/json"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/millrace-ml/millrace/control/monitor"
)

var (
	metricName = regexp.MustCompile(`millrace_[a-z_]+`)
	metricRow  = regexp.MustCompile("(?m)^\\| `(millrace_[a-z_]+)` \\| (\\w+) \\|")
)

// documented lists the metrics of docs/metrics.md with the names that their samples have.
func documented(t *testing.T) map[string]bool {
	t.Helper()
	text, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	names := make(map[string]bool)
	for _, m := range metricRow.FindAllStringSubmatch(string(text), -1) {
		names[m[1]] = true
		if m[2] == "histogram" {
			names[m[1]+"_bucket"], names[m[1]+"_sum"], names[m[1]+"_count"] = true, true, true
		}
	}
	return names
}

// The rules and the dashboard use metrics that there are, and can be read.
func TestRulesAndDashboard(t *testing.T) {
	known := documented(t)
	used := make(map[string]bool)
	expressions := func(file string, v any) {
		count := 0
		var walk func(v any)
		walk = func(v any) {
			switch x := v.(type) {
			case map[string]any:
				for key, inner := range x {
					if text, ok := inner.(string); ok && (key == "expr" || key == "query") {
						count++
						for _, name := range metricName.FindAllString(text, -1) {
							used[name] = true
							if !known[name] {
								t.Errorf("%s: there is no metric %s: %s", file, name, text)
							}
						}
						if strings.Count(text, "(") != strings.Count(text, ")") {
							t.Errorf("%s: parentheses: %s", file, text)
						}
					}
					walk(inner)
				}
			case []any:
				for _, inner := range x {
					walk(inner)
				}
			}
		}
		walk(v)
		if count < 5 {
			t.Errorf("%s has %d expressions", file, count)
		}
	}
	for file, read := range map[string]func([]byte, any) error{
		"../../configs/prometheus/millrace.rules.yaml": yaml.Unmarshal,
		"../../configs/grafana/millrace.json":          json.Unmarshal,
	} {
		text, err := os.ReadFile(file)
		var v any
		if err == nil {
			err = read(text, &v)
		}
		if err != nil {
			t.Fatal(err)
		}
		expressions(file, v)
	}
	for _, name := range []string{"millrace_monitor_error_rate",
		"millrace_monitor_error_rate_limit", "millrace_monitor_estimated_accuracy",
		"millrace_monitor_outliers_total", "millrace_monitor_alarm", "millrace_custom",
		"millrace_custom_values_bucket"} {
		if !used[name] {
			t.Errorf("neither the rules nor the dashboard show %s", name)
		}
	}
	t.Logf("used are %v", slices.Sorted(maps.Keys(used)))
}

// Each kind of alarm is an alert of one rule, and rules ask for states that there are.
func TestRulesOfMonitors(t *testing.T) {
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	text, err := os.ReadFile("../../configs/prometheus/millrace.rules.yaml")
	if err == nil {
		err = yaml.Unmarshal(text, &file)
	}
	if err != nil {
		t.Fatal(err)
	}
	matcher := regexp.MustCompile(`\b(kind|state)(=~|=|!~)"([^"]*)"`)
	alerts := make(map[string][]string) // by kind
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			if !strings.Contains(r.Expr, "millrace_monitor_") {
				continue
			}
			for _, m := range matcher.FindAllStringSubmatch(r.Expr, -1) {
				for value := range strings.SplitSeq(m[3], "|") {
					if m[1] == "kind" {
						alerts[value] = append(alerts[value], r.Alert)
					} else if !slices.Contains(monitor.States(), monitor.State(value)) {
						t.Errorf("%s asks for the state %q, which is none", r.Alert, value)
					}
				}
			}
		}
	}
	want := map[string][]string{"drift": {"MillraceDrift"}, "segment": {"MillraceDrift"},
		"performance": {"MillracePerformance"}, "outliers": {"MillraceOutliers"}}
	if !maps.EqualFunc(alerts, want, slices.Equal) {
		t.Errorf("the kinds are alerts %v, want %v", alerts, want)
	}
	if !strings.Contains(string(text), `millrace_monitor_state{state="error"}`) {
		t.Error("no rule tells of a monitor that cannot watch")
	}
}

// No panel of the dashboard covers another one.
func TestDashboardPanels(t *testing.T) {
	type panel struct {
		ID      int
		GridPos struct{ X, Y, W, H int }
	}
	var board struct{ Panels []panel }
	text, err := os.ReadFile("../../configs/grafana/millrace.json")
	if err == nil {
		err = json.Unmarshal(text, &board)
	}
	if err != nil {
		t.Fatal(err)
	}
	for i, a := range board.Panels {
		for _, b := range board.Panels[:i] {
			p, q := a.GridPos, b.GridPos
			if a.ID == b.ID || p.X < q.X+q.W && q.X < p.X+p.W && p.Y < q.Y+q.H && q.Y < p.Y+p.H {
				t.Errorf("panels %d and %d are in one place, or have one id", a.ID, b.ID)
			}
		}
	}
}
