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
    alertmanager:
      urls: ["http://127.0.0.1:9093", "https://am.example/b/"]
      access: {username: millrace, password_file: secret, ca_file: /ca.pem}
    notify: [{kind: webhook, url_env: HOOK, secret_env: HOOK_SECRET}]
    performance: {output: probabilities.class, reference_error: 0}
    outliers: 0.01
    outlier_score: true
    segment: country
  - {name: plain, endpoint: fraud, reference: {learn: 10000}}
  - {name: part, endpoint: fraud, reference: {file: a.csv}, judge: "http://millrace-0:8002"}
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
	c.resolve("/etc/millrace")
	if all := m.Alertmanager.Members(); len(all) != 2 || all[1].Origin != "https://am.example/b/" ||
		all[1].Allow[0] != "am.example" || all[0].Allow[0] != "127.0.0.1" ||
		all[0].PasswordFile != "/etc/millrace/secret" || all[0].CAFile != "/ca.pem" {
		t.Errorf("they are asked as %+v", all)
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
		m.Outliers != 0.01 || !m.OutlierScore || m.Segment != "country" ||
		m.Alertmanager.Access.Username != "millrace" || m.Notify[0].SecretEnv != "HOOK_SECRET" ||
		m.WithDefaults().Performance.ReferenceRows != 1000 {
		t.Errorf("the resource is %+v", m)
	}
	if !again.Remove(KindMonitor, "plain") || len(again.Monitors) != 2 {
		t.Error("it is not removed")
	}
}

// learn is a reference that needs no file.
const learn = "reference: {learn: 1000}"

// faulty wants the keys of a monitor to have one fault.
func faulty(t *testing.T, monitor, want string) {
	t.Helper()
	_, err := Parse("f.yaml",
		[]byte("endpoints: [{name: e}]\nmonitors:\n  - {name: m, endpoint: e, "+monitor+"}\n"))
	if err == nil || strings.Contains(err.Error(), "\n") ||
		!strings.Contains(err.Error(), want) {
		t.Errorf("%s: %v, want %s", monitor, err, want)
	}
}

func TestMonitorFaults(t *testing.T) {
	f := func(monitor, want string) {
		t.Helper()
		faulty(t, monitor, want)
	}
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
	f(learn+", outlier_score: true", "monitors[0].outlier_score: needs outliers")
	f(learn+", performance: {scale: 1}", "name the output")
	const labels = "performance: {output: a, label: b"
	f("reference: {file: a.csv}, performance: {label: b}", "monitors[0].performance.label: is what")
	f("reference: {file: a.csv}, performance: {output: b, label: b}", "another column")
	f("reference: {file: a.csv}, "+labels+", reference_error: 0.1}", "give one of them")
	f("reference: {artifact: a.json}, "+labels+"}", "is settled in a profile")
	f(learn+", "+labels+"}", "live rows that are learned have none")
	f(learn+", performance: {probabilities: p}", "are of classes")
	f(learn+", performance: {reference_rows: 100}", "must be 200 at least")
	f(learn+", performance: {reference_error: 0.99}", "0.95 at most")
	f(learn+", performance: {reference_error: -0.1}", "must be 0 to 1")
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
	const score = learn + ", outliers: 0.01, outlier_score: true"
	text("endpoints: [{name: e}]\nmonitors: [{name: a, endpoint: e, "+score+"}, {name: b, "+
		"endpoint: e, "+score+"}]", "monitors[1].outlier_score: is true, as it is of monitors[0]")
	text("taps: [{name: monitors, files: {path: x, format: jsonl}}]", "monitors' own tap")
}

func TestAlertmanagerFaults(t *testing.T) {
	f := func(monitor, want string) {
		t.Helper()
		faulty(t, monitor, want)
	}
	f(learn+", alertmanager: {url: 'ftp://x'}", "alertmanager.url: is \"ftp://x\", must be a URL")
	f(learn+", alertmanager: {}", "monitors[0].alertmanager: must have one of url and urls")
	f(learn+", alertmanager: {url: 'http://x', urls: ['http://y']}", "must have one of")
	f(learn+", alertmanager: {urls: ['http://y', 'http://']}", `urls[1]: is "http://", must be`)
	f(learn+", alertmanager: {urls: ['http://y', 'http://y']}", "urls[1]: is \"http://y\", which")
	f(learn+", alertmanager: {url: 'http://a:hunter2@x'}", "url: has a user name or a password;")
	f(learn+", alertmanager: {url: 'http://x', access: {username: a}}", "password_file")
	f(learn+", notify: [{kind: slack, url_env: A, secret_env: B}]",
		"monitors[0].notify[0].secret_env: is for the kind webhook; slack")
	f(learn+", notify: [{kind: pager, url_env: A}]", "must be one of slack, teams, webhook")
	f(learn+", judge: 'http://a:8002'", "monitors[0].reference.learn: does not go with judge")
	const file = "reference: {file: a.csv}"
	f(file+", judge: 'a:8002'", "must be the URL of an admin port")
	f(file+", judge: 'http://me:secret@a'", "must be the URL of an admin port")
	f(file+", judge: 'http://a', alertmanager: {url: 'http://x'}",
		"monitors[0].alertmanager: does not go with judge")
	f(file+", judge: 'http://a', notify: [{kind: slack, url_env: A}]",
		"monitors[0].notify: does not go with judge")
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
