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
	t.Logf("used are %v", slices.Sorted(maps.Keys(used)))
}
