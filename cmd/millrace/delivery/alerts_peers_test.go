//go:build peers

package delivery_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/gateway/clients/peer"
)

var (
	alertmanagerProgram = peer.Program{Module: "github.com/prometheus/alertmanager@v0.34.2",
		Package: "github.com/prometheus/alertmanager/cmd/alertmanager",
		Page:    "ui/app/dist/index.html"}
	prometheusProgram = peer.Program{Module: "github.com/prometheus/prometheus@v0.316.0",
		Package: "github.com/prometheus/prometheus/cmd/prometheus", Tags: "remove_all_sd"}
)

const alertToken = "a token of webhooks"

// It sends the same alert again and again, to see that it starts something once.
const alertmanagerSettings = `
route: {receiver: millrace, group_by: [alertname, monitor], group_wait: 100ms, group_interval: 1s,
  repeat_interval: 2s}
receivers:
  - name: millrace
    webhook_configs:
      - url: %s/api/v1/hooks/alertmanager
        send_resolved: true
        http_config: {authorization: {credentials: %s}}
`

// Its web settings where millrace itself tells it: who may, and the bcrypt hash of alertPassword.
const alertmanagerWeb = `
basic_auth_users: {millrace: %s}
`

const (
	alertPassword = "a password of alerts"
	alertHash     = "$2a$04$FD.xF5R6QsQ00nvKPKCXQOWKpcK0zh58pJp46yBlQdefUA7WWeBGe"
)

const prometheusSettings = `
global: {scrape_interval: 500ms, evaluation_interval: 500ms}
rule_files: [%s]
alerting: {alertmanagers: [{static_configs: [{targets: [%s]}]}]}
scrape_configs:
  - {job_name: millrace, static_configs: [{targets: [%s]}]}
`

// The monitor learns what is normal of the first rows.
const alertedSettings = `
server: {http: '127.0.0.1:0', grpc: '', admin: '127.0.0.1:0',
  pipelines: {alert_token_env: ALERT_TOKEN}}
repository: {paths: [%q], mode: explicit, load: [iris]}
endpoints:
  - name: iris
monitors:
  - {name: iris, endpoint: iris, reference: {learn: 3000}, tick: 200ms, false_alarm_every: 1h%s}
triggers:
  - name: retrain
    on: {alert: {alertname: MillraceDrift, monitor: iris}}
    command: {argv: [/bin/sh, -c, 'echo "$MILLRACE_RUN of $MILLRACE_ENDPOINT" >> %s']}
    poll: 200ms
    cooldown: 0s
`

// alerted is a millrace whose alarms reach a real Alertmanager, one way or another, which sends
// them back to a trigger.
type alerted struct {
	*server
	t     *testing.T
	dir   string
	hooks *relay
	peer  string // URL of Alertmanager
	auth  http.Header
	runs  string // file with a line for each run
}

// newAlerted starts both. Millrace itself tells Alertmanager of alarms if it is told to, with a
// password, as a cluster of which the other member is away.
func newAlerted(t *testing.T, tells bool) *alerted {
	t.Helper()
	a := &alerted{t: t, dir: t.TempDir(), hooks: newRelay(t)}
	a.runs = filepath.Join(a.dir, "runs")
	file := writeFile(t, "alertmanager.yml", alertmanagerSettings, a.hooks.URL, alertToken)
	args := []string{"--config.file=" + file, "--web.listen-address=127.0.0.1:0",
		"--cluster.listen-address="}
	if tells {
		args = append(args, "--web.config.file="+
			writeFile(t, "web.yml", alertmanagerWeb, alertHash))
		as := http.Request{Header: make(http.Header)}
		as.SetBasicAuth("millrace", alertPassword)
		a.auth = as.Header
	}
	a.peer = startPeer(t, alertmanagerProgram.Build(t), args...)
	models, err := filepath.Abs("../../../configs/models")
	if err != nil {
		t.Fatal(err)
	}
	more := ""
	if tells {
		more = fmt.Sprintf(`,
     alertmanager: {urls: ["http://127.0.0.1:1", %q],
       access: {username: millrace, password_file: %q}}`, a.peer,
			writeFile(t, "password", alertPassword))
	}
	text := fmt.Sprintf(alertedSettings, models, more, a.runs)
	if err := os.WriteFile(filepath.Join(a.dir, "millrace.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	a.launch()
	return a
}

// writeFile writes a file of settings and returns its path.
func writeFile(t *testing.T, name, format string, args ...any) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(file, fmt.Appendf(nil, format, args...), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

// launch starts millrace, perhaps again.
func (a *alerted) launch() {
	a.t.Helper()
	a.server = launch(a.t, a.dir, "ALERT_TOKEN="+alertToken)
	a.hooks.lead(a.server)
}

// drift sends rows as ever, and then others until the monitor raises its alarm.
func (a *alerted) drift() {
	a.t.Helper()
	rng := rand.New(rand.NewPCG(6, 6))
	until(a.t, "the monitor learns", peerTime, func() bool {
		return a.monitor().State == monitor.StateLearning
	})
	f := func(longer float32, want monitor.State) {
		a.t.Helper()
		l := a.load("iris", requests(flowers(rng, 3000, longer)))
		l.start(1)
		defer l.end()
		until(a.t, "the monitor's state is "+string(want), peerTime, func() bool {
			return a.monitor().State == want
		})
	}
	f(0, monitor.StateOK)
	f(2, monitor.StateAlarm)
}

// peerAlert is an alert that Alertmanager lists.
type peerAlert struct {
	Labels, Annotations map[string]string
	Receivers           []struct{ Name string }
}

// listed waits until Alertmanager lists so many alerts, and returns them.
func (a *alerted) listed(n int) (list []peerAlert) {
	a.t.Helper()
	until(a.t, fmt.Sprintf("Alertmanager lists %d alerts", n), peerTime, func() bool {
		list = nil
		call{url: a.peer + "/api/v2/alerts?active=true", header: a.auth}.read(a.t, &list)
		return len(list) == n
	})
	return list
}

// told waits until Alertmanager has told millrace, in more than some webhooks, of alerts of a
// status.
func (a *alerted) told(status string, some int) webhook {
	a.t.Helper()
	var last webhook
	until(a.t, "Alertmanager tells of alerts that are "+status, peerTime, func() bool {
		n := 0
		for _, h := range a.hooks.all() {
			var message struct{ Status string }
			if err := json.Unmarshal(h.body, &message); err != nil || h.status != http.StatusOK {
				a.t.Fatalf("the webhook %s is answered with %d %s", h.body, h.status, h.answer)
			}
			if message.Status == status {
				n, last = n+1, h
			}
		}
		return n > some
	})
	return last
}

// ranOnce wants the trigger to have started its command once, for the endpoint.
func (a *alerted) ranOnce() {
	a.t.Helper()
	until(a.t, "the run has succeeded", peerTime, func() bool {
		return contains(a.must("trigger", "runs", "retrain"), "succeeded")
	})
	text, err := os.ReadFile(a.runs)
	listed := strings.Count(a.must("trigger", "runs", "retrain"), "millrace-retrain-")
	if err != nil || strings.Count(string(text), "\n") != 1 || listed != 1 ||
		!strings.HasSuffix(string(text), " of iris\n") {
		a.t.Errorf("%d runs are listed; the command has written %q, %v", listed, text, err)
	}
}

// TestRealAlertmanager has a monitor tell a real Alertmanager, which wants a password, of its
// alarm. It tells a trigger, over and over, also after a kill of millrace: one run. Then the alarm
// ends there, too.
func TestRealAlertmanager(t *testing.T) {
	t.Parallel()
	a := newAlerted(t, true)
	a.drift()
	alert := a.listed(1)[0]
	for key, want := range map[string]string{"alertname": "MillraceDrift", "monitor": "iris",
		"endpoint": "iris", "model": "iris", "version": "1", "alarm": "iris/1",
		"severity": "warning"} {
		if alert.Labels[key] != want {
			t.Errorf("the label %s is %q, want %q", key, alert.Labels[key], want)
		}
	}
	if !contains(alert.Annotations["summary"], "iris", "petal length") ||
		!contains(alert.Annotations["description"], "millrace describe monitor iris") {
		t.Errorf("the annotations are %q", alert.Annotations)
	}
	first := a.told("firing", 0)
	a.ranOnce()

	a.hooks.lead(nil)
	a.Kill()
	seen := len(a.hooks.all())
	a.launch()
	a.told("firing", seen+1)
	if err := a.hooks.again(&first); err != nil || !contains(first.answer, "nothing new") {
		t.Errorf("the first webhook, once more, is answered with %d %s, %v", first.status,
			first.answer, err)
	}
	first.header = http.Header{"Authorization": {"Bearer guessed"}}
	if err := a.hooks.again(&first); err != nil || first.status != http.StatusUnauthorized {
		t.Errorf("a wrong token is answered with %d %s, %v", first.status, first.answer, err)
	}

	a.must("monitor", "resolve", "iris")
	a.told("resolved", 0)
	a.listed(0)
	a.ranOnce()
}

// TestRealPrometheus has a real Prometheus watch millrace by the rules that come with it: an alarm
// fires, comes to Alertmanager, and from there to a trigger, once.
func TestRealPrometheus(t *testing.T) {
	t.Parallel()
	a := newAlerted(t, false)
	rules, err := filepath.Abs("../../../configs/prometheus/millrace.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	p := prometheus{t, startPeer(t, prometheusProgram.Build(t), "--config.file="+
		writeFile(t, "prometheus.yml", prometheusSettings, rules,
			strings.TrimPrefix(a.peer, "http://"), a.Addresses["admin"]),
		"--web.listen-address=127.0.0.1:0", "--scrape.discovery-reload-interval=100ms")}
	p.rulesWork(rules)
	p.dashboardWorks()
	if list := p.firing(); len(list) != 0 {
		t.Errorf("before any drift these fire: %v", list)
	}
	a.drift()
	until(t, "the drift fires", peerTime, func() bool { return len(p.firing()) > 0 })
	list := p.firing()
	if len(list) != 1 || list[0].Labels["alertname"] != "MillraceDrift" ||
		list[0].Labels["endpoint"] != "iris" || list[0].Labels["severity"] != "warning" ||
		list[0].Annotations["summary"] != "Drift at endpoint iris" {
		t.Errorf("these fire: %v", list)
	}
	if alert := a.listed(1)[0]; alert.Labels["monitor"] != "iris" ||
		!contains(alert.Annotations["description"], "millrace describe monitor iris") {
		t.Errorf("Alertmanager lists %+v", alert)
	}
	a.told("firing", 2)
	a.ranOnce()
	a.must("monitor", "resolve", "iris")
	until(t, "nothing fires", peerTime, func() bool { return len(p.firing()) == 0 })
	a.told("resolved", 0)
	a.ranOnce()
}

// prometheus is a real one.
type prometheus struct {
	t   *testing.T
	url string
}

// query asks its API.
func (p prometheus) query(path string, out any) {
	p.t.Helper()
	answer := struct {
		Status string
		Data   any
	}{Data: out}
	call{url: p.url + "/api/v1/" + path}.read(p.t, &answer)
	if answer.Status != "success" {
		p.t.Fatalf("%s: %+v", path, answer)
	}
}

// firing lists the alerts that fire.
func (p prometheus) firing() (list []peerAlert) {
	p.t.Helper()
	var data struct {
		Alerts []struct {
			peerAlert
			State string
		}
	}
	p.query("alerts", &data)
	for _, one := range data.Alerts {
		if one.State == "firing" {
			list = append(list, one.peerAlert)
		}
	}
	return list
}

// rulesWork waits until all rules of a file have been evaluated, without a fault.
func (p prometheus) rulesWork(file string) {
	p.t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		p.t.Fatal(err)
	}
	want := strings.Count(string(text), "- alert: ")
	until(p.t, fmt.Sprintf("%d rules are evaluated", want), peerTime, func() bool {
		var data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
		p.query("rules", &data)
		n := 0
		for _, g := range data.Groups {
			for _, r := range g.Rules {
				if r.LastError != "" {
					p.t.Fatalf("the rule %s: %s", r.Name, r.LastError)
				}
				if r.Health == "ok" {
					n++
				}
			}
		}
		return n == want && want > 0
	})
	until(p.t, "millrace is scraped", peerTime, func() bool {
		var data struct{ Result []json.RawMessage }
		p.query("query?query="+url.QueryEscape(`up{job="millrace"} == 1`), &data)
		return len(data.Result) == 1
	})
}

var variable = regexp.MustCompile(`\$\w+|\$\{\w+\}`)

// dashboardWorks has all expressions of the dashboard evaluated, without a fault.
func (p prometheus) dashboardWorks() {
	p.t.Helper()
	text, err := os.ReadFile("../../../configs/grafana/millrace.json")
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err == nil {
		err = json.Unmarshal(text, &board)
	}
	if err != nil {
		p.t.Fatal(err)
	}
	n := 0
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			expr := strings.ReplaceAll(target.Expr, "$__rate_interval", "1m")
			expr = strings.ReplaceAll(expr, "$__range", "1h")
			var data json.RawMessage
			p.query("query?query="+url.QueryEscape(variable.ReplaceAllString(expr, ".*")), &data)
			n++
		}
	}
	if n < 5 {
		p.t.Errorf("the dashboard has %d expressions", n)
	}
}
