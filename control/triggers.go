package control

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/control/trigger/incoming"
)

// KindRun is the kind of the records of pipelines that were started, or were not to start. Their
// names are those of trigger.ID, their status is a trigger.Run.
const KindRun = "Run"

// TriggerStatus is what the control plane knows of a trigger, beside its runs.
type TriggerStatus struct {
	Stopped *Stopped `json:"stopped,omitempty"` // by a command; nil: it was not
	// Halted says why nothing but a person starts it; empty when that is not so.
	Halted    string        `json:"halted,omitempty"`
	Schedule  string        `json:"schedule,omitempty"` // that Scheduled is of
	Scheduled time.Time     `json:"scheduled,omitzero"` // the last of its times that is over
	Rows      int           `json:"rows,omitempty"`     // of data, since it was last enough
	Enough    int           `json:"enough,omitempty"`   // how often it was
	Seen      incoming.Seen `json:"seen,omitzero"`      // pushes that were delivered
}

// Stopped says who has stopped a trigger.
type Stopped struct {
	By string    `json:"by"`
	At time.Time `json:"at"`
}

// item of the view.
type triggerItem = item[config.Trigger, TriggerStatus]

// occasion is something that happened, which triggers may wait for.
type occasion struct {
	on     string            // alarm, rollout, alert; else it is for one trigger alone
	name   string            // of the monitor, the endpoint; of that trigger
	event  trigger.Event     // with an ID that is the same whenever it is told of
	labels map[string]string // of an alert
}

// Occasions that are for a trigger alone have other words than these.
const (
	onAlarm   = "alarm"
	onRollout = "rollout"
	onAlert   = "alert"
)

// What the IDs of events begin with, before the name of the alarm or of the rollout.
const (
	EventAlarm   = "alarm/"
	EventRollout = "rollout/"
)

// concerns says whether a trigger waits for an occasion.
func (o *occasion) concerns(t *config.Trigger) bool {
	switch o.on {
	case onAlarm:
		return t.On.Alarm == o.name
	case onRollout:
		return t.On.Rollout == o.name
	case onAlert:
		for key, value := range t.On.Alert {
			if o.labels[key] != value {
				return false
			}
		}
		return len(t.On.Alert) > 0
	}
	return t.Name == o.name
}

// started returns the records of runs that triggers make of an occasion, to be put in the
// transaction that writes down the occasion. Callers hold mu.
func (p *Plane) started(o occasion, now time.Time) []store.Resource {
	return p.startedAll([]occasion{o}, now)
}

// startedAll is started for several occasions, each of which knows what the others have started.
func (p *Plane) startedAll(occasions []occasion, now time.Time) []store.Resource {
	histories := make(map[string][]trigger.Run)
	made := make(map[string]store.Resource)
	for i := range occasions {
		o := &occasions[i]
		for name, t := range p.view.triggers {
			if !o.concerns(&t.spec) {
				continue
			}
			if _, there := histories[name]; !there {
				histories[name] = p.history(name)
			}
			run, fresh := trigger.Decide(histories[name], p.about(t, o.event), p.specOf(t), now)
			if fresh {
				histories[name] = append(histories[name], run)
				made[run.ID] = p.runRecord(run)
			}
		}
	}
	var records []store.Resource
	for _, id := range slices.Sorted(maps.Keys(made)) {
		records = append(records, made[id])
	}
	return records
}

// runRecord is a run as it is stored.
func (p *Plane) runRecord(run trigger.Run) store.Resource {
	return store.Resource{Key: store.Key{Kind: KindRun, Name: run.ID}, Owner: OwnerAPI,
		Status: encode(run)}
}

// history returns the runs of a trigger, as far as they are on record.
func (p *Plane) history(name string) []trigger.Run {
	var runs []trigger.Run
	for id, it := range p.view.starts {
		if it.status.Trigger == name {
			runs = append(runs, p.current(id))
		}
	}
	return runs
}

// histories returns the runs of all triggers, by trigger.
func (p *Plane) histories() map[string][]trigger.Run {
	all := make(map[string][]trigger.Run)
	for id, it := range p.view.starts {
		all[it.status.Trigger] = append(all[it.status.Trigger], p.current(id))
	}
	return all
}

// startsOf lists the records of a trigger's runs.
func (v *view) startsOf(name string) []store.Key {
	var keys []store.Key
	for id, it := range v.starts {
		if it.status.Trigger == name {
			keys = append(keys, store.Key{Kind: KindRun, Name: id})
		}
	}
	return keys
}

// specOf says how a trigger starts runs now.
func (p *Plane) specOf(t *triggerItem) trigger.Spec {
	s := t.spec.Spec()
	s.Guarantee = p.pipelineOf(t.Name).guarantee
	s.Stopped = s.Stopped || t.status.Stopped != nil
	return s
}

// about fills in what an event does not say.
func (p *Plane) about(t *triggerItem, e trigger.Event) trigger.Event {
	if e.Context.Endpoint == "" {
		known := p.contextOf(p.endpointOf(t))
		known.Evidence, known.Extra = e.Context.Evidence, e.Context.Extra
		e.Context = known
	}
	if len(t.spec.Parameters) > 0 {
		extra := maps.Clone(t.spec.Parameters)
		maps.Copy(extra, e.Context.Extra)
		e.Context.Extra = extra
	}
	return e
}

// endpointOf names the endpoint that a trigger is about, empty for none.
func (p *Plane) endpointOf(t *triggerItem) string {
	if m := p.view.monitors[t.spec.On.Alarm]; m != nil {
		return m.spec.Endpoint
	}
	if names := t.spec.Endpoints(); len(names) > 0 {
		return names[0]
	}
	return ""
}

// contextOf is what a pipeline gets to know of an endpoint.
func (p *Plane) contextOf(endpoint string) trigger.Context {
	e := p.view.endpoints[endpoint]
	if e == nil {
		return trigger.Context{Endpoint: endpoint}
	}
	c := trigger.Context{Endpoint: endpoint, Model: modelOf(&e.spec), Version: p.view.stable(e),
		Samples: p.samplesOf(endpoint)}
	if c.Version == "" && e.spec.Stable == "" {
		c.Version = p.serving(c.Model, "")
	}
	return c
}

// rolledBack is the occasion of a rollout that did not succeed.
func (p *Plane) rolledBack(e *endpoint, s *rollout.State) occasion {
	evidence, _ := json.Marshal(map[string]string{"rollout": s.ID, "verdict": string(s.Verdict),
		"guard": s.Guard, "reason": cut(s.Reason, 1000)}) // of texts
	about := p.contextOf(e.Name)
	about.Version, about.Evidence = s.Canary.Version, string(evidence)
	return occasion{on: onRollout, name: e.Name, event: trigger.Event{
		ID:     EventRollout + s.ID + "/" + s.Began.UTC().Format(time.RFC3339Nano),
		Reason: s.Sentence(), Context: about}}
}

// Commands for triggers and their runs.
const (
	TriggerStart  = "start"  // a run, which a person answers for
	TriggerStop   = "stop"   // nothing starts until it is resumed
	TriggerResume = "resume" // after a stop
	RunCancel     = "cancel" // here and elsewhere
	RunRetry      = "retry"  // one that has failed, was lost or cancelled
)

// Start is what a person wants of a start.
type Start struct {
	// ID makes starts that are told of twice one; empty makes each another.
	ID         string            `json:"id,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	By         store.Author      `json:"-"`
}

// Trigger does what a person says to a trigger, and returns a sentence that says where that leaves
// it.
func (p *Plane) Trigger(ctx context.Context, name, command string, s Start) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ensure(ctx); err != nil {
		return "", err
	}
	t := p.view.triggers[name]
	if t == nil {
		return "", fmt.Errorf("%w: trigger %q", store.ErrNotFound, name)
	}
	switch command {
	case TriggerStart:
		return p.startByHand(ctx, t, s)
	case TriggerStop:
		return p.stopTrigger(ctx, t, s.By)
	case TriggerResume:
		return p.resumeTrigger(ctx, t, s.By)
	}
	return "", fmt.Errorf("%w: a trigger knows no %q", store.ErrNotFound, command)
}

// startByHand makes a run that a person wants. Where none may start, that is an error.
func (p *Plane) startByHand(ctx context.Context, t *triggerItem, s Start) (string, error) {
	if s.ID == "" {
		s.ID = rand.Text()
	}
	now := time.Now()
	event := p.about(t, trigger.Event{ID: "manual/" + s.ID, Reason: s.By.Who + " started it",
		By: s.By.Who, Context: trigger.Context{Extra: s.Parameters}})
	run, fresh := trigger.Decide(p.history(t.Name), event, p.specOf(t), now)
	switch {
	case !fresh:
		return fmt.Sprintf("run %s of %s has started before; it is %s", run.ID, t.Name,
			run.State), nil
	case run.State == trigger.Suppressed:
		return "", fmt.Errorf("%w: %s does not start: %s", ErrNotNow, t.Name, run.Error)
	}
	txn := store.Txn{By: s.By, Put: []store.Resource{p.runRecord(run)}}
	if err := p.commit(ctx, txn); err != nil {
		return "", err
	}
	return fmt.Sprintf("run %s of %s begins", run.ID, t.Name), nil
}

func (p *Plane) stopTrigger(
	ctx context.Context, t *triggerItem, by store.Author,
) (string, error) {
	if s := t.status.Stopped; s != nil {
		return fmt.Sprintf("%s was stopped by %s at %s", t.Name, s.By,
			s.At.Format(time.RFC3339)), nil
	}
	status := t.status
	status.Stopped = &Stopped{By: by.Who, At: time.Now()}
	if err := p.keepTrigger(ctx, t, status, by); err != nil {
		return "", err
	}
	p.log.Warn("a trigger is stopped", "trigger", t.Name, "by", by.Who)
	active := 0
	for _, run := range p.history(t.Name) {
		if !run.State.Done() {
			active++
		}
	}
	return fmt.Sprintf("%s starts nothing until it is resumed; %d of its runs go on", t.Name,
		active), nil
}

func (p *Plane) resumeTrigger(
	ctx context.Context, t *triggerItem, by store.Author,
) (string, error) {
	status := t.status
	status.Stopped = nil
	if t.status.Stopped != nil {
		if err := p.keepTrigger(ctx, t, status, by); err != nil {
			return "", err
		}
		p.log.Info("a trigger is resumed", "trigger", t.Name, "by", by.Who)
	}
	if t.spec.Stopped {
		return t.Name + " is stopped still: its settings say so (stopped)", nil
	}
	if status.Halted != "" {
		return t.Name + " is not stopped, but waits for a person: " + status.Halted, nil
	}
	return t.Name + " starts again when something happens", nil
}

// keepTrigger stores the status of a trigger.
func (p *Plane) keepTrigger(
	ctx context.Context, t *triggerItem, status TriggerStatus, by store.Author,
) error {
	return p.commit(ctx, store.Txn{By: by, Put: []store.Resource{t.with(status)}})
}

// Run does what a person says to a run, and returns a sentence that says where that leaves it.
func (p *Plane) Run(ctx context.Context, id, command string, by store.Author) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ensure(ctx); err != nil {
		return "", err
	}
	it := p.view.starts[id]
	if it == nil || p.view.triggers[it.status.Trigger] == nil {
		return "", fmt.Errorf("%w: run %q", store.ErrNotFound, id)
	}
	run, now := p.current(id), time.Now()
	var err error
	switch t := p.view.triggers[run.Trigger]; command {
	case RunCancel:
		run, err = run.Cancel(by.Who, now)
	case RunRetry:
		run, err = run.Retry(p.history(run.Trigger), p.specOf(t), by.Who, now)
	default:
		err = fmt.Errorf("%w: a run knows no %q", store.ErrNotFound, command)
	}
	if err == nil {
		err = p.commit(ctx, store.Txn{By: by, Put: []store.Resource{p.runRecord(run)}})
	}
	switch {
	case err != nil:
		return "", err
	case command == RunRetry:
		return fmt.Sprintf("attempt %d of run %s begins", run.Attempts, id), nil
	case run.State.Done():
		return fmt.Sprintf("run %s is %s; it had not started", id, run.State), nil
	}
	return fmt.Sprintf("run %s is to be cancelled, and ends once its pipeline has ended it", id),
		nil
}
