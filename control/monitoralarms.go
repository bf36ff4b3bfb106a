package control

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/alert"
	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/experiment"
	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/control/notify"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/drift"
)

// KindAlarm is the kind of the records of alarms. Their names are MONITOR/NUMBER.
const KindAlarm = "Alarm"

// keepAlarms is how many records of alarms a monitor keeps.
const keepAlarms = 50

// alarmsOf lists the records of a monitor's alarms that make room for number next.
func (v *view) alarmsOf(name string, next int) []store.Key {
	var keys []store.Key
	for _, a := range v.alarms {
		if a.status.Monitor == name && a.status.Number <= next-keepAlarms {
			keys = append(keys, a.Key)
		}
	}
	return keys
}

// settle stores the status of a monitor and what follows from it: the record of an alarm, what
// its endpoint's people see, and the runs that triggers start. Callers hold mu.
func (p *Plane) settle(m *monitored, next MonitorStatus, by store.Author, now time.Time) error {
	was := m.status.State
	raised := next.State == monitor.StateAlarm && !was.Firing()
	if raised {
		next.Alarm = m.Name + "/" + strconv.Itoa(next.Alarms)
	}
	kept := next
	kept.Last.Series = nil // the record of an alarm has it, and what is learned
	txn := store.Txn{By: by, Put: []store.Resource{m.with(kept)}}
	event := ""
	var a monitor.Alarm
	record := p.view.alarms[next.Alarm]
	switch {
	case raised:
		a = next.Record(m.Name)
		txn.Put = append(txn.Put, store.Resource{Owner: OwnerAPI, Status: encode(a),
			Key: store.Key{Kind: KindAlarm, Name: next.Alarm}})
		txn.Put = append(txn.Put, p.started(p.alarmed(&next, m.Name), now)...)
		txn.Delete = p.view.alarmsOf(m.Name, next.Alarms)
		event = fmt.Sprintf("%s alarm %s: %s", a.Kind, next.Alarm, next.Reason)
	case was.Firing() && next.State != was && record != nil:
		a = record.status.Follow(&next.Status, by.Who)
		txn.Put = append(txn.Put, record.with(a))
		event = fmt.Sprintf("%s alarm %s is acknowledged by %s", a.Kind, next.Alarm, a.By)
		if !next.State.Firing() {
			event = fmt.Sprintf("%s alarm %s is over: %s", a.Kind, next.Alarm, a.Resolution)
		}
	}
	if e := p.view.endpoints[next.Endpoint]; e != nil && event != "" {
		status := e.status
		status.event(now, raised, event)
		txn.Put = append(txn.Put, e.with(status))
	}
	if err := p.commit(p.closing(), txn); err != nil {
		return err
	}
	if next.State != was {
		p.log.Info("monitor", "monitor", m.Name, "endpoint", next.Endpoint, "from", string(was),
			"to", string(next.State), "reason", next.Reason)
	}
	if event != "" {
		p.inform(m.spec.Notify, happened(next.Alarm, &a, event, now))
	}
	return nil
}

// happened is what is told of an alarm. Its id is of this alarm and its state alone.
func happened(name string, a *monitor.Alarm, event string, now time.Time) notify.Event {
	kind := notify.AlarmRaised
	switch {
	case !a.Resolved.IsZero():
		kind = notify.AlarmResolved
	case !a.Acknowledged.IsZero():
		kind = notify.AlarmAcknowledged
	}
	return notify.Event{ID: alarmID(name, a) + "/" + kind, Type: kind, Time: now,
		Data: notify.Data{
			Alarm: &notify.Alarm{ID: name, Monitor: a.Monitor, Version: a.Version,
				Kind: string(a.Kind), Features: drifted(&a.Reading), Began: a.Began,
				Raised: a.Raised, By: a.By, Resolution: a.Resolution},
			Endpoint: a.Endpoint, Model: a.Model, Reason: a.Reason,
			Sentence: fmt.Sprintf("endpoint %s: %s", a.Endpoint, event)}}
}

// alarmID tells an alarm from all others, also from one of a monitor that was taken away and had
// the same name.
func alarmID(name string, a *monitor.Alarm) string {
	return "alarm/" + name + "/" + a.Raised.UTC().Format("20060102T150405.000")
}

// drifted lists the features that are known to have drifted, those of the segments that have too.
func drifted(r *monitor.Reading) []string {
	names := []string{}
	add := func(name string) {
		if name != drift.Joint && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, f := range r.Features {
		if f.Named {
			add(f.Name)
		}
	}
	if r.Segments != nil {
		for _, s := range r.Segments.List {
			if s.Named {
				for _, name := range s.Features {
					add(name)
				}
			}
		}
	}
	return names
}

// closing is the context of what is stored also while the plane closes.
func (p *Plane) closing() context.Context { return context.WithoutCancel(p.ctx) }

// maxEvidence bounds the evidence that a pipeline is given, in bytes.
const maxEvidence = 8 << 10

// alarmed is the occasion of an alarm that was just raised.
func (p *Plane) alarmed(s *MonitorStatus, name string) occasion {
	about := struct {
		Alarm     string            `json:"alarm"`
		Kind      monitor.Kind      `json:"kind"`
		Evidence  float64           `json:"evidence"`
		Threshold float64           `json:"threshold"`
		Began     time.Time         `json:"began"`
		Features  []monitor.Feature `json:"features"`
	}{s.Alarm, s.Last.Kind, s.Last.Evidence, s.Threshold, s.Last.Began, s.Last.Features}
	text := encode(about)
	for len(text) > maxEvidence && len(about.Features) > 0 {
		about.Features = about.Features[:len(about.Features)-1]
		text = encode(about)
	}
	return occasion{on: "alarm", name: name, event: trigger.Event{
		ID: "alarm/" + s.Alarm, Reason: s.Reason, Context: trigger.Context{
			Endpoint: s.Endpoint, Model: s.Model, Version: s.Version, Evidence: string(text),
			Samples: p.samplesOf(s.Endpoint)}}}
}

// samplesOf is the folder of an endpoint's first tap with files, empty where it has none.
func (p *Plane) samplesOf(endpoint string) string {
	if p.file == nil {
		return ""
	}
	for i := range p.file.Taps {
		t := &p.file.Taps[i]
		if !t.Keeps(endpoint) {
			continue
		}
		if path, err := filepath.Abs(t.Files.Path); err == nil {
			return path
		}
	}
	return ""
}

// alert tells others of alarms, until the plane closes. What fails is tried again, and nothing
// waits for it.
func (p *Plane) alert() {
	t := newTeller(p)
	defer t.close()
	p.each(firstPause, func(now time.Time) { t.tellAll(p.ctx, now) })
}

// teller tells Alertmanager and MLflow of alarms. It belongs to one goroutine.
type teller struct {
	plane   *Plane
	clients map[string]*alert.Client // by their settings
	next    map[string]retry         // of alarms
}

func newTeller(p *Plane) *teller {
	return &teller{p, make(map[string]*alert.Client), make(map[string]retry)}
}

func (t *teller) close() {
	for _, c := range t.clients {
		c.Close()
	}
}

// untold is an alarm of which others are to know more, outside of the lock.
type untold struct {
	name string
	to   *config.Alertmanager // nil for none
	monitor.Alarm
}

// tellAll tells of each alarm what is not known yet, and of those that are on that they still are.
func (t *teller) tellAll(ctx context.Context, now time.Time) {
	list := t.plane.untold(now)
	next := make(map[string]retry)
	for _, a := range list {
		last := t.next[a.name]
		again := a.endsUntold(now) && last.pause == 0 // at once
		if next[a.name] = last; now.Before(last.at) && !again {
			continue
		}
		before := a.Alarm
		err := errors.Join(t.log(&a), t.tell(ctx, &a, now))
		next[a.name] = retry{0, now.Add(alert.Resend)}
		a.Error = ""
		if err != nil {
			pause := min(max(2*last.pause, firstPause), lastPause)
			next[a.name] = retry{pause, now.Add(pause)}
			a.Error = err.Error()
		}
		if a.Alerted.Equal(before.Alerted) && a.Ended.Equal(before.Ended) &&
			a.Logged == before.Logged && a.Error == before.Error {
			continue
		}
		t.plane.told(&a)
	}
	t.next = next
}

// untold lists the alarms that are on, and those whose end somebody does not know yet.
func (p *Plane) untold(now time.Time) []untold {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []untold
	for _, r := range sorted(p.view.alarms) {
		a := untold{name: r.Name, Alarm: r.status}
		if m := p.view.monitors[a.Monitor]; m != nil {
			a.to = m.spec.Alertmanager
		}
		if a.Resolved.IsZero() || a.Logged != loggedResolved || a.endsUntold(now) {
			list = append(list, a)
		}
	}
	return list
}

// endsUntold says whether Alertmanager is to learn that the alarm is over. It may know of the alarm
// also where that is not written down, but not for longer than an alert lasts.
func (a *untold) endsUntold(now time.Time) bool {
	return a.to != nil && a.Ended.IsZero() && !a.Resolved.IsZero() &&
		(!a.Alerted.IsZero() || now.Sub(a.Resolved) < alert.Lasting)
}

// told keeps how it went. What a person has said meanwhile stays.
func (p *Plane) told(a *untold) {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.view.alarms[a.name]
	if r == nil {
		return
	}
	status := r.status
	status.Alerted, status.Ended, status.Logged = a.Alerted, a.Ended, a.Logged
	if status.Error != a.Error && a.Error != "" {
		p.log.Warn("not all know of an alarm yet", "alarm", a.name, "error", a.Error)
	}
	status.Error = a.Error
	err := p.commit(p.ctx, store.Txn{By: monitorAuthor, Put: []store.Resource{r.with(status)}})
	p.complain("cannot keep who knows of an alarm; they are told again", err, "alarm", a.name)
}

// tell tells Alertmanager, if there is one.
func (t *teller) tell(ctx context.Context, a *untold, now time.Time) error {
	over := !a.Resolved.IsZero()
	if a.to == nil || over && !a.endsUntold(now) {
		return nil
	}
	c, err := t.client(a.to)
	if err != nil {
		return err
	}
	one := alertOf(a, t.plane.cfg.Admin)
	one.EndsAt = now.Add(alert.Lasting)
	if over {
		one.EndsAt = a.Resolved
	}
	if err := c.Post(ctx, one); err != nil {
		return err
	}
	if over {
		a.Ended = now
	} else if a.Alerted.IsZero() {
		a.Alerted = now
	}
	return nil
}

// client returns who tells an Alertmanager.
func (t *teller) client(to *config.Alertmanager) (*alert.Client, error) {
	key := string(encode(to))
	if c := t.clients[key]; c != nil {
		return c, nil
	}
	c, err := alert.New(to.Members(), t.plane.log)
	if err == nil {
		t.clients[key] = c
	}
	return c, err
}

// alerts are the names of alerts, and what their summaries begin with.
var alerts = map[monitor.Kind]struct{ name, summary string }{
	monitor.KindDrift:       {"MillraceDrift", "Drift"},
	monitor.KindPerformance: {"MillracePerformance", "Worse answers"},
	monitor.KindOutliers:    {"MillraceOutliers", "Unusual rows"},
	monitor.KindSegment:     {"MillraceDrift", "Drift of a segment"},
}

// alertOf is an alarm as Alertmanager knows it.
func alertOf(a *untold, admin string) alert.Alert {
	kind := alerts[a.Kind]
	one := alert.Alert{StartsAt: a.Raised,
		Labels: map[string]string{"alertname": kind.name, "severity": "warning",
			"monitor": a.Monitor, "endpoint": a.Endpoint, "model": a.Model, "version": a.Version,
			"alarm": a.name},
		Annotations: map[string]string{
			"summary": fmt.Sprintf("%s at endpoint %s: %s", kind.summary, a.Endpoint, a.Reason),
			"description": fmt.Sprintf("It began about %s. See `millrace describe monitor %s`.",
				a.Began.Format(time.RFC3339), a.Monitor)}}
	if admin != "" {
		one.GeneratorURL = "http://" + admin + "/api/v1/monitors/" + a.Monitor
	}
	return one
}

// How far the run of MLflow is that tells of an alarm.
const loggedRaised, loggedResolved = "raised", "resolved"

// log gives an alarm to the outbox of experiments, when it is raised and when it is over.
func (t *teller) log(a *untold) error {
	want := loggedRaised
	if !a.Resolved.IsZero() {
		want = loggedResolved
	}
	if a.Logged == want {
		return nil
	}
	box, under, err := t.plane.outboxFor(a.Model)
	if err != nil {
		return err
	}
	run := alarmRun(a)
	run.Experiment = under
	if err := box.Add(run); err != nil {
		return err
	}
	a.Logged = want
	return nil
}

// outboxFor returns the outbox for what is found out about a model, and the experiment it goes
// under.
func (p *Plane) outboxFor(model string) (*experiment.Outbox, string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name, under := localOutbox, "millrace"
	if f := p.followerOf(model); f != nil && f.spec.MLflow != nil {
		name, under = outboxOf(f.name), cmp.Or(f.spec.MLflow.Experiment, under)
	}
	box, err := p.openOutbox(name)
	return box, under, err
}

// alarmRun is an alarm as a run of MLflow.
func alarmRun(a *untold) experiment.Record {
	r := experiment.Record{
		ID:   alarmID(a.name, &a.Alarm),
		Name: fmt.Sprintf("%s alarm %s", a.Kind, a.name), Status: experiment.Running,
		Start: a.Raised,
		Params: map[string]string{"monitor": a.Monitor, "endpoint": a.Endpoint, "model": a.Model,
			"version": a.Version, "threshold": monitor.Short(a.Threshold),
			"kind": string(a.Kind)},
		Tags: map[string]string{"mlflow.note.content": a.Reason, "millrace.alarm": a.name,
			"millrace.model_version": fmt.Sprintf("models:/%s/%s", a.Model, a.Version)},
	}
	evidence := experiment.Series{Name: "evidence"}
	rows := experiment.Series{Name: "rows"}
	for i, p := range a.Reading.Series {
		evidence.Points = append(evidence.Points, experiment.Point{Time: p.Time, Step: int64(i),
			Value: p.Evidence})
		rows.Points = append(rows.Points, experiment.Point{Time: p.Time, Step: int64(i),
			Value: float64(p.Rows)})
	}
	r.Series = []experiment.Series{evidence, rows}
	chart := experiment.Chart{Title: r.Name, Y: "evidence", Series: r.Series[:1],
		Limits: []experiment.Limit{{Name: "alarm", Value: a.Threshold}}}
	var text strings.Builder
	for i := range a.Reading.Features {
		f := &a.Reading.Features[i]
		r.Params["feature."+strconv.Itoa(i)] = cut(f.Name, 500)
		text.WriteString(f.Text())
	}
	whole, _ := json.MarshalIndent(a.Alarm, "", "  ")
	r.Artifacts = []experiment.Artifact{{Path: "evidence.svg", Content: chart.SVG()},
		{Path: "histograms.txt", Content: []byte(text.String())},
		{Path: "alarm.json", Content: whole}}
	if !a.Resolved.IsZero() {
		r.Status, r.End = experiment.Finished, a.Resolved
		r.Tags["millrace.resolution"] = a.Resolution
	}
	return r
}
