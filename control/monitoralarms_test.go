package control

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/notify"
)

// A signed webhook and a chat are told when an alarm is raised, acknowledged and over, each with an
// id of its own that a repetition has too.
func TestAlarmNotices(t *testing.T) {
	const secret = "whsec_bm9ib2R5IGtub3dzIHRoaXMgb25l"
	hook, chat := newPeer(t), newPeer(t)
	hook.answer(503, "")
	t.Setenv("TEST_HOOK", hook.URL)
	t.Setenv("TEST_HOOK_SECRET", secret)
	t.Setenv("TEST_CHAT", chat.URL+"/T0KEN")
	b, s := watching(t, `, "notify": [
		{"kind": "webhook", "url_env": "TEST_HOOK", "secret_env": "TEST_HOOK_SECRET"},
		{"kind": "teams", "url_env": "TEST_NO_CHAT"},
		{"kind": "webhook", "url_env": "TEST_HOOK", "secret_env": "TEST_NO_SECRET"},
		{"kind": "slack", "url_env": "TEST_CHAT"}]`)
	s.ticks(5, monitor.StateAlarm)
	s.shift = 3
	s.ticks(20, monitor.StateAlarm)
	b.eventually("it is told once, without success", func() bool { return hook.count() == 1 })
	hook.answer(200, "")
	b.eventually("it is told again", func() bool { return hook.count() == 2 })
	for _, command := range []string{MonitorAcknowledge, MonitorResolve} {
		if _, err := b.Monitor(t.Context(), "watch", command, ana); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually("both are told of all", func() bool {
		return hook.count() == 4 && chat.count() == 3
	})
	var events [4]notify.Event
	for i := range events {
		events[i] = hook.event(t, i, secret)
	}
	a := events[0].Data
	if a.Alarm == nil || a.Alarm.ID != "watch/1" || a.Monitor != "watch" || a.Endpoint != "e" ||
		a.Model != "m" || a.Version != "1" || a.Kind != "drift" || a.Began.IsZero() ||
		!slices.Equal(a.Features, []string{s.name(0)}) || a.Reason != b.alarms()[0].Reason ||
		a.Sentence != "endpoint e: drift alarm watch/1: "+a.Reason || a.By+a.Resolution != "" {
		t.Errorf("told is %+v of %+v", a, a.Alarm)
	}
	if last := events[3].Data; last.By != "ana" || last.Resolution != "by ana" ||
		last.Reason != a.Reason || !last.Raised.Equal(a.Raised) ||
		last.Sentence != "endpoint e: drift alarm watch/1 is over: by ana" {
		t.Errorf("at the end is told %+v of %+v", last, last.Alarm)
	}
	id := fmt.Sprintf("alarm%%2Fwatch%%2F1%%2F%s%%2F",
		strings.ReplaceAll(a.Raised.UTC().Format("20060102T150405.000"), ".", "%2E"))
	for i, kind := range []string{notify.AlarmRaised, notify.AlarmRaised,
		notify.AlarmAcknowledged, notify.AlarmResolved} {
		want := id + strings.ReplaceAll(kind, ".", "%2E")
		if events[i].Type != kind || events[i].ID != want {
			t.Errorf("event %d is %s with id %s, want %s", i, events[i].Type, events[i].ID, want)
		}
	}
	if !strings.Contains(chat.bodies[1], "drift alarm watch/1 is acknowledged by ana") {
		t.Errorf("the chat is told %s", chat.bodies[1])
	}
	if b.log.count("TEST_NO_CHAT has no address") != 3 || b.log.count("T0KEN") != 0 ||
		b.log.count("TEST_NO_SECRET has no secret") != 3 || b.log.count(secret) != 0 {
		t.Errorf("the log is %s", b.log.text.String())
	}
	metrics := gathered(t, b.Plane)
	if metrics["millrace_notices_total TEST_HOOK sent"] != "3" ||
		metrics["millrace_notices_total TEST_CHAT dropped"] != "0" {
		t.Errorf("the metrics are %v", metrics)
	}
}

// A receiver that never answers holds up nobody; what it refuses is counted.
func TestAlarmNoticesAway(t *testing.T) {
	asked := make(chan struct{}, 1)
	away := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // or it is not seen that the client goes away
		select {
		case asked <- struct{}{}:
		default:
		}
		<-r.Context().Done()
	}))
	t.Cleanup(away.Close)
	refusing := newPeer(t)
	refusing.answer(400, "")
	t.Setenv("TEST_AWAY", away.URL)
	t.Setenv("TEST_REFUSING", refusing.URL)
	b, s := watching(t, `, "notify": [{"kind": "webhook", "url_env": "TEST_AWAY"},
		{"kind": "webhook", "url_env": "TEST_REFUSING"}]`)
	s.ticks(5, monitor.StateAlarm)
	s.shift = 3
	began := time.Now()
	s.ticks(20, monitor.StateAlarm)
	<-asked
	s.ticks(20, monitor.StateResolved)
	if _, err := b.Monitor(t.Context(), "watch", MonitorResolve, ana); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > notify.DefaultReceiver().Fetch.Timeout/2 {
		t.Errorf("the ticks took %v", took)
	}
	b.eventually("what is refused is counted", func() bool {
		return gathered(t, b.Plane)["millrace_notices_total TEST_REFUSING refused"] == "2"
	})
	if n := gathered(t, b.Plane)["millrace_notices_total TEST_AWAY sent"]; n != "0" {
		t.Errorf("%s are sent to one that never answers", n)
	}
}

// One member of a cluster is enough. What opens Alertmanager is in no status and no log.
func TestAlertmanagerCluster(t *testing.T) {
	const password = "hunter2 and more"
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(password), 0o600); err != nil {
		t.Fatal(err)
	}
	away, there := newPeer(t), newPeer(t)
	away.answer(401, "")
	b, s := watching(t, fmt.Sprintf(`, "alertmanager": {"urls": [%q, %q],
		"access": {"username": "millrace", "password_file": %q}}`, away.URL, there.URL, file))
	tell := newTeller(b.Plane)
	defer tell.close()
	s.ticks(5, monitor.StateAlarm)
	s.shift = 3
	s.ticks(20, monitor.StateAlarm)
	now := time.Now()
	tell.tellAll(t.Context(), now)
	if a := b.alarms()[0]; a.Alerted.IsZero() || a.Error != "" {
		t.Errorf("the alarm is %+v", a)
	}
	for _, p := range []*peer{away, there} {
		if name, pass, _ := p.asked[0].BasicAuth(); name != "millrace" || pass != password {
			t.Errorf("it is asked as %q with %q", name, pass)
		}
	}
	if b.log.count("takes no alerts; another one does") != 1 {
		t.Errorf("the log is %s", b.log.text.String())
	}
	there.answer(401, "")
	tell.tellAll(t.Context(), now.Add(time.Hour))
	if a := b.alarms()[0]; !strings.Contains(a.Error, "401") {
		t.Errorf("the alarm is %+v", a)
	}
	all, _, err := b.store.List(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(all)
	if err != nil || strings.Contains(string(text)+b.log.text.String(), "hunter2") {
		t.Errorf("the password is in %s, %s, %v", text, b.log.text.String(), err)
	}
}

// Metrics tell of which kinds the alarm is that is on.
func TestMonitorAlarmMetric(t *testing.T) {
	b, s := watching(t, `, "performance": {"output": "label", "reference_error": 0.1}`)
	const drift, worse = "millrace_monitor_alarm e drift watch",
		"millrace_monitor_alarm e performance watch"
	f := func(metric, want string) {
		t.Helper()
		if got := gathered(t, b.Plane)[metric]; got != want {
			t.Errorf("%s is %q, want %q", metric, got, want)
		}
	}
	f(drift, "")
	for n := 0; n < 50 && s.status().State != monitor.StateAlarm; n++ {
		s.answered("1", 30, 4)
	}
	f(worse, "1")
	f(drift, "")
	if _, err := b.Monitor(t.Context(), "watch", MonitorResolve, ana); err != nil {
		t.Fatal(err)
	}
	f(worse, "")
}
