package control

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/incoming"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// tendInterval is how often triggers are looked at: schedules have minutes.
const tendInterval = time.Second

// tendTriggers starts what is due, and tidies records up. Callers hold mu.
func (p *Plane) tendTriggers(now time.Time) {
	if since := now.Sub(p.tended); since >= 0 && since < tendInterval {
		return
	}
	p.tended = now
	if len(p.view.triggers) == 0 {
		return
	}
	histories := p.histories()
	for _, t := range sorted(p.view.triggers) {
		err := p.tend(t, histories[t.Name], now)
		p.complain("what a trigger is to start cannot be stored; it is tried again", err, "trigger",
			t.Name)
	}
}

// tend does for one trigger what is due.
func (p *Plane) tend(t *triggerItem, history []trigger.Run, now time.Time) error {
	status := t.status
	txn := store.Txn{By: triggerAuthor, Delete: outdatedStarts(history, now)}
	due := status.schedule(t.spec.On.Schedule, now)
	save := p.countRows(t, &status, now)
	if !due.IsZero() {
		txn.Put = p.started(scheduledAt(t.Name, due), now)
	} else if status.Enough > t.status.Enough {
		txn.Put = p.started(enoughRows(t, &status), now)
	} else if again, ok := p.decidedAnew(t, history, now); ok {
		txn.Put = append(txn.Put, again)
	}
	status.Halted = cmp.Or(p.untapped(t), t.spec.Spec().Halted(history))
	save = save || status.Halted != t.status.Halted || status.Schedule != t.status.Schedule ||
		!status.Scheduled.Equal(t.status.Scheduled)
	if save {
		txn.Put = append(txn.Put, t.with(status))
	}
	if len(txn.Put)+len(txn.Delete) == 0 {
		return nil
	}
	if err := p.commit(p.ctx, txn); err != nil {
		return err
	}
	if f := p.fresh[t.Name]; save && f != nil {
		f.keep(now)
	}
	if status.Halted != "" && t.status.Halted == "" {
		p.log.Error("a trigger waits for a person", "trigger", t.Name, "why", status.Halted)
	}
	return nil
}

// makeUp is how far back a schedule is gone through for times that have passed.
const makeUp = 48 * time.Hour

// schedule moves on to the last time of a schedule that is over, and returns it when it is new. A
// schedule that is new begins now.
func (s *TriggerStatus) schedule(text string, now time.Time) (due time.Time) {
	if s.Schedule != text || s.Scheduled.After(now) { // or the clock was put back
		s.Schedule, s.Scheduled = text, now
		if text == "" {
			s.Scheduled = time.Time{}
		}
		return due
	}
	if text == "" {
		return due
	}
	times, err := cron.ParseStandard(text)
	if err != nil {
		return due // the settings were checked
	}
	due = times.Next(s.Scheduled)
	if due.IsZero() || due.After(now) {
		return time.Time{}
	}
	for next := times.Next(later(due, now.Add(-makeUp))); !next.IsZero() && !next.After(now); {
		due, next = next, times.Next(next)
	}
	s.Scheduled = due
	return due
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// scheduledAt is the occasion of a time of a trigger's schedule.
func scheduledAt(name string, due time.Time) occasion {
	at := due.UTC().Format(time.RFC3339)
	return occasion{on: "schedule", name: name,
		event: trigger.Event{ID: onSchedule + at, Reason: "it is due at " + at}}
}

// fresh is what is known of a trigger's data ahead of its status.
type fresh struct {
	seen, kept int // of what the process has written: all, and as far as the status has it
	saved      time.Time
}

// rowsInterval is how often the rows that have come are stored while they are not enough.
const rowsInterval = time.Minute

func (f *fresh) keep(now time.Time) { f.kept, f.saved = f.seen, now }

// untapped says that a trigger waits for data of which no tap keeps files, as when the settings
// file has lost the tap since. While the settings are faulty that is not known.
func (p *Plane) untapped(t *triggerItem) string {
	on := t.spec.On.Data
	if on == nil || p.file == nil || p.samplesOf(on.Endpoint) != "" {
		return ""
	}
	return fmt.Sprintf("no tap keeps files of %s, so that its rows are not counted; add one with "+
		"files to taps in the settings file", on.Endpoint)
}

// countRows adds to a status what was written since, and says whether that is to be stored.
func (p *Plane) countRows(t *triggerItem, status *TriggerStatus, now time.Time) (save bool) {
	on := t.spec.On.Data
	if on == nil || p.cfg.Written == nil {
		return false
	}
	written := p.cfg.Written(on.Endpoint)
	f := p.fresh[t.Name]
	if f == nil || written < f.kept { // another endpoint may have fewer
		f = &fresh{kept: written, saved: now}
		p.fresh[t.Name] = f
	}
	f.seen = written
	status.Rows += f.seen - f.kept
	if status.Rows >= on.Rows {
		status.Rows, status.Enough = 0, status.Enough+1
		return true
	}
	since := now.Sub(f.saved)
	return f.seen > f.kept && (since < 0 || since >= rowsInterval)
}

// saveRows stores the rows that have come. Callers hold mu.
func (p *Plane) saveRows() {
	for name, f := range p.fresh {
		t := p.view.triggers[name]
		if t == nil || f.seen == f.kept || p.store == nil {
			continue
		}
		status := t.status
		status.Rows += f.seen - f.kept
		if err := p.keepTrigger(context.Background(), t, status, triggerAuthor); err != nil {
			p.log.Warn("rows that have come are not kept; they count no more", "trigger", name,
				"error", err)
		}
	}
}

// enoughRows is the occasion of enough data.
func enoughRows(t *triggerItem, status *TriggerStatus) occasion {
	on := t.spec.On.Data
	return occasion{on: "data", name: t.Name, event: trigger.Event{
		ID:     fmt.Sprintf("data/%s/%d", t.Created.UTC().Format(time.RFC3339Nano), status.Enough),
		Reason: fmt.Sprintf("%d new rows of %s were written", on.Rows, on.Endpoint)}}
}

// onSchedule begins the events of schedules.
const onSchedule = "schedule/"

// decidedAnew returns the record of what a trigger was not to start when it happened, and may now.
// That is the latest such event only: what comes after has come in its place. A schedule has other
// times.
func (p *Plane) decidedAnew(
	t *triggerItem, history []trigger.Run, now time.Time,
) (store.Resource, bool) {
	if t.spec.On.Schedule != "" || len(history) == 0 {
		return store.Resource{}, false
	}
	last := slices.MaxFunc(history, func(a, b trigger.Run) int { return a.Began.Compare(b.Began) })
	if last.State != trigger.Suppressed || last.Due.IsZero() || now.Before(last.Due) {
		return store.Resource{}, false
	}
	if a := p.view.alarms[strings.TrimPrefix(last.Event, EventAlarm)]; a != nil &&
		!a.status.Resolved.IsZero() {
		return store.Resource{}, false
	}
	run, fresh := trigger.Decide(history, trigger.Event{ID: last.Event, Reason: last.Reason,
		Context: last.Context}, p.specOf(t), now)
	if run.State == trigger.Suppressed && run.Error == last.Error {
		return store.Resource{}, false // a run has not ended yet
	}
	return p.runRecord(run), fresh
}

// AlertHook takes a webhook of Alertmanager, and returns a sentence that says what it starts.
func (p *Plane) AlertHook(ctx context.Context, h http.Header, body []byte) (string, error) {
	token, needed, err := p.alertToken()
	if err == nil && needed {
		err = incoming.Authentic(h, token)
	}
	if err != nil {
		return "", err
	}
	alerts, err := incoming.Alerts(body)
	if err != nil {
		return "", err
	}
	var all []occasion
	for _, a := range alerts {
		all = append(all, occasion{on: onAlert, name: a.Labels["alertname"], event: a.Event(),
			labels: a.Labels})
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ensure(ctx); err != nil {
		return "", err
	}
	records := p.startedAll(all, time.Now())
	if len(records) == 0 {
		return "nothing new waits for these alerts", nil
	}
	err = p.commit(ctx, store.Txn{By: store.Author{Who: "alertmanager", From: store.Self},
		Put: records})
	return p.begun(records), err
}

// alertToken returns the token that webhooks of Alertmanager must have, if they must.
func (p *Plane) alertToken() (token string, needed bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.file == nil {
		return "", false, fmt.Errorf("%w: the settings are faulty, and with them the token of "+
			"Alertmanager's webhooks is not known", ErrDown)
	}
	c := p.file.Server.Pipelines
	if c.AlertTokenEnv == "" && c.AlertTokenFile == "" {
		return "", false, nil
	}
	if token, err = fetch.Secret(c.AlertTokenFile, c.AlertTokenEnv); err != nil {
		err = fmt.Errorf("cannot read the token of Alertmanager's webhooks: %w", err)
	}
	return token, true, err
}

// begun says what was made of records. Callers hold mu.
func (p *Plane) begun(records []store.Resource) string {
	starts := 0
	for i := range records {
		if it := p.view.starts[records[i].Name]; it != nil &&
			it.status.State != trigger.Suppressed {
			starts++
		}
	}
	return fmt.Sprintf("%d runs begin, %d were suppressed", starts, len(records)-starts)
}

// PushHook takes a webhook of the host of a Git repository for a trigger, and returns a sentence
// that says what it starts.
func (p *Plane) PushHook(
	ctx context.Context, name string, h http.Header, body []byte,
) (string, error) {
	p.mu.Lock()
	var on *config.OnPush
	err := p.ensure(ctx)
	if t := p.view.triggers[name]; t != nil {
		on = t.spec.On.Push
	}
	p.mu.Unlock()
	if err != nil {
		return "", err
	}
	if on == nil {
		return "", fmt.Errorf("%w: no trigger %q waits for pushes; see on.push", store.ErrNotFound,
			name)
	}
	secret, err := fetch.Secret(on.SecretFile, on.SecretEnv)
	if err != nil {
		return "", fmt.Errorf("cannot read the secret of trigger %q: %w", name, err)
	}
	now := time.Now()
	push, err := incoming.ReadPush(h, body, secret, now)
	if err != nil {
		return "", err
	}
	if push == nil || push.Repository != on.Repository ||
		on.Branch != "" && push.Ref != "refs/heads/"+on.Branch {
		return "the trigger does not wait for this", nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.takePush(ctx, name, push, now)
}

// takePush stores that a push has come, and what it starts.
func (p *Plane) takePush(
	ctx context.Context, name string, push *incoming.Push, now time.Time,
) (string, error) {
	t := p.view.triggers[name]
	if t == nil || p.ctx.Err() != nil {
		return "", fmt.Errorf("%w: trigger %q has just left", store.ErrNotFound, name)
	}
	status, fresh := t.status, false
	if status.Seen, fresh = status.Seen.Add(push.Delivery, now); !fresh {
		return "this delivery has come before", nil
	}
	records := p.started(occasion{on: "push", name: name, event: push.Event()}, now)
	err := p.commit(ctx, store.Txn{By: store.Author{Who: "push", From: push.Repository},
		Put: append(slices.Clone(records), t.with(status))})
	return p.begun(records), err
}
