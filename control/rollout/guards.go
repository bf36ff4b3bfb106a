package rollout

import (
	"fmt"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/control/evidence"
	"github.com/millrace-ml/millrace/gateway/route/trial"
)

// reading is what a guard finds at a look: its evidence, and the two numbers that it
// compares, for plots.
type reading struct {
	evidence.Guard
	canary, stable float64
}

// nonFinite is the guard that each rollout has beside those of its spec: against
// answers with a NaN or an infinity. It asks for no sound evidence.
const (
	nonFinite       = "non_finite"
	nonFiniteWeight = 0.25 // of the budget; such answers come in great numbers or not at all
	nonFiniteHard   = 20   // answers that roll back when the stable version has none
)

// hardShare is the share of the level that two tests have which belong to no guard: whether
// a row of errors, and answers that are not finite, are the canary's own.
const hardShare = 0.1

// unasked is sound evidence where none is asked for.
var unasked = math.Inf(1)

// rule is that of the stage under way.
func (s State) rule() evidence.Rule {
	level := 1 - s.Spec.Confidence
	r := evidence.Rule{Alpha: level * (1 - hardShare), Beta: level,
		MinRequests: s.Spec.Step.MinRequests, MinTime: s.Spec.Step.MinTime,
		MaxDwell: s.Spec.Step.MaxTime}
	if s.Phase == Shadow {
		r.MinRequests = s.Spec.Shadow.Requests
	}
	return r
}

// look returns all that is known, and which guard is to blame for its first hard event.
// All guards are in it at each look, as their shares of the level must stay the same.
func (s State) look() (l evidence.Look, blame string) {
	l = evidence.Look{Requests: s.stepRequests(), Elapsed: s.Seen.StepAge,
		Mismatch: tally(s.Seen.Counts, picked).Mismatch()}
	if s.Phase == Shadow {
		l.Requests = s.Seen.Shadow.Compared
	}
	for i, r := range s.readings() {
		if i == len(s.Spec.Guards) || !s.asks(s.Spec.Guards[i].Metric) {
			r.Sound, r.Tolerable = unasked, unasked
		}
		l.Guards = append(l.Guards, r.Guard)
	}
	for _, h := range s.hard() {
		l.Hard = append(l.Hard, h.reason)
		if blame == "" {
			blame = h.guard
		}
	}
	return l, blame
}

// asks says whether sound evidence can come, and must, in this stage: at 100 percent
// there is nothing to compare with, and in shadow the canary answers nobody.
func (s State) asks(metric string) bool {
	switch metric {
	case Prometheus:
		return s.Phase != Shadow
	case Disagreement:
		return s.Phase == Shadow || s.Spec.Strategy == Canary
	}
	return s.Phase != Shadow && s.Spec.Strategy == Canary
}

// hard returns what rolls back at once.
func (s State) hard() (found []turn) {
	c := s.Seen.Counts
	if c.Row >= s.Spec.ErrorsInRow && c.Row > 0 && s.standsOut(tally(c, failed)) {
		found = append(found, turn{guard: Errors,
			reason: fmt.Sprintf("%d errors in a row", c.Row)})
	}
	if n, m := totals(c, notFinite); n >= nonFiniteHard && m == 0 &&
		s.standsOut(tally(c, notFinite)) {
		found = append(found, turn{guard: nonFinite, reason: fmt.Sprintf(
			"%d answers with a NaN or an infinity, none of the stable version", n)})
	}
	if n := s.canaryRequests(); c.Fallbacks >= s.Spec.ErrorsInRow && c.Fallbacks > n {
		found = append(found, turn{guard: Errors, reason: fmt.Sprintf("the canary could not serve "+
			"%d of %d requests, which the stable version answered", c.Fallbacks, c.Fallbacks+n)})
	}
	if w := s.Seen.Shadow; w.Failed >= s.Spec.ErrorsInRow && w.Failed > w.Compared {
		found = append(found, turn{guard: Errors, reason: fmt.Sprintf("%d of %d copies failed "+
			"that the stable version answered", w.Failed, w.Failed+w.Compared)})
	}
	for _, g := range s.Spec.Guards {
		if q := s.Seen.Queries[g.Query]; g.Metric == Prometheus && q.Above >= aboveLooks {
			found = append(found, turn{guard: g.Name(), reason: fmt.Sprintf(
				"%s: %.4g, above %.4g at %d looks in a row", g.Name(), q.Value, g.Max, q.Above)})
		}
	}
	return found
}

// standsOut says whether events are the canary's own, not those of an outage that both
// arms have. Where no stable version is beside it, they are.
func (s State) standsOut(t evidence.Tally) bool {
	return s.Weight() == 100 || t.Harm() >= -math.Log((1-s.Spec.Confidence)*hardShare/2)
}

// readings reads the guards of the spec in their order, and at the end nonFinite.
func (s State) readings() []reading {
	all := make([]reading, 0, len(s.Spec.Guards)+1)
	canary, stable := s.Seen.Counts.Arms()
	for i, g := range s.Spec.Guards {
		var r reading
		switch g.Metric {
		case Errors:
			r = s.errors(g, rate(canary), rate(stable))
		case Latency:
			r = s.latency(i, canary.Latency, stable.Latency)
		case Disagreement:
			r = s.disagreement(g)
		case Reward:
			r = s.reward()
		case Prometheus:
			r = s.query(g)
		}
		r.Name, r.Weight = g.Name(), g.Weight
		all = append(all, r)
	}
	c, b := totals(s.Seen.Counts, notFinite)
	return append(all, reading{Guard: evidence.Guard{
		Name: nonFinite, Weight: nonFiniteWeight, Harm: tally(s.Seen.Counts, notFinite).Harm(),
		Facts: fmt.Sprintf("canary %d, stable %d", c, b),
	}, canary: float64(c), stable: float64(b)})
}

// errors is sound when the canary's are within a margin of the stable version's or
// below an allowed rate: where they are rare, only the second can be shown; where the
// stable version has many, only the first. Copies that only the canary failed on speak
// against it where they are more than a share of the allowed rate: the stable version
// has answered each of them.
func (s State) errors(g GuardSpec, canary, stable evidence.Rate) reading {
	t := tally(s.Seen.Counts, failed)
	harm, facts := t.Harm(), evidence.Arms(canary, stable)
	if copies := s.copies(); copies.N() > 0 {
		harm = evidence.Average(harm, copies.Harm(g.Max*copyShare))
		if copies.Bad > 0 {
			facts += fmt.Sprintf("; %v of the copies failed", copies)
		}
	}
	sound := func(margin, allowed float64) float64 {
		return evidence.Average(t.Sound(margin), canary.Sound(allowed))
	}
	return reading{Guard: evidence.Guard{
		Facts: facts, Harm: harm, Sound: sound(g.Margin, g.Max),
		Tolerable: sound(g.WideMargin, widened(g)),
	}, canary: share(canary), stable: share(stable)}
}

// widened is the rate that will do after MaxTime.
func widened(g GuardSpec) float64 { return min(g.Max*(1+g.WideMargin), (1+g.Max)/2) }

// copyShare is the part of the allowed rate of errors that copies may fail at. With the
// default it is 0.5 %, which lets a run be stopped for other reasons now and then.
const copyShare = 0.25

// copies are those that the canary failed on and those that it has answered.
func (s State) copies() evidence.Rate {
	return evidence.Rate{Bad: s.Seen.Shadow.Failed, Good: s.Seen.Shadow.Compared}
}

// disagreement counts a copy that the canary could not answer as answered otherwise
// where no other guard looks at errors.
func (s State) disagreement(g GuardSpec) reading {
	w := s.Seen.Shadow
	r := evidence.Rate{Bad: w.Disagreed, Good: less(w.Compared, w.Disagreed)}
	if !slices.ContainsFunc(s.Spec.Guards, func(g GuardSpec) bool { return g.Metric == Errors }) {
		r.Bad += w.Failed
	}
	return reading{Guard: evidence.Guard{
		Facts: fmt.Sprintf("%v of the copies", r), Harm: r.Harm(g.Max),
		Sound: r.Sound(g.Max), Tolerable: r.Sound(widened(g)),
	}, canary: share(r)}
}

func (s State) reward() reading {
	m := s.Seen.Reward
	mean := func(s evidence.Sum) float64 { return s.Reward / float64(max(s.N, 1)) }
	return reading{Guard: evidence.Guard{
		Facts: evidence.Arms(m.Canary, m.Stable), Harm: m.Harm(), Sound: m.Sound(),
		Tolerable: m.Tolerable(),
	}, canary: mean(m.Canary), stable: mean(m.Stable)}
}

// query holds a value against its limit. It has no evidence in the sense of the others.
func (s State) query(g GuardSpec) reading {
	q := s.Seen.Queries[g.Query]
	r := reading{Guard: evidence.Guard{Facts: "no data"}, canary: q.Value, stable: g.Max}
	if q.Known {
		r.Facts = fmt.Sprintf("%.4g, allowed is %.4g", q.Value, g.Max)
	}
	if q.Known && q.Above == 0 {
		r.Sound, r.Tolerable = unasked, unasked
	}
	return r
}

// What tallies count.
func requests(a *trial.Arm) uint64  { return a.Requests }
func failed(a *trial.Arm) uint64    { return a.Errors }
func notFinite(a *trial.Arm) uint64 { return a.NonFinite }
func picked(a *trial.Arm) uint64    { return a.Picked }

func tally(c trial.Counts, of func(*trial.Arm) uint64) (t evidence.Tally) {
	for i := range c.Cells {
		k := &c.Cells[i]
		t.Add(evidence.Cell{Rho: k.Rho, Canary: of(&k.Canary), Stable: of(&k.Stable)})
	}
	return t
}

// totals returns how many of both arms there were, also where there was no choice.
func totals(c trial.Counts, of func(*trial.Arm) uint64) (canary, stable uint64) {
	for i := range c.Cells {
		canary += of(&c.Cells[i].Canary)
		stable += of(&c.Cells[i].Stable)
	}
	return canary, stable
}

// rate returns an arm's errors. Where users stick to their arm these are users who had
// one, of all users, which is more than the share of requests and never too little.
func rate(a trial.Arm) evidence.Rate {
	return evidence.Rate{Bad: a.Errors, Good: less(min(a.Requests, a.Picked), a.Errors)}
}

func share(r evidence.Rate) float64 { return float64(r.Bad) / float64(max(r.N(), 1)) }
