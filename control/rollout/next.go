package rollout

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/evidence"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// Observation is what a look finds. Take one at least every 30 seconds: of the time
// between two looks no more counts, so that neither a clock that jumps nor a server
// that was down makes a step long enough.
type Observation struct {
	// Totals since the rollout began. Requests at 100 percent count with a propensity of 1.
	Counts trial.Counts
	Shadow ShadowCounts
	// Rewards that are new since the look before, in the order of their requests.
	Rewards []trial.Reward
	// Queries that were asked anew, by their text.
	Queries map[string]Query
	// Problem is why the canary cannot serve: it does not load, crashes, has the wrong
	// inputs, or is gone. It ends the rollout.
	Problem string
	// Hold is why the rollout may not begin or go further now: the canary loads, a hook
	// has not agreed, it is a time without changes, or the promotion is not carried out
	// yet. To find out whether a hook must be asked, see whether Next goes on without it.
	Hold string
	// Transient is what could not be had at this look, as a registry's answer. It ends the
	// rollout when it lasts.
	Transient string
}

// Query is the answer to a query: a value, NaN where there are no data, or an error.
type Query struct {
	Value float64
	Err   string
}

const (
	// maxGap is the most that counts of the time between two looks.
	maxGap = 30 * time.Second
	// An outage ends a rollout after so many looks and so much time: a provider's restart
	// must not.
	outageLooks = 5
	outageTime  = 5 * time.Minute
	// aboveLooks are the looks in a row at which a query's value must be too high, as one
	// alone may be noise. That is a habit and promises nothing about chance.
	aboveLooks = 3
)

// Next returns the rollout after a look, and whether it has made a transition, which
// must be stored before the weights that follow from it are published. Other changes
// are the counts and the series: what is lost of them is counted again, but for rewards.
func (s State) Next(o Observation, now time.Time) (State, bool) {
	if s.Phase == Done {
		return s, false
	}
	s = s.watch(o, now)
	before := s.Turn
	s = s.decide(o, now)
	moved := s.Turn != before
	s.Evidence = s.series(now, moved)
	return s, moved
}

// watch takes over what was observed.
func (s State) watch(o Observation, now time.Time) State {
	passed := min(max(now.Sub(s.Looked), 0), maxGap)
	s.Looked = now
	s.Seen.Age += passed
	if !s.Paused {
		s.Seen.StepAge += passed
	}
	prior := s.Seen.Counts
	s.Seen.Counts, s.Seen.Shadow = o.Counts.Clone(), o.Shadow
	s.Seen.Baselines = s.baselines(prior)
	if s.has(Reward) {
		for _, r := range o.Rewards {
			s.Seen.Reward.Observe(r.Canary, r.Rho, r.Value)
		}
	}
	s.Seen.Queries = s.answers(o)
	s.Seen.Outage = s.outage(o)
	return s
}

func (s State) has(metric string) bool {
	return slices.ContainsFunc(s.Spec.Guards, func(g GuardSpec) bool { return g.Metric == metric })
}

// answers returns what is known of all queries.
func (s State) answers(o Observation) map[string]Queried {
	known := maps.Clone(s.Seen.Queries)
	for _, g := range s.Spec.Guards {
		q, asked := o.Queries[g.Query]
		if g.Metric != Prometheus || !asked {
			continue
		}
		if known == nil {
			known = make(map[string]Queried)
		}
		known[g.Query] = known[g.Query].after(q, g.Max)
	}
	return known
}

// outage returns for how long something has been away, this look included.
func (s State) outage(o Observation) Outage {
	away, what := s.Seen.Outage, o.away()
	switch {
	case what != "":
		if away.Looks == 0 {
			away.Since = s.Seen.Age
		}
		return Outage{away.Looks + 1, away.Since, what}
	case s.has(Prometheus) && len(o.Queries) == 0:
		return away // nothing was asked, so that nothing new is known
	}
	return Outage{}
}

// away says what could not be had.
func (o Observation) away() string {
	if o.Transient != "" {
		return o.Transient
	}
	for _, name := range slices.Sorted(maps.Keys(o.Queries)) {
		if err := o.Queries[name].Err; err != "" {
			return fmt.Sprintf("query %q: %s", name, err)
		}
	}
	return ""
}

// after returns what is known after an answer. Without data nothing is.
func (q Queried) after(answer Query, limit float64) Queried {
	if answer.Err != "" || math.IsNaN(answer.Value) || math.IsInf(answer.Value, 0) {
		return Queried{Value: q.Value}
	}
	q.Value, q.Known = answer.Value, true
	if q.Value <= limit {
		q.Above = 0
	} else {
		q.Above++
	}
	return q
}

// decide makes the transition that is due, if one is.
func (s State) decide(o Observation, now time.Time) State {
	t := turn{at: now}
	switch lost := s.Seen.Outage; {
	case s.Phase == Promoting && o.Hold != "":
		return s
	case s.Phase == Promoting:
		t.reason = s.Reason
		return s.end(Successful, t)
	case o.Problem != "":
		t.reason = "it cannot serve: " + o.Problem
		return s.end(Failed, t)
	case lost.Looks >= outageLooks && s.Seen.Age-lost.Since >= outageTime && !s.Paused:
		t.reason = fmt.Sprintf("for %v of looks something it needs was away: %s",
			(s.Seen.Age - lost.Since).Round(time.Second), lost.What)
		return s.end(Errored, t)
	case s.Phase == Pending && (s.Paused || o.Hold != ""):
		if !s.Paused {
			s.Reason = "the rollout waits to begin: " + o.Hold
		}
		return s
	case s.Phase == Pending:
		return s.begin(now)
	}
	return s.judge(o, now)
}

// judge looks at the evidence.
func (s State) judge(o Observation, now time.Time) State {
	look, blame := s.look()
	d := s.rule().Decide(look)
	t := turn{reason: d.Reason, guard: d.Guard, at: now}
	switch {
	case d.Verdict == evidence.RollBack:
		if len(look.Hard) > 0 {
			t.guard = blame
		}
		return s.end(Failed, t)
	case s.Paused || s.Phase == Approval:
		return s
	case d.Verdict == evidence.Inconclusive:
		return s.pause(t, Inconclusive)
	case d.Verdict != evidence.Promote:
		s.Reason, s.Guard = d.Reason, d.Guard
		return s
	case s.Seen.Outage.Looks > 0:
		s.Reason = "it cannot be told whether it may go on: " + s.Seen.Outage.What
		return s
	case o.Hold != "":
		s.Reason = d.Reason + "; it waits to go on: " + o.Hold
		return s
	}
	return s.advance(t)
}

// begin starts the first stage.
func (s State) begin(now time.Time) State {
	switch {
	case s.Spec.Shadow.Percent > 0:
		return s.to(Shadow, turn{reason: "the canary gets copies of requests", at: now})
	case s.Spec.Strategy == BlueGreen:
		return s.to(Approval, turn{reason: "a person must approve the switch", at: now})
	}
	return s.to(Step, turn{reason: "the first step begins", at: now})
}

// advance goes on after a stage that has shown what it should.
func (s State) advance(t turn) State {
	switch {
	case s.Phase == Shadow && s.Spec.Strategy == BlueGreen && s.Spec.Approve:
		return s.to(Approval, t)
	case s.Phase == Shadow:
		return s.to(Step, t)
	case s.Step+1 < len(s.Spec.Steps):
		s.Step++
		return s.to(Step, t)
	case s.Spec.Approve && s.Spec.Strategy != BlueGreen:
		return s.to(Approval, t)
	}
	return s.to(Promoting, t)
}

// pause holds the rollout where it is, with a verdict when it does so by itself.
func (s State) pause(t turn, v Verdict) State {
	s.Paused, s.PausedBy, s.Verdict = true, t.by, v
	return s.note(s.Phase, t)
}
