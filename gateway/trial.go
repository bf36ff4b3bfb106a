package gateway

import (
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/gateway/route/trial"
	"github.com/millrace-ml/millrace/gateway/shadow"
)

// onTrial is how the requests of an endpoint of one table are counted for the
// rollout that decides on its canary.
type onTrial struct {
	id       string
	recorder *trial.Recorder // goes on when the table changes
	cell     *trial.Counter  // for the weights of this table; nil for none
	canary   int             // index of the arm
}

// trialUsers is for about how many users a trial is exact, in 8 MiB for all that
// is counted once of each. Of more some are not counted.
const trialUsers = 1 << 20

// newTrial returns how an endpoint of a new table is counted: with the counts of
// the one in its place before, if that is in the same trial.
func newTrial(e *route.Endpoint, before *endpoint) *onTrial {
	if e.Trial == "" {
		return nil
	}
	t := &onTrial{id: e.Trial, canary: e.Canary()}
	if before != nil && before.trial != nil && before.trial.id == t.id {
		t.recorder = before.trial.recorder
	} else {
		t.recorder = trial.NewRecorder(trialUsers)
	}
	// Further arms have no part in it.
	if canary := e.Arms[t.canary].Weight; canary > 0 {
		t.cell = t.recorder.Cell(float64(canary) / float64(canary+e.Arms[0].Weight))
	}
	return t
}

// drawn says whether a choice was between the canary and the stable version, and
// by chance or by a sticky key.
func (t *onTrial) drawn(c *route.Choice) bool {
	return t.cell != nil && c.By != route.ByRule && !c.NeedsKey &&
		(c.Arm == 0 || c.Arm == t.canary)
}

// counts says whether a request was drawn so, and its arm was to answer to the end.
func (t *onTrial) counts(x *Exchange) bool {
	return t.drawn(&x.choice) && x.route == x.endpoint.arms[x.choice.Arm]
}

// picked counts a choice.
func (t *onTrial) picked(c *route.Choice) {
	if t.drawn(c) {
		t.cell.Picked(c.Arm == t.canary, c.User)
	}
}

// finish counts what became of a request.
func (t *onTrial) finish(x *Exchange) {
	e, c := x.endpoint, &x.choice
	canary := c.Arm == t.canary
	end := x.ending()
	switch {
	case canary && x.route == e.arms[0]:
		if end == trial.Answered {
			t.recorder.FellBack()
		}
	case t.counts(x):
		if end == trial.Answered && nonFinite(x.Answer.Outputs) {
			end = trial.NonFinite
		}
		t.cell.Finished(canary, c.User, end, float64(x.end-x.Start)/1e9)
	}
	if x.route == e.arms[t.canary] || x.route == e.pinned && t.serves(x) {
		t.recorder.Canary(end)
	}
}

// ending says how a request ended that is counted.
func (x *Exchange) ending() trial.End {
	switch {
	case x.label == 0:
		return trial.Answered
	case x.fault:
		return trial.Failed
	}
	return trial.Refused
}

// serves says whether a request has the version of the canary, which goes by its
// number on trial.
func (t *onTrial) serves(x *Exchange) bool {
	arm := &x.endpoint.Arms[t.canary]
	return x.Version != nil && x.Version.Version() == string(arm.Version) &&
		x.Version.Name() == string(arm.Model)
}

// source returns what a reward for the request goes by, nil for none. t may be nil.
func (t *onTrial) source(x *Exchange) *trial.Source {
	if t == nil || !t.counts(x) {
		return nil
	}
	return t.cell.Source(x.choice.Arm == t.canary)
}

// Trial is what is counted of the rollout that an endpoint is in.
type Trial struct {
	ID      string
	Counts  trial.Counts
	Rewards []trial.Reward // that came since the last call
	Lost    uint64         // rewards that came while too many waited for a call
}

// Trial returns what is counted for an endpoint's rollout, and takes its rewards;
// false where it has none.
func (c *Core) Trial(endpoint string) (Trial, bool) {
	e := c.routing.Load().endpoints[endpoint]
	if e == nil || e.trial == nil {
		return Trial{}, false
	}
	t := Trial{ID: e.trial.id, Counts: e.trial.recorder.Counts()}
	t.Rewards, t.Lost = e.trial.recorder.Rewards()
	return t, true
}

// ShadowReport returns what a shadow of an endpoint has found, in short.
func (c *Core) ShadowReport(endpoint, name string) (shadow.Summary, bool) {
	if r := c.shadowReport(endpoint, name); r != nil {
		return r.Summary(), true
	}
	return shadow.Summary{}, false
}

// ShadowExamples returns disagreements of a shadow of an endpoint, the worst first.
func (c *Core) ShadowExamples(endpoint, name string) []shadow.Example {
	if r := c.shadowReport(endpoint, name); r != nil {
		return r.Snapshot().Examples
	}
	return nil
}

// shadowReport returns what a shadow of an endpoint has found, nil where there is none.
func (c *Core) shadowReport(endpoint, name string) *shadow.Report {
	if e := c.routing.Load().endpoints[endpoint]; e != nil {
		for i := range e.consumers {
			m := e.consumers[i].mirror
			if m != nil && m.Report().Summary().Shadow == name {
				return m.Report()
			}
		}
	}
	return nil
}
