package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift/performance"
)

// People see the evidence of each kind that a monitor looks at, and what it is of.
func TestDescribeMonitor(t *testing.T) {
	drift := monitor.Strand{Kind: monitor.KindDrift, Evidence: 0.5}
	segment := monitor.Strand{Kind: monitor.KindSegment, Evidence: 200}
	estimate := &monitor.Estimate{Gap: -0.2, Noise: 0.1,
		Estimate: performance.Estimate{Rows: 1000, Accuracy: 0.9, Low: 0.88, High: 0.92}}
	reading := monitor.Reading{Strand: segment, Strands: []monitor.Strand{drift, segment},
		Performance: &monitor.Performance{Known: 12, Unknown: 3, Learned: 12, Learn: 1000,
			Estimate: estimate},
		Outliers: &monitor.Outliers{Strand: drift, Rows: 1000, Above: 9, Recent: 0.011,
			Expected: 0.01, Limit: 0.02, Examples: []monitor.Example{{"amount=9000", "age=\x1b7"}}},
		Segments: &monitor.Segments{Strand: segment, Column: "country", List: []monitor.Segment{
			{Value: "fr", Evidence: 200, Named: true, Features: []string{"amount"}},
			{Evidence: 1}}}}
	f := func(describe func() error, text *strings.Builder, parts ...string) {
		t.Helper()
		if err := describe(); err != nil {
			t.Fatal(err)
		}
		for _, part := range parts {
			if !strings.Contains(text.String(), part) {
				t.Errorf("there is no %q in\n%s", part, text)
			}
		}
		if strings.Contains(text.String(), "\x1b") {
			t.Error("what clients have sent controls the terminal")
		}
	}
	both := []string{"12 known, 3 unknown; 12 of 1000 for the reference",
		"9 rows of 1000", "amount=9000", "country=fr", "evidence 200, it has drifted: amount",
		"another country"}
	var text strings.Builder
	status, err := json.Marshal(control.MonitorStatus{Status: monitor.Status{
		State: monitor.StateOK, Threshold: 100, Last: reading}})
	if err != nil {
		t.Fatal(err)
	}
	f(func() error { return describeMonitor(&text, status) }, &text, append(both,
		"drift 0.5, segment 200", "0.88 to 0.92; do not trust it: by labels it is off by -0.2")...)
	text.Reset()
	status, err = json.Marshal(control.MonitorStatus{Status: monitor.Status{
		State: monitor.StateOK, Threshold: 100, Last: reading, Replicas: []monitor.Replica{
			{ID: "millrace-1-\x1b", Rows: 700}}}})
	if err != nil {
		t.Fatal(err)
	}
	f(func() error { return describeMonitor(&text, status) }, &text, "REPLICA", "millrace-1-",
		"700")
	text.Reset()
	alarm, err := json.Marshal(monitor.Alarm{Kind: monitor.KindSegment, Reading: reading})
	if err != nil {
		t.Fatal(err)
	}
	f(func() error { return describeAlarm(&text, alarm) }, &text, append(both, "segment")...)
}
