package control

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
)

// Commands beside those of rollout.Command.
const (
	CommandStart = "start" // try the watched version, also if it was refused or it is a freeze
	CommandUndo  = "undo"  // take the last promotion back
)

// ErrNotNow is wrapped when a command makes no sense where things stand.
var ErrNotNow = errors.New("control: not possible now")

// Command does what a person says to an endpoint's rollout, and returns a sentence that says
// where that leaves it. What it has done is in force when it returns.
func (p *Plane) Command(
	ctx context.Context, endpoint, command string, by store.Author,
) (string, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.ensure(ctx); err != nil {
		return "", err
	}
	e := p.view.endpoints[endpoint]
	if e == nil {
		return "", fmt.Errorf("%w: endpoint %q", store.ErrNotFound, endpoint)
	}
	var err error
	switch command {
	case CommandStart:
		err = p.startAgain(e)
	case CommandUndo:
		err = p.undo(e, by)
	default:
		var r *run
		if r, err = p.running(e); err == nil && r == nil {
			err = fmt.Errorf("%w: endpoint %q has no rollout under way", ErrNotNow, endpoint)
		}
		if err == nil {
			err = p.command(e, r, rollout.Command(command), by)
		}
	}
	if err != nil {
		return "", err
	}
	return p.sentence(p.view.endpoints[endpoint]), nil
}

// command gives a command to a rollout under way.
func (p *Plane) command(
	e *item[config.Endpoint, EndpointStatus], r *run, c rollout.Command, by store.Author,
) error {
	next, err := r.state.Command(c, by.Who, time.Now())
	if err != nil {
		return err
	}
	return p.take(e, r, next, "")
}

// startAgain begins a rollout of the watched version.
func (p *Plane) startAgain(e *item[config.Endpoint, EndpointStatus]) error {
	switch {
	case e.status.Rollout != "":
		return fmt.Errorf("%w: rollout %s is under way", ErrNotNow, e.status.Rollout)
	case e.spec.Canary == nil || e.spec.Canary.Watch == "":
		return fmt.Errorf("%w: endpoint %q watches no alias; see canary.watch", ErrNotNow, e.Name)
	}
	if err := p.consider(e, time.Now(), true); err != nil {
		return err
	}
	if p.view.endpoints[e.Name].status.Rollout == "" {
		return fmt.Errorf("%w: %s names %q, the stable version is %q; there is nothing to try",
			ErrNotNow, e.spec.Canary.Watch, p.view.resolve(&e.spec, e.spec.Canary.Watch),
			p.view.stable(e))
	}
	return nil
}

// undo makes the former stable version the stable one again.
func (p *Plane) undo(e *item[config.Endpoint, EndpointStatus], by store.Author) error {
	now := time.Now()
	f := e.status.Former
	switch {
	case e.status.Rollout != "":
		return fmt.Errorf("%w: rollout %s is under way; abort it", ErrNotNow, e.status.Rollout)
	case f == nil:
		return fmt.Errorf("%w: nothing was promoted", ErrNotNow)
	case now.After(f.Until):
		return fmt.Errorf("%w: version %s was kept until %s (canary.keep_warm)", ErrNotNow,
			f.Version, f.Until.Format(time.RFC3339))
	}
	promoted := p.view.stable(e)
	status := e.status
	status.Former = nil
	status.Promoted = &Promoted{Version: f.Version,
		Over: p.view.resolve(&e.spec, e.spec.Stable)}
	status.refuse(Refused{promoted, p.ref(modelOf(&e.spec), promoted).Digest, "undo"})
	status.event(now, true, fmt.Sprintf("%s took the promotion of version %s back: version %s "+
		"is stable again", by.Who, promoted, f.Version))
	txn := store.Txn{By: by, Put: []store.Resource{e.with(status)}}
	if record := p.view.promotion(e.Name, promoted); record != nil {
		txn.Put = append(txn.Put, record.with(undone(record.status, f.Version)))
	}
	if err := p.commit(p.ctx, txn); err != nil {
		return err
	}
	p.log.Warn("promotion taken back", "endpoint", e.Name, "from", promoted, "to", f.Version,
		"by", by.Who)
	p.changed()
	return nil
}

// promotion returns the record of the rollout that has made a version stable.
func (v *view) promotion(endpoint, version string) *item[struct{}, RolloutStatus] {
	var last *item[struct{}, RolloutStatus]
	for _, r := range v.rollouts {
		s := &r.status.State
		if s.Endpoint == endpoint && s.Canary.Version == version &&
			s.Verdict == rollout.Successful && (last == nil ||
			s.Ended.After(last.status.State.Ended)) {
			last = r
		}
	}
	return last
}

// undone adds the actions that take back those of a promotion.
func undone(s RolloutStatus, version string) RolloutStatus {
	s.Actions = slices.Clone(s.Actions)
	for i := range s.Actions {
		if a := &s.Actions[i]; a.Kind == ActionAlias {
			s.Actions = append(s.Actions, Action{Kind: ActionAlias, Alias: a.Alias,
				Version: version})
			if a.Done.IsZero() {
				s.Actions = slices.Delete(s.Actions, i, i+1)
			}
			break
		}
	}
	return s
}

// sentence says where an endpoint stands.
func (p *Plane) sentence(e *item[config.Endpoint, EndpointStatus]) string {
	if r := p.runs[e.status.Rollout]; r != nil {
		return r.state.Sentence()
	}
	if r := p.view.rollouts[e.status.Rollout]; r != nil {
		return r.status.State.Sentence()
	}
	if n := len(e.status.Events); n > 0 {
		return e.status.Events[n-1].Text
	}
	return fmt.Sprintf("version %s serves; there was no rollout yet", p.view.stable(e))
}
