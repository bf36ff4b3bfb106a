package control

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/control/config"
	"github.com/millrace-ml/millrace/control/rollout"
	"github.com/millrace-ml/millrace/control/store"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// run is a rollout under way, ahead of its record.
type run struct {
	state  rollout.State
	counts trial.Counts         // that were there before this process began to count
	shadow rollout.ShadowCounts // the same of copies
	saved  time.Time            // when the record was written
	gates  gates
	asker  asker
}

// saveInterval is how often the counts of a rollout are stored. What a crash loses of them is
// counted anew.
const saveInterval = 5 * time.Second

// author is who makes the changes that rollouts decide.
var author = store.Author{Who: "rollout", From: "millrace"}

// look moves all rollouts on.
func (p *Plane) look(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.store == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(p.view.endpoints)) {
		e := p.view.endpoints[name]
		if e.status.Rollout == "" && (e.spec.Canary == nil || e.spec.Canary.Watch == "") {
			continue
		}
		var err error
		if e.status.Rollout == "" {
			err = p.consider(e, now, false)
		} else {
			err = p.advance(e, now)
		}
		if err != nil {
			p.log.Error("a rollout cannot go on; it is tried again", "endpoint", name, "error", err)
		}
	}
}

// consider begins a rollout when the watched alias names a version that has not been tried.
func (p *Plane) consider(e *item[config.Endpoint, EndpointStatus], now time.Time, again bool) error {
	c := e.spec.Canary
	version, stable := p.view.resolve(&e.spec, c.Watch), p.view.stable(e)
	if version == "" || stable == "" || version == stable {
		return p.waiting(e, "")
	}
	about := rollout.Subject{Endpoint: e.Name, Model: modelOf(&e.spec),
		Stable: p.ref(modelOf(&e.spec), stable), Canary: p.ref(modelOf(&e.spec), version)}
	if !again && slices.ContainsFunc(e.status.Refused, func(r Refused) bool {
		return r.Digest == about.Canary.Digest
	}) {
		return p.waiting(e, fmt.Sprintf("version %s was rolled back; `millrace rollout start %s` "+
			"tries it again", version, e.Name))
	}
	if frozen(c, now) && !again {
		return p.waiting(e, "version "+version+" waits for the end of the freeze")
	}
	status := e.status
	status.Rollouts++
	status.Waiting = ""
	status.Rollout = e.Name + "/" + strconv.Itoa(status.Rollouts)
	status.Refused = slices.DeleteFunc(slices.Clone(status.Refused), func(r Refused) bool {
		return r.Digest == about.Canary.Digest
	})
	status.event(now, false, fmt.Sprintf("rollout %s of version %s begins", status.Rollout, version))
	state := rollout.Begin(status.Rollout, rolloutSpec(c), about, now)
	txn := store.Txn{By: author, Put: []store.Resource{
		{Key: store.Key{Kind: KindRollout, Name: status.Rollout}, Owner: OwnerAPI,
			Status: encode(RolloutStatus{State: state})},
		e.with(status),
	}}
	txn.Delete = p.view.outdated(e.Name, status.Rollouts)
	if err := p.commit(p.ctx, txn); err != nil {
		return err
	}
	p.log.Info("rollout begins", "endpoint", e.Name, "rollout", status.Rollout, "stable", stable,
		"canary", version)
	p.changed()
	return nil
}

// with returns the resource with another status.
func (it *item[S, T]) with(status T) store.Resource {
	r := it.Resource
	r.Status = encode(status)
	return r
}

// waiting keeps why no rollout begins, if that is new.
func (p *Plane) waiting(e *item[config.Endpoint, EndpointStatus], why string) error {
	if e.status.Waiting == why {
		return nil
	}
	status := e.status
	status.Waiting = why
	return p.commit(p.ctx, store.Txn{By: author, Put: []store.Resource{e.with(status)}})
}

// keepRollouts is how many records of rollouts an endpoint keeps.
const keepRollouts = 50

// outdated lists the records of an endpoint's rollouts that make room for number next.
func (v *view) outdated(endpoint string, next int) []store.Key {
	var keys []store.Key
	for name := range v.rollouts {
		of, number, _ := strings.Cut(name, "/")
		if n, err := strconv.Atoi(number); of == endpoint && err == nil && n <= next-keepRollouts {
			keys = append(keys, store.Key{Kind: KindRollout, Name: name})
		}
	}
	return keys
}

// ref pins a version by the digest of its files; without one, as of a folder, by that of the
// version that is loaded.
func (p *Plane) ref(model, version string) rollout.VersionRef {
	ref := rollout.VersionRef{Version: version}
	if m := p.view.models[model]; m != nil {
		for _, v := range m.status.Versions {
			if v.Name == version {
				ref.Digest = v.Digest
			}
		}
	}
	if ref.Digest != "" {
		return ref
	}
	if v, err := p.models.Acquire([]byte(model), []byte(version)); err == nil {
		ref.Digest = v.Digest()
		v.Release()
	}
	return ref
}

func frozen(c *config.Canary, now time.Time) bool {
	return slices.ContainsFunc(c.Freeze, func(f config.Freeze) bool { return f.Frozen(now) })
}

// rolloutSpec is what an endpoint says of its rollouts. What is zero has its default there.
func rolloutSpec(c *config.Canary) rollout.Spec {
	s := rollout.Spec{
		Strategy: rollout.Strategy(c.Strategy), Steps: c.Steps, Confidence: c.Confidence,
		Approve: c.Approve,
		Shadow: rollout.ShadowStage{Percent: c.Shadow.Percent,
			Requests: uint64(c.Shadow.Requests)},
		Step: rollout.StepRule{MinTime: c.Step.MinTime, MaxTime: c.Step.MaxTime,
			MinRequests: uint64(c.Step.MinRequests)},
	}
	for _, g := range c.Guards {
		s.Guards = append(s.Guards, rollout.GuardSpec{Metric: g.Metric, Quantile: g.Quantile,
			Ratio: g.Ratio, Margin: g.Margin, Max: g.Max, Query: g.Query, Weight: g.Weight})
	}
	return s
}

// running returns the run of an endpoint's rollout.
func (p *Plane) running(e *item[config.Endpoint, EndpointStatus]) (*run, error) {
	name := e.status.Rollout
	if r := p.runs[name]; r != nil {
		return r, nil
	}
	record := p.view.rollouts[name]
	if record == nil {
		status := e.status
		status.Rollout = ""
		return nil, p.commit(p.ctx, store.Txn{By: author, Put: []store.Resource{e.with(status)}})
	}
	s := record.status.State
	r := &run{state: s, counts: s.Seen.Counts.Clone(), shadow: s.Seen.Shadow, saved: time.Now()}
	p.runs[name] = r
	return r, nil
}

// advance looks at a rollout under way.
func (p *Plane) advance(e *item[config.Endpoint, EndpointStatus], now time.Time) error {
	r, err := p.running(e)
	if err != nil || r == nil {
		return err
	}
	if why := p.overtaken(e, &r.state); why != "" {
		return p.command(e, r, rollout.Abort, store.Author{Who: why, From: "millrace"})
	}
	o := p.observe(e, r, now)
	next, moved := r.state.Next(o, now)
	if moved && o.Hold == "" {
		if o.Hold = p.held(e, r, &next, now); o.Hold != "" {
			next, moved = r.state.Next(o, now)
		}
	}
	if !moved && now.Sub(r.saved) < saveInterval {
		r.state = next
		return nil
	}
	return p.take(e, r, next, o.Hold)
}

// overtaken says why a rollout has lost its subject.
func (p *Plane) overtaken(e *item[config.Endpoint, EndpointStatus], s *rollout.State) string {
	c := e.spec.Canary
	switch {
	case s.Phase == rollout.Promoting:
	case c == nil || c.Watch == "":
		return "the endpoint watches no alias any more"
	case modelOf(&e.spec) != s.Model:
		return "the endpoint has another model now"
	case p.view.stable(e) != s.Stable.Version:
		return fmt.Sprintf("the stable version is %s now", p.view.stable(e))
	}
	if s.Phase == rollout.Promoting {
		return ""
	}
	if now := p.view.resolve(&e.spec, c.Watch); now != s.Canary.Version {
		if now == "" {
			return c.Watch + " names no version any more"
		}
		return fmt.Sprintf("%s names version %s now", c.Watch, now)
	}
	return ""
}

// observe gathers what a look finds.
func (p *Plane) observe(
	e *item[config.Endpoint, EndpointStatus], r *run, now time.Time,
) rollout.Observation {
	seen := p.gateway.Observe(e.Name, r.state.ID)
	o := rollout.Observation{Counts: r.counts.Clone(), Rewards: seen.Rewards,
		Shadow: rollout.ShadowCounts{
			Compared:  r.shadow.Compared + seen.Shadow.Compared,
			Disagreed: r.shadow.Disagreed + seen.Shadow.Disagreed,
			Failed:    r.shadow.Failed + seen.Shadow.Failed,
		}}
	o.Counts.Merge(seen.Counts)
	o.Problem = p.problem(e, &r.state)
	if e.spec.Canary != nil && frozen(e.spec.Canary, now) {
		o.Hold = "the freeze is not over"
	}
	if e.spec.Canary != nil {
		o.Queries = p.queries(r, e.spec.Canary.Guards, now)
	}
	return o
}

// problem says why the canary cannot serve.
func (p *Plane) problem(e *item[config.Endpoint, EndpointStatus], s *rollout.State) string {
	canary, err := p.models.Acquire([]byte(s.Model), []byte(s.Canary.Version))
	if err != nil {
		for _, i := range p.models.Index(false) {
			if i.Name == s.Model && i.Version == s.Canary.Version && i.Reason != "" {
				return i.Reason
			}
		}
		return err.Error()
	}
	defer canary.Release()
	if s.Phase != rollout.Pending || e.spec.Canary == nil || e.spec.Canary.AllowSignatureChange {
		return ""
	}
	stable, err := p.models.Acquire([]byte(s.Model), []byte(s.Stable.Version))
	if err != nil {
		return "" // a stable version that is gone does not speak against the canary
	}
	defer stable.Release()
	if err := route.Compatible(stable.Signature(), canary.Signature()); err != nil {
		return fmt.Sprintf("requests for the stable version do not fit it: %v "+
			"(canary.allow_signature_change lets it pass)", err)
	}
	return ""
}

// take stores a rollout's state and what follows from it, and puts that in force.
func (p *Plane) take(
	e *item[config.Endpoint, EndpointStatus], r *run, next rollout.State, hold string,
) error {
	record := p.view.rollouts[e.status.Rollout]
	before := r.state
	status := record.status
	status.State, status.Held = next, hold
	txn := store.Txn{By: author}
	if next.Phase == rollout.Done {
		ended, actions := p.verdict(e, &next)
		status.Actions = append(slices.Clone(status.Actions), actions...)
		txn.Put = append(txn.Put, e.with(ended))
	}
	txn.Put = append(txn.Put, record.with(status))
	if err := p.commit(p.ctx, txn); err != nil {
		return err
	}
	r.state, r.saved = next, next.Looked
	if next.Phase == rollout.Done {
		delete(p.runs, next.ID)
	}
	if before.Phase != next.Phase || before.Step != next.Step || before.Paused != next.Paused {
		p.log.Info("rollout", "endpoint", e.Name, "rollout", next.ID, "phase", string(next.Phase),
			"weight", next.Weight(), "verdict", string(next.Verdict), "reason", next.Reason)
		p.tell(e, &next)
		p.changed()
	}
	return nil
}

// verdict returns what a verdict makes of the endpoint, and what is to be done elsewhere.
func (p *Plane) verdict(
	e *item[config.Endpoint, EndpointStatus], s *rollout.State,
) (EndpointStatus, []Action) {
	status := e.status
	status.Rollout = ""
	status.event(s.Ended, s.Verdict != rollout.Successful, s.Sentence())
	actions := []Action{{Kind: ActionTags, Version: s.Canary.Version}, {Kind: ActionExperiment}}
	if s.Verdict != rollout.Successful {
		if p.overtaken(e, s) == "" {
			status.refuse(Refused{s.Canary.Version, s.Canary.Digest, s.ID})
		}
		return status, actions
	}
	keep := time.Hour
	if c := e.spec.Canary; c != nil {
		if c.KeepWarm > 0 {
			keep = c.KeepWarm
		}
		if c.Then.Alias != "" {
			actions = append(actions, Action{Kind: ActionAlias, Alias: c.Then.Alias,
				Version: s.Canary.Version})
		}
	}
	status.Promoted = &Promoted{Version: s.Canary.Version,
		Over: p.view.resolve(&e.spec, e.spec.Stable)}
	status.Former = &Former{Version: s.Stable.Version, Until: s.Ended.Add(keep)}
	return status, actions
}

func (s *EndpointStatus) refuse(r Refused) {
	s.Refused = append(slices.Clone(s.Refused), r)
	if n := len(s.Refused); n > maxRefused {
		s.Refused = s.Refused[n-maxRefused:]
	}
}

// saveRuns stores the counts of all rollouts under way. Callers hold mu.
func (p *Plane) saveRuns() {
	for name, r := range p.runs {
		record := p.view.rollouts[name]
		if record == nil || p.store == nil {
			continue
		}
		status := record.status
		status.State = r.state
		txn := store.Txn{By: author, Put: []store.Resource{record.with(status)}}
		if err := p.commit(context.Background(), txn); err != nil {
			p.log.Warn("counts of a rollout are not kept; they are counted anew", "rollout", name,
				"error", err)
		}
	}
}
