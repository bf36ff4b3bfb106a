package control

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
)

// Commands beside those of rollout.Command.
const (
	CommandStart = "start" // try the watched version, also if it was refused
	CommandUndo  = "undo"  // take the last promotion back
)

// ErrNotNow is wrapped when a command makes no sense where things stand.
var ErrNotNow = errors.New("control: not possible now")

// Command does what a person says to an endpoint's rollout, and returns a sentence that says
// where that leaves it. What was decided is stored then, and in force.
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
	p.changed()
	return p.sentence(p.view.endpoints[endpoint]), nil
}

// command gives a command to a rollout under way.
func (p *Plane) command(
	e *endpoint, r *run, c rollout.Command, by store.Author,
) error {
	next, err := r.state.Command(c, by.Who, time.Now())
	if err != nil {
		return err
	}
	return p.take(e, r, next, "")
}

// startAgain begins a rollout of the watched version.
func (p *Plane) startAgain(e *endpoint) error {
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
func (p *Plane) undo(e *endpoint, by store.Author) error {
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
	case f.Model != modelOf(&e.spec) || f.Successor != p.view.stable(e):
		return fmt.Errorf("%w: version %s of %s was promoted, and that is not what serves now; "+
			"change the endpoint", ErrNotNow, f.Successor, f.Model)
	}
	former, err := p.models.Acquire([]byte(f.Model), []byte(f.Version))
	if err != nil {
		return fmt.Errorf("%w: version %s cannot serve: %w", ErrNotNow, f.Version, err)
	}
	former.Release()
	status := e.status
	status.Former = nil
	// Also while the alias does not name the successor, which it may be about to.
	status.Promoted = p.view.over(e, f.Version, f.Successor)
	status.refuse(Refused{f.Successor, p.ref(f.Model, f.Successor).Digest, CommandUndo})
	why := fmt.Sprintf("%s took the promotion of version %s back: version %s is stable again",
		cmp.Or(by.Who, "somebody"), f.Successor, f.Version)
	status.event(now, true, why)
	txn := store.Txn{By: by, Put: []store.Resource{e.with(status)}}
	if record := p.view.promotion(e.Name, f.Successor); record != nil {
		txn.Put = append(txn.Put, p.view.undone(record, f.Version, why, now)...)
	}
	if err := p.commit(p.ctx, txn); err != nil {
		return err
	}
	p.log.Warn("promotion taken back", "endpoint", e.Name, "from", f.Successor, "to", f.Version,
		"by", by.Who)
	p.behind = true
	return nil
}

// promotion returns the record of the rollout that has made a version stable.
func (v *view) promotion(endpoint, version string) *record {
	var last *record
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

// undone returns the records after a promotion was taken back: its alias moves back, whether it
// has moved already or not, since that may just be under way, and its version is tagged anew.
func (v *view) undone(r *record, version, why string, now time.Time) []store.Resource {
	status := r.status
	status.Actions, status.Undone = slices.Clone(status.Actions), why
	var back []Action
	for i := range status.Actions {
		a := &status.Actions[i]
		switch a.Kind {
		case ActionTags:
			a.Done, a.Error = time.Time{}, ""
		case ActionAlias:
			back = []Action{{Kind: ActionAlias, Alias: a.Alias, Version: version}}
			if a.Done.IsZero() {
				a.Done, a.Error = now, supersededBy(CommandUndo)
			}
		}
	}
	status.Actions = append(status.Actions, back...)
	return append(v.superseded(r.Name, status.State.Model, back, now), r.with(status))
}

// sentence says where an endpoint stands.
func (p *Plane) sentence(e *endpoint) string {
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
