package control

import (
	"context"
	"errors"
	"fmt"
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
	state rollout.State
	at    string // the model's name at its source
	to    source.Source
}

// act does what follows from verdicts, until the plane closes. What fails is tried again, and
// nothing waits for it.
func (p *Plane) act() {
	ticker := time.NewTicker(firstPause)
	defer ticker.Stop()
	pauses := make(map[string]time.Duration)
	next := make(map[string]time.Time)
	for {
		select {
		case <-p.ctx.Done():
			return
		case <-ticker.C:
		}
		for _, a := range p.pending() {
			id := fmt.Sprintf("%s/%d", a.rollout, a.index)
			if time.Now().Before(next[id]) {
				continue
			}
			err := p.do(p.ctx, &a)
			if err != nil {
				pauses[id] = min(max(2*pauses[id], firstPause), lastPause)
				next[id] = time.Now().Add(pauses[id])
			} else {
				delete(pauses, id)
				delete(next, id)
			}
			if err := p.did(&a, err); err != nil {
				p.log.Error("cannot keep that an action is done; it is done again", "rollout",
					a.rollout, "action", a.Kind, "error", err)
			}
		}
	}
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
			one := pending{rollout: r.Name, index: i, Action: a, state: r.status.State}
			if m := p.view.models[one.state.Model]; m != nil {
				one.at = m.spec.Registered
				if one.at == "" {
					one.at = m.Name
				}
				if f := p.followers[m.spec.Source]; f != nil {
					one.to = f.origin
				}
			}
			list = append(list, one)
		}
	}
	return list
}

// do carries an action out. Where there is nobody to tell, there is nothing to do.
func (p *Plane) do(ctx context.Context, a *pending) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if a.Kind == ActionExperiment {
		return p.record(&a.state)
	}
	to, ok := a.to.(source.Marker)
	if !ok {
		return nil
	}
	if a.Kind == ActionAlias {
		return to.SetAlias(ctx, a.at, a.Version, a.Alias)
	}
	s := &a.state
	return to.Tag(ctx, a.at, a.Version, map[string]string{
		"millrace.verdict": string(s.Verdict), "millrace.reason": cut(s.Reason, 500),
		"millrace.rollout": s.ID, "millrace.endpoint": s.Endpoint,
		"millrace.sentence": cut(s.Sentence(), 2000),
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
	if m := p.view.models[a.state.Model]; err == nil && fault == nil && m != nil {
		if f := p.followers[m.spec.Source]; f != nil {
			f.look() // an alias has moved
		}
	}
	return err
}

// record gives a rollout to the outbox of experiments.
func (p *Plane) record(s *rollout.State) error {
	p.mu.Lock()
	box, err := p.openOutbox(s.Model)
	p.mu.Unlock()
	if err != nil {
		return err
	}
	return box.Add(experimentOf(s, p.experimentName(s.Model)))
}

// openOutbox returns the outbox that the rollouts of a model go to: that of its registry of
// MLflow, or one that nobody reads but the API. Callers hold mu.
func (p *Plane) openOutbox(model string) (*experiment.Outbox, error) {
	name, client := "local", (*source.MLflow)(nil)
	if m := p.view.models[model]; m != nil {
		if f := p.followers[m.spec.Source]; f != nil {
			if k, ok := f.origin.(*source.MLflow); ok {
				name, client = "source-"+f.name, k
			}
		}
	}
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
	if client != nil {
		p.wait.Go(func() { box.Run(p.ctx, client.Client()) })
	}
	return box, nil
}

// experimentName is the experiment of MLflow that the rollouts of a model are logged under.
func (p *Plane) experimentName(model string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if m := p.view.models[model]; m != nil {
		s := p.view.sources[m.spec.Source]
		if s != nil && s.spec.MLflow != nil && s.spec.MLflow.Experiment != "" {
			return s.spec.MLflow.Experiment
		}
	}
	return "millrace"
}
