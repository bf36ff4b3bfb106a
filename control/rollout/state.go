// Package rollout is the state machine of a rollout: the trial of a canary version
// on live traffic beside the stable one, until it is promoted or rolled back.
//
//   - [Spec] says what a person asks for: steps and guards.
//   - [State] is all that is known of one rollout, as it is stored.
//   - [State.Next] takes a look at what was counted, an [Observation], and says how
//     the rollout goes on; [State.Command] does what a person says.
//   - [State.Weight] and [State.Shadowing] are what the gateway is to do.
//
// All are functions of their arguments: they read no clock and store nothing. Who runs
// them stores the State that they return, and then publishes its weights. A State is a
// value: those returned share nothing that is changed later.
//
// How a rollout ends:
//
//	Successful    the evidence of all guards, or a person, says so
//	Failed        a guard speaks against the canary, it cannot serve, or a person aborts
//	Errored       what a guard needs could not be had for long
//	Inconclusive  not an end: it pauses with its weight until a person decides
//
// Harm is watched for in every phase, also while a rollout is paused or waits for
// approval; sound evidence is asked for only where the canary gets what it is about.
package rollout

import (
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/evidence"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// Phase is where a rollout is.
type Phase string

// The phases, in their order. Some are left out by some specs.
const (
	Pending   Phase = "pending"   // it waits to begin: for the canary to load, or a hook
	Shadow    Phase = "shadow"    // the canary gets copies
	Step      Phase = "step"      // the canary has a weight
	Approval  Phase = "approval"  // a person must approve
	Promoting Phase = "promoting" // the canary is being made the stable version
	Done      Phase = "done"      // it has a verdict
)

// Verdict is how a rollout ended, or that it waits for a person. It is empty while
// nothing is decided.
type Verdict string

// The verdicts. A rollout that a person aborts is Failed.
const (
	Successful   Verdict = "successful"
	Failed       Verdict = "failed"
	Inconclusive Verdict = "inconclusive"
	Errored      Verdict = "errored"
)

// VersionRef pins a version.
type VersionRef struct {
	Version string `json:"version"`
	Digest  string `json:"digest"` // of its files
}

// Subject is what a rollout is about.
type Subject struct {
	Endpoint string     `json:"endpoint"`
	Model    string     `json:"model"`
	Stable   VersionRef `json:"stable"`
	Canary   VersionRef `json:"canary"`
}

// State is a rollout.
type State struct {
	ID string `json:"id"`
	Subject
	Spec Spec `json:"spec"`

	Phase     Phase     `json:"phase"`
	Step      int       `json:"step"` // index of the step that is under way or was the last
	Paused    bool      `json:"paused,omitempty"`
	PausedBy  string    `json:"paused_by,omitempty"` // empty when it paused by itself
	Began     time.Time `json:"began"`
	StepBegan time.Time `json:"step_began"` // or the phase
	Ended     time.Time `json:"ended,omitzero"`

	Verdict Verdict `json:"verdict,omitempty"`
	Guard   string  `json:"guard,omitempty"` // that decided, if one did
	Reason  string  `json:"reason"`          // of the last transition, or why there is none yet

	Seen     Seen      `json:"seen"`
	Evidence []Point   `json:"evidence,omitempty"` // over time
	History  []Entry   `json:"history"`            // the latest transitions
	Turn     int       `json:"turn"`               // how many transitions there were
	Looked   time.Time `json:"looked"`             // at the last Observation
}

// Seen is what all looks have found so far.
type Seen struct {
	Counts trial.Counts  `json:"counts"`
	Shadow ShadowCounts  `json:"shadow"`
	Reward evidence.Mean `json:"reward"`
	// Baselines say what is slow, one for each propensity.
	Baselines []Baseline         `json:"baselines,omitempty"`
	Queries   map[string]Queried `json:"queries,omitempty"` // by query
	Outage    Outage             `json:"outage"`
	// Age is for how long the rollout was watched, StepAge the phase while not paused.
	// Both leave out the time between looks beyond maxGap.
	Age     time.Duration `json:"age"`
	StepAge time.Duration `json:"step_age"`
	// Requests the canary had when the step began.
	Before uint64 `json:"before"`
}

// ShadowCounts count copies that the stable version answered.
type ShadowCounts struct {
	Compared  uint64 `json:"compared"`  // the canary answered, too
	Disagreed uint64 `json:"disagreed"` // of these
	Failed    uint64 `json:"failed"`    // the canary could not; copies that were shed are left out
}

// Queried is what a query has said at the last looks.
type Queried struct {
	Value float64 `json:"value"`
	Known bool    `json:"known"` // it had a value
	Above int     `json:"above"` // looks in a row with a value that is too high
}

// Outage is for how long something has been away that the rollout needs.
type Outage struct {
	Looks int           `json:"looks"`
	Since time.Duration `json:"since"` // as Age
	What  string        `json:"what,omitempty"`
}

// Entry is a transition.
type Entry struct {
	Time    time.Time `json:"time"`
	From    Phase     `json:"from"`
	To      Phase     `json:"to"`
	Step    int       `json:"step"`
	Weight  float64   `json:"weight"` // after it
	Verdict Verdict   `json:"verdict,omitempty"`
	Reason  string    `json:"reason"`
	By      string    `json:"by,omitempty"` // empty when the rollout did it by itself
}

// maxHistory bounds the transitions that are kept: more than a rollout has unless
// somebody pauses and resumes it all day. The oldest go.
const maxHistory = 256

// Begin returns a rollout that waits to begin. The spec should be valid.
func Begin(id string, spec Spec, about Subject, now time.Time) State {
	s := State{ID: id, Subject: about, Spec: spec.WithDefaults(), Began: now, Looked: now}
	for _, g := range s.Spec.Guards {
		if g.Metric == Reward {
			s.Seen.Reward.Margin, s.Seen.Reward.WideMargin = g.Margin, g.WideMargin
		}
	}
	return s.to(Pending, turn{reason: "the rollout waits to begin", at: now})
}

// Weight returns the canary's percent of the traffic.
func (s State) Weight() float64 {
	switch {
	case s.Phase == Promoting, s.Phase == Done && s.Verdict == Successful:
		return 100
	case s.Phase == Step, s.Phase == Approval && s.Spec.Strategy != BlueGreen:
		if s.Step >= 0 && s.Step < len(s.Spec.Steps) {
			return s.Spec.Steps[s.Step]
		}
	}
	return 0
}

// Shadowing returns the percent of the stable version's requests that the canary gets
// as copies: in the shadow stage, and for as long as disagreement is guarded against.
func (s State) Shadowing() float64 {
	switch s.Phase {
	case Shadow:
		return s.Spec.Shadow.Percent
	case Step, Approval:
		if s.has(Disagreement) && s.Weight() < 100 {
			return s.Spec.Shadow.Percent
		}
	}
	return 0
}

// turn is why, by whom and when a rollout goes on.
type turn struct {
	reason string
	guard  string
	by     string
	at     time.Time
}

// to goes to a phase, or to a new step of it.
func (s State) to(p Phase, t turn) State {
	from := s.Phase
	s.Phase, s.StepBegan, s.Seen.StepAge = p, t.at, 0
	s.Seen.Before = s.canaryRequests()
	s.Paused, s.PausedBy, s.Verdict = false, "", ""
	return s.note(from, t)
}

// end gives the verdict.
func (s State) end(v Verdict, t turn) State {
	from := s.Phase
	s.Phase, s.Ended = Done, t.at
	s.Paused, s.PausedBy, s.Verdict = false, "", v
	return s.note(from, t)
}

// note says in the history what has just been done.
func (s State) note(from Phase, t turn) State {
	s.Reason, s.Guard = t.reason, t.guard
	s.Turn++
	s.History = append(slices.Clip(s.History), Entry{Time: t.at, From: from, To: s.Phase,
		Step: s.Step, Weight: s.Weight(), Verdict: s.Verdict, Reason: t.reason, By: t.by})
	if extra := len(s.History) - maxHistory; extra > 0 {
		s.History = s.History[extra:]
	}
	return s
}

func (s State) canaryRequests() uint64 {
	n, _ := totals(s.Seen.Counts, requests)
	return n
}

// stepRequests returns how many requests the canary has had in this step.
func (s State) stepRequests() uint64 { return less(s.canaryRequests(), s.Seen.Before) }

// less returns a-b, or 0 where a counter has been lost.
func less(a, b uint64) uint64 { return a - min(a, b) }

// stage says where the rollout is, as in "in step 2 (5 %)".
func (s State) stage(p Phase) string {
	switch p {
	case Shadow:
		return "in shadow"
	case Step:
		weight := 0.0
		if s.Step >= 0 && s.Step < len(s.Spec.Steps) {
			weight = s.Spec.Steps[s.Step]
		}
		return fmt.Sprintf("in step %d (%v %%)", s.Step+1, weight)
	case Approval:
		return "before its approval"
	case Promoting:
		return "at its promotion"
	}
	return "before it began"
}
