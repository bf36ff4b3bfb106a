package control

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/experiment"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/registry/source"
)

// Pauses between attempts of an action that fails.
const (
	firstPause = time.Second
	lastPause  = time.Minute
)

// pending is an action that waits, outside of the lock.
type pending struct {
	rollout string
	index   int
	Action
	state  rollout.State
	undone string
	at     string        // the model's name at its source
	to     source.Source // nil where there is none
	fault  error         // why the source cannot be told; nil
}

// retry is when an action that has failed is tried again.
type retry struct {
	pause time.Duration
	at    time.Time
}

// act does what follows from verdicts, until the plane closes. What fails is tried again, and
// nothing waits for it.
func (p *Plane) act() {
	retries := make(map[string]retry)
	tidied := time.Now()
	p.each(firstPause, func(time.Time) {
		retries = p.actAll(retries)
		p.recordTests(time.Now())
		if time.Since(tidied) > tidyInterval || p.isUntidy() {
			p.tidy()
			tidied = time.Now()
		}
	})
}

// actAll does each action that waits and whose pause is over, and returns when to try those again
// that have failed.
func (p *Plane) actAll(retries map[string]retry) map[string]retry {
	next := make(map[string]retry)
	for _, a := range p.pending() {
		id := fmt.Sprintf("%s/%d", a.rollout, a.index)
		last := retries[id]
		if next[id] = last; time.Now().Before(last.at) {
			continue
		}
		p.step("act")
		err := p.do(p.ctx, &a)
		p.step("acted")
		if err = errors.Join(err, p.did(&a, err)); err != nil {
			pause := min(max(2*last.pause, firstPause), lastPause)
			next[id] = retry{pause, time.Now().Add(pause)}
		}
	}
	return next
}

// pending lists the actions that are not done.
func (p *Plane) pending() []pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []pending
	for _, r := range sorted(p.view.rollouts) {
		for i, a := range r.status.Actions {
			if !a.Done.IsZero() {
				continue
			}
			one := pending{rollout: r.Name, index: i, Action: a, state: r.status.State,
				undone: r.status.Undone}
			m := p.view.models[one.state.Model]
			if m != nil && m.spec.Source != "" {
				one.at = registered(&m.spec)
				if f := p.followerOf(m.Name); f != nil && f.origin != nil {
					one.to = f.origin
				} else {
					one.fault = fmt.Errorf("source %q is not open", m.spec.Source)
				}
			}
			list = append(list, one)
		}
	}
	return list
}

// superseded returns the records of other rollouts of a model whose alias is not to move any more,
// since one of the actions moves it later.
func (v *view) superseded(
	by, name string, actions []Action, now time.Time,
) []store.Resource {
	var changed []store.Resource
	for _, r := range sorted(v.rollouts) {
		if r.Name == by || r.status.State.Model != name {
			continue
		}
		status := r.status
		for i, a := range status.Actions {
			if a.Done.IsZero() && slices.ContainsFunc(actions, func(b Action) bool {
				return b.Kind == ActionAlias && a.Kind == ActionAlias && b.Alias == a.Alias
			}) {
				status.Actions = slices.Clone(status.Actions)
				status.Actions[i].Done, status.Actions[i].Error = now, supersededBy(by)
				changed = append(changed, r.with(status))
				break
			}
		}
	}
	return changed
}

func supersededBy(what string) string { return "not done: " + what + " has moved the alias since" }

// do carries an action out. Where there is nobody to tell, there is nothing to do.
func (p *Plane) do(ctx context.Context, a *pending) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if a.Kind == ActionExperiment {
		return p.record(a.rollout)
	}
	if a.fault != nil {
		return a.fault
	}
	to, ok := a.to.(source.Marker)
	if !ok {
		return nil
	}
	if a.Kind == ActionAlias {
		return to.SetAlias(ctx, a.at, a.Version, a.Alias)
	}
	s := &a.state
	verdict, reason, sentence := string(s.Verdict), s.Reason, s.Sentence()
	if a.undone != "" {
		verdict, reason, sentence = "undone", a.undone, a.undone
	}
	return to.Tag(ctx, a.at, a.Version, map[string]string{
		"millrace.verdict": verdict, "millrace.reason": cut(reason, 500),
		"millrace.rollout": s.ID, "millrace.endpoint": s.Endpoint,
		"millrace.sentence": cut(sentence, 2000),
	})
}

// cut shortens a text for those who bound it.
func cut(text string, most int) string {
	if r := []rune(text); len(r) > most {
		return string(r[:most-3]) + "..."
	}
	return text
}

// did keeps how an attempt went.
func (p *Plane) did(a *pending, fault error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	r := p.view.rollouts[a.rollout]
	if r == nil || a.index >= len(r.status.Actions) || r.status.Actions[a.index] != a.Action {
		return nil // an undo has changed it meanwhile
	}
	status := r.status
	status.Actions = slices.Clone(status.Actions)
	to := &status.Actions[a.index]
	switch {
	case errors.Is(fault, source.ErrGone):
		to.Done, to.Error = time.Now(), fault.Error() // there is nothing any more to do it to
	case fault != nil:
		if to.Error == fault.Error() {
			return nil
		}
		to.Error = fault.Error()
		p.log.Warn("what follows from a rollout cannot be done yet", "rollout", a.rollout, "action",
			a.Kind, "error", fault)
	default:
		to.Done, to.Error = time.Now(), ""
	}
	err := p.commit(p.ctx, store.Txn{By: author, Put: []store.Resource{r.with(status)}})
	p.complain("cannot keep that an action is done; it is done again", err, "rollout", a.rollout,
		"action", a.Kind)
	if f := p.followerOf(a.state.Model); err == nil && fault == nil && f != nil {
		f.look() // an alias has moved
	}
	return err
}

// record gives a rollout to the outbox of experiments.
func (p *Plane) record(id string) error {
	p.mu.Lock()
	r := p.view.rollouts[id]
	if r == nil {
		p.mu.Unlock()
		return nil // its endpoint has just left
	}
	s := &r.status.State
	source := p.view.version(s.Model, s.Canary.Version).RunID
	box, under, err := p.outboxOfModel(s.Model)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	run := experimentOf(&r.status, source)
	run.Experiment = under
	return box.Add(run)
}

// localOutbox has the rollouts of models without a registry of MLflow. Nothing sends them.
const localOutbox = "local"

// outboxOf names the outbox of a source, whose records go to its registry of MLflow.
func outboxOf(name string) string { return "source-" + name }

// openOutbox returns an outbox. Callers hold mu.
func (p *Plane) openOutbox(name string) (*experiment.Outbox, error) {
	if box := p.outboxes[name]; box != nil {
		return box, nil
	}
	cfg := experiment.DefaultConfig()
	cfg.Dir, cfg.Logger = filepath.Join(p.cfg.Data, outboxDir, name), p.log
	box, err := experiment.Open(cfg)
	if err != nil {
		return nil, err
	}
	p.outboxes[name] = box
	return box, nil
}

// tidyInterval is how often files of old versions are looked for.
const tidyInterval = time.Hour

func (p *Plane) isUntidy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.untidy
}

// tidy removes the models that have left, once no source is asked for any, and files that nobody
// needs any more. Models that endpoints name stay.
func (p *Plane) tidy() {
	if !p.syncs.TryLock() {
		return // at the next tick
	}
	defer p.syncs.Unlock()
	p.mu.Lock()
	p.untidy = false
	names := slices.Collect(maps.Keys(p.view.wanted(time.Now())))
	for name, m := range p.view.models {
		if m.spec.Source != "" {
			names = append(names, name)
		}
	}
	p.mu.Unlock()
	err := p.syncer.Retain(p.ctx, names)
	_, fault := p.artifacts.Collect(p.ctx, time.Now())
	fault = errors.Join(fault, p.tidyCommands())
	p.mu.Lock()
	defer p.mu.Unlock()
	p.complain("files that nobody needs any more cannot be removed yet", errors.Join(err, fault))
}
