package control

import (
	"cmp"
	"context"
	"encoding/json"
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
	"github.com/millrace-ml/millrace/runtime/model"
)

// run is a rollout under way, ahead of its record.
type run struct {
	state   rollout.State
	counts  trial.Counts             // that were there before this process began to count
	shadow  rollout.ShadowCounts     // the same of copies
	rewards []trial.Reward           // that are in no state yet, since it could not be stored
	queries map[string]rollout.Query // the same of answers
	saved   time.Time                // when the record was written
	// Of the shadow: how to get them while there is one, and those of one that was.
	observed func() json.RawMessage
	examples json.RawMessage
	gates    gates
	asker    asker
}

// The counts of a rollout are stored this often: at first every few seconds, and then each
// hundredth of its age, since each time takes room from the audit log. A crash loses what was
// counted since.
const (
	leastSave, mostSave = 5 * time.Second, time.Minute
	savesPerAge         = 100
)

// due says whether the counts are to be stored: also when the clock has gone back since.
func (r *run) due(next *rollout.State, now time.Time) bool {
	since := now.Sub(r.saved)
	return since < 0 || since >= min(max(next.Seen.Age/savesPerAge, leastSave), mostSave)
}

// maxRewards bounds the rewards that wait while the store is full.
const maxRewards = 100_000

// author is who makes the changes that rollouts decide.
var author = store.Author{Who: "rollout", From: store.Self}

// look moves all rollouts on.
func (p *Plane) look(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.store == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(p.view.endpoints)) {
		err := p.lookAt(p.view.endpoints[name], now)
		p.complain("a rollout cannot go on; it is tried again", err, "endpoint", name)
	}
	p.lookTests(now)
	p.tendTriggers(now)
	if p.behind {
		p.changed()
	}
}

// lookAt moves the rollout of an endpoint on, or begins one.
func (p *Plane) lookAt(e *endpoint, now time.Time) error {
	switch {
	case p.view.stale(e):
		status := e.status
		status.Promoted = nil
		return p.keep(e, status)
	case e.status.Rollout != "":
		return p.advance(e, now)
	}
	return p.consider(e, now, false)
}

// keep stores the status of an endpoint.
func (p *Plane) keep(e *endpoint, status EndpointStatus) error {
	return p.commit(p.ctx, store.Txn{By: author, Put: []store.Resource{e.with(status)}})
}

// consider begins a rollout when the watched alias names a version that has not been tried.
func (p *Plane) consider(e *endpoint, now time.Time, again bool) error {
	c := e.spec.Canary
	if c == nil || c.Watch == "" {
		return p.waiting(e, "")
	}
	version, stable := p.view.resolve(&e.spec, c.Watch), p.view.stable(e)
	if version == "" || stable == "" || version == stable {
		return p.waiting(e, "")
	}
	about := rollout.Subject{Endpoint: e.Name, Model: modelOf(&e.spec),
		Stable: p.ref(modelOf(&e.spec), stable), Canary: p.ref(modelOf(&e.spec), version)}
	if !again && slices.ContainsFunc(e.status.Refused, func(r Refused) bool {
		return r.is(about.Canary)
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
		return r.is(about.Canary)
	})
	status.event(now, false, fmt.Sprintf("rollout %s of version %s begins", status.Rollout,
		version))
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
	p.behind = true
	return nil
}

// waiting keeps why no rollout begins, if that is new.
func (p *Plane) waiting(e *endpoint, why string) error {
	if e.status.Waiting == why {
		return nil
	}
	status := e.status
	status.Waiting = why
	return p.keep(e, status)
}

// keepRollouts is how many records of rollouts an endpoint keeps.
const keepRollouts = 50

// outdated lists the records of an endpoint's rollouts that make room for number next.
func (v *view) outdated(endpoint string, next int) []store.Key {
	return slices.DeleteFunc(v.rolloutsOf(endpoint), func(k store.Key) bool {
		_, number, _ := strings.Cut(k.Name, "/")
		n, err := strconv.Atoi(number)
		return err != nil || n > next-keepRollouts
	})
}

// rolloutsOf lists the records of an endpoint's rollouts.
func (v *view) rolloutsOf(endpoint string) []store.Key {
	var keys []store.Key
	for name, r := range v.rollouts {
		if r.status.State.Endpoint == endpoint {
			keys = append(keys, store.Key{Kind: KindRollout, Name: name})
		}
	}
	return keys
}

// ref pins a version by the digest of its files; without one, as of a folder, by that of the
// version that is loaded.
func (p *Plane) ref(name, version string) rollout.VersionRef {
	ref := rollout.VersionRef{Version: version, Digest: p.view.version(name, version).Digest}
	if ref.Digest != "" {
		return ref
	}
	if v, err := p.models.Acquire([]byte(name), []byte(version)); err == nil {
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
func (p *Plane) running(e *endpoint) (*run, error) {
	name := e.status.Rollout
	record := p.view.rollouts[name]
	if record == nil {
		status := e.status
		status.Rollout = ""
		return nil, p.keep(e, status)
	}
	if r := p.runs[name]; r != nil {
		return r, nil
	}
	s := record.status.State
	r := &run{state: s, counts: s.Seen.Counts.Clone(), shadow: s.Seen.Shadow, saved: s.Looked}
	p.runs[name] = r
	return r, nil
}

// advance looks at a rollout under way.
func (p *Plane) advance(e *endpoint, now time.Time) error {
	r, err := p.running(e)
	if err != nil || r == nil {
		return err
	}
	if why := p.overtaken(e, &r.state); why != "" && r.state.Phase != rollout.Promoting {
		return p.command(e, r, rollout.Abort, store.Author{Who: "millrace (" + why + ")"})
	}
	o := p.observe(e, r, now)
	next, moved := r.state.Next(o, now)
	if moved && o.Hold == "" {
		if o.Hold = p.held(e, r, &next, now); o.Hold != "" {
			next, moved = r.state.Next(o, now)
		}
	}
	if moved || r.due(&next, now) || o.Hold != p.view.rollouts[next.ID].status.Held {
		if err := p.take(e, r, next, o.Hold); err != nil {
			return err
		}
	}
	r.state, r.rewards, r.queries = next, nil, nil
	return nil
}

// overtaken says why a rollout has lost its subject.
func (p *Plane) overtaken(e *endpoint, s *rollout.State) string {
	if why := p.replaced(e, s); why != "" {
		return why
	}
	c := e.spec.Canary
	if c == nil || c.Watch == "" {
		return "the endpoint watches no alias any more"
	}
	switch now := p.view.resolve(&e.spec, c.Watch); now {
	case s.Canary.Version:
		return ""
	case "":
		return c.Watch + " names no version any more"
	default:
		return fmt.Sprintf("%s names version %s now", c.Watch, now)
	}
}

// replaced says why the canary of a rollout has nothing to take the place of.
func (p *Plane) replaced(e *endpoint, s *rollout.State) string {
	now := p.view.stable(e)
	switch {
	case modelOf(&e.spec) != s.Model:
		return "the endpoint has another model now"
	case now == "":
		return e.spec.Stable + " names no version any more"
	case now != s.Stable.Version:
		return fmt.Sprintf("the stable version is %s now", now)
	}
	return ""
}

// observe gathers what a look finds.
func (p *Plane) observe(e *endpoint, r *run, now time.Time) rollout.Observation {
	seen := p.gateway.Observe(e.Name, r.state.ID)
	r.observed = seen.Examples
	r.rewards = append(r.rewards, seen.Rewards...)
	r.rewards = r.rewards[:min(len(r.rewards), maxRewards)]
	o := rollout.Observation{Counts: r.counts.Clone(), Rewards: r.rewards,
		Shadow: rollout.ShadowCounts{
			Compared:  r.shadow.Compared + seen.Shadow.Compared,
			Disagreed: r.shadow.Disagreed + seen.Shadow.Disagreed,
			Failed:    r.shadow.Failed + seen.Shadow.Failed,
		}}
	o.Counts.Merge(seen.Counts)
	c := e.spec.Canary
	o.Problem, o.Hold = p.problem(&r.state, c != nil && c.AllowSignatureChange)
	if c == nil || r.state.Phase == rollout.Promoting {
		return o // what is decided is carried out
	}
	if frozen(c, now) {
		o.Hold = "the freeze is not over"
	}
	if fresh := p.queries(r, c.Guards, now); fresh != nil {
		r.queries = fresh
	}
	o.Queries = r.queries
	return o
}

// problem says why the canary cannot serve, or why it does not do so yet. Where no other
// signature is allowed, a canary without traffic has to take the stable version's requests.
func (p *Plane) problem(s *rollout.State, anySignature bool) (problem, hold string) {
	canary, err := p.models.Acquire([]byte(s.Model), []byte(s.Canary.Version))
	if err != nil {
		for _, i := range p.models.Index(false) {
			switch {
			case i.Name != s.Model || i.Version != s.Canary.Version:
			case i.State == model.StateLoading:
				return "", "the canary is being loaded"
			case i.Reason != "":
				return i.Reason, ""
			}
		}
		return err.Error(), ""
	}
	defer canary.Release()
	if s.Phase != rollout.Pending || anySignature {
		return "", ""
	}
	stable, err := p.models.Acquire([]byte(s.Model), []byte(s.Stable.Version))
	if err != nil {
		return "", "" // a stable version that is gone does not speak against the canary
	}
	defer stable.Release()
	if err := route.Compatible(stable.Signature(), canary.Signature()); err != nil {
		return fmt.Sprintf("requests for the stable version do not fit it: %v "+
			"(canary.allow_signature_change lets it pass)", err), ""
	}
	return "", ""
}

// take stores a rollout's state and what follows from it, which is to be put in force then.
func (p *Plane) take(e *endpoint, r *run, next rollout.State, hold string) error {
	record := p.view.rollouts[e.status.Rollout]
	before := r.state
	status := record.status
	status.State, status.Held = next, hold
	txn := store.Txn{By: author}
	if before.Shadowing() > 0 && next.Shadowing() == 0 && r.observed != nil {
		r.examples = r.observed() // the shadow leaves with the next table
	}
	if next.Phase == rollout.Done {
		status.Examples, status.Held = r.examples, ""
		ended, actions := p.verdict(e, &next)
		status.Actions = append(slices.Clone(status.Actions), actions...)
		txn.Put = append(txn.Put, e.with(ended))
		txn.Put = append(txn.Put, p.view.superseded(next.ID, next.Model, actions, next.Ended)...)
		if next.Verdict != rollout.Successful && p.overtaken(e, &next) == "" {
			txn.Put = append(txn.Put, p.started(p.rolledBack(e, &next), next.Ended)...)
		}
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
		p.behind = true
		p.tell(e, &next)
	}
	return nil
}

// verdict returns what a verdict makes of the endpoint, and what is to be done elsewhere.
func (p *Plane) verdict(e *endpoint, s *rollout.State) (EndpointStatus, []Action) {
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
	if why := p.replaced(e, s); why != "" {
		status.event(s.Ended, true, fmt.Sprintf("version %s is not made the stable one: %s",
			s.Canary.Version, why))
		return status, actions
	}
	keep := defaultKeepWarm
	if c := e.spec.Canary; c != nil {
		keep = cmp.Or(c.KeepWarm, keep)
		if c.Then.Alias != "" {
			actions = append(actions, Action{Kind: ActionAlias, Alias: c.Then.Alias,
				Version: s.Canary.Version})
		}
	}
	status.Promoted = p.view.over(e, s.Canary.Version, s.Stable.Version)
	status.Former = &Former{Model: s.Model, Version: s.Stable.Version,
		Successor: s.Canary.Version, Until: s.Ended.Add(keep)}
	return status, actions
}

// defaultKeepWarm is how long a former stable version stays loaded where canary.keep_warm says
// nothing.
const defaultKeepWarm = time.Hour

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
