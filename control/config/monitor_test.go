package config

import (
	"strings"
	"testing"
	"time"
)

func TestMonitor(t *testing.T) {
	c, err := Parse("f.yaml", []byte(`
endpoints: [{name: fraud}]
monitors:
  - name: fraud
    endpoint: fraud
    reference: {artifact: drift_reference.parquet, season: hour_of_day, time_column: at}
    ignore: [label]
    false_alarm_every: 30d
    tick: 1m
    tolerance: 0
    alertmanager: {url: "http://127.0.0.1:9093"}
    performance: {output: probabilities.class, reference_error: 0}
    outliers: 0.01
    segment: country
  - {name: plain, endpoint: fraud, reference: {learn: 10000}}
`))
	if err != nil {
		t.Fatal(err)
	}
	m := c.Monitors[0].WithDefaults()
	if m.FalseAlarmEvery != 720*time.Hour || *m.Tolerance != 0 || m.RowsPerSecond != 1000 {
		t.Errorf("the monitor is %+v", m)
	}
	if e := m.EvidenceOfAlarm(); e != 4*30*24*60 {
		t.Errorf("an alarm of four kinds takes %v", e)
	}
	m = c.Monitors[1].WithDefaults()
	if m.FalseAlarmEvery != 720*time.Hour || m.Tick != time.Minute || *m.Tolerance != 0.1 {
		t.Errorf("the defaults are %+v", m)
	}
	var again Config
	for _, r := range c.Resources() {
		if err := again.Add(r); err != nil {
			t.Fatal(err)
		}
	}
	if m := again.Monitors[0]; *m.Tolerance != 0 || m.FalseAlarmEvery != 720*time.Hour ||
		m.Reference.Season != "hour_of_day" || *m.Performance.ReferenceError != 0 ||
		m.Outliers != 0.01 || m.Segment != "country" ||
		m.WithDefaults().Performance.ReferenceRows != 1000 {
		t.Errorf("the resource is %+v", m)
	}
	if !again.Remove(KindMonitor, "plain") || len(again.Monitors) != 1 {
		t.Error("it is not removed")
	}
}

func TestMonitorFaults(t *testing.T) {
	f := func(monitor, want string) {
		t.Helper()
		_, err := Parse("f.yaml",
			[]byte("endpoints: [{name: e}]\nmonitors:\n  - {name: m, endpoint: e, "+monitor+"}\n"))
		if err == nil || strings.Contains(err.Error(), "\n") ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", monitor, err, want)
		}
	}
	const learn = "reference: {learn: 1000}"
	f("reference: {}", "monitors[0].reference: has 0 of artifact, file and learn, must have one")
	f("reference: {learn: 1000, file: a.csv}", "has 2 of artifact")
	f("reference: {learn: 100}", "must be 200 rows at least")
	f("reference: {file: a.txt}", "must end in .csv, .parquet or .json")
	f("reference: {file: a.json, season: hour_of_day}", "is a profile")
	f("reference: {file: a.json}, ignore: [a]", "is a profile")
	f("reference: {learn: 1000, season: hour_of_week}", "needs data of weeks")
	f("reference: {file: a.csv, season: hour_of_day, time_column: t}, tick: 2h", "tick of 1h")
	f(learn+", tick: 1ms", "must be 100ms at least")
	f(learn+", tick: 1h, false_alarm_every: 1h", "must be 10 ticks of 1h at least")
	f(learn+", tick: 100ms, false_alarm_every: 3650d", "1e9 ticks")
	f(learn+", tolerance: 2", "must be 0 to 1")
	f(learn+", outliers: 0.5", "must be 0 to 0.1")
	f(learn+", performance: {scale: 1}", "name the output")
	f(learn+", performance: {probabilities: p}", "are of classes")
	f(learn+", performance: {reference_rows: 100}", "must be 200 at least")
	f(learn+", performance: {reference_error: 0.99}", "0.95 at most")
	f(learn+", performance: {reference_error: -0.1}", "must be 0 to 1")
	f(learn+", alertmanager: {url: 'ftp://x'}", "must be a URL")
	f(learn+", false_alarm_every: 3x", `must be a duration such as "1ms", "30s" or "7d"`)
	text := func(settings, want string) {
		t.Helper()
		_, err := Parse("f.yaml", []byte(settings))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", settings, err, want)
		}
	}
	text("monitors: [{name: m, endpoint: x, "+learn+"}]", "which no endpoint is called")
	text("monitors: [{name: 'a/b', endpoint: x, "+learn+"}]", "letters, digits")
	text("monitors: [{name: m, endpoint: x, "+learn+"}, {name: m, endpoint: x, "+learn+"}]",
		`"m" is there twice`)
	text("taps: [{name: monitors, files: {path: x, format: jsonl}}]", "monitors' own tap")
}

func TestParseDuration(t *testing.T) {
	f := func(text string, want time.Duration) {
		t.Helper()
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("%s: %v, %v, want %v", text, got, err, want)
		}
	}
	f("30d", 720*time.Hour)
	f("0.5d", 12*time.Hour)
	f("90m", 90*time.Minute)
	for _, text := range []string{"d", "1e9d", "NaNd", "30", "1d2h"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("%s: %v", text, got)
		}
	}
}
