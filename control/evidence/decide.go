package evidence

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Verdict is what a look at the evidence says.
type Verdict int

const (
	// Continue means that nothing is decided yet.
	Continue Verdict = iota
	// Promote means that the step is done: go on to the next, or end the rollout.
	Promote
	// RollBack means that the canary is worse.
	RollBack
	// Inconclusive means that a person must decide; the rollout pauses.
	Inconclusive
)

func (v Verdict) String() string {
	names := [...]string{"continue", "promote", "roll back", "inconclusive"}
	if v < 0 || int(v) >= len(names) {
		return fmt.Sprintf("Verdict(%d)", int(v))
	}
	return names[v]
}

// Rule says what a step of a rollout asks for.
type Rule struct {
	// Alpha is the chance that a sound version is rolled back by the guards, all of
	// them together and however often one looks.
	Alpha float64
	// Beta is the chance that a version is promoted although one of its guards is
	// beyond its margin.
	Beta        float64
	MinRequests uint64        // of the canary in this step; at least 1 counts
	MinTime     time.Duration // of this step
	MaxDwell    time.Duration // then Tolerable is enough, or a person decides
}

// mismatchLevel is the chance that a rollout pauses though its split is right. It
// is low because nobody waits for that evidence: a wrong split shows soon.
const mismatchLevel = 0.001

// Validate lists all faults.
func (r Rule) Validate() error {
	var faults []error
	for _, level := range []struct {
		name  string
		value float64
	}{{"alpha", r.Alpha}, {"beta", r.Beta}} {
		if !(level.value > 0 && level.value < 1) {
			faults = append(faults, fmt.Errorf("evidence: %s is %v, must be between 0 and 1",
				level.name, level.value))
		}
	}
	if r.MinTime < 0 || r.MaxDwell <= 0 || r.MaxDwell < r.MinTime {
		faults = append(faults, fmt.Errorf("evidence: a step of %v to %v, must be of some time "+
			"and not end before it may", r.MinTime, r.MaxDwell))
	}
	return errors.Join(faults...)
}

// Guard is one test of a rollout at one look. Its evidence goes back to the
// rollout's beginning, so that its promise holds over all steps.
type Guard struct {
	Name   string // as in "errors"
	Facts  string // as in "canary 31 of 1020 (3.04 %), stable 92 of 9180 (1 %)"
	Weight float64
	// Log e-values: against "the canary is no worse", "it is worse by the margin or
	// more", and the same by the wider margin that will do after MaxDwell.
	Harm, Sound, Tolerable float64
}

// Arms puts what is known of both arms into words for a Guard's Facts.
func Arms(canary, stable fmt.Stringer) string {
	return fmt.Sprintf("canary %v, stable %v", canary, stable)
}

// Look is all that is known of a rollout's step at one moment.
type Look struct {
	Requests uint64        // of the canary in this step
	Elapsed  time.Duration // of this step
	// Hard is what rolls back at once, as in "20 errors in a row".
	Hard []string
	// Guards share Alpha in proportion to their weights, which must be the same at
	// all looks; those without any weight at all share equally.
	Guards []Guard
	// Mismatch is the log e-value against the split being right.
	Mismatch float64
}

// Decision is a verdict and its reason, one sentence for people.
type Decision struct {
	Verdict Verdict
	Guard   string // that was decisive, if one was
	Reason  string
}

// Decide looks at the evidence. In this order:
//
//   - Any hard event rolls back.
//   - A wrong split makes all comparisons void: Inconclusive.
//   - A guard's harm rolls back when E >= 1/(w Alpha), w its share of the weights;
//     so of sound versions Alpha at most are, by the union bound.
//   - When MinRequests and MinTime are over, and for all guards Sound's E >= 1/Beta:
//     Promote. As every guard must show it, Beta is not shared.
//   - After MaxDwell Tolerable will do in Sound's place; without it, or without
//     requests enough: Inconclusive. Nothing is ever promoted on no data.
//
// NaN is no evidence.
func (r Rule) Decide(l Look) Decision {
	if len(l.Hard) > 0 {
		return Decision{RollBack, "", l.Hard[0]}
	}
	if l.Mismatch >= enough(mismatchLevel) {
		return Decision{Inconclusive, "", fmt.Sprintf("requests are not split as the weights say, "+
			"so the arms cannot be compared: a right split shows this at most once in %s rollouts",
			factor(l.Mismatch))}
	}
	for i, level := range shares(l.Guards, r.Alpha) {
		if g := l.Guards[i]; g.Harm >= enough(level) {
			return Decision{RollBack, g.Name, fmt.Sprintf("%s: %s; %s", g.Name, g.Facts,
				chance(g.Harm, level))}
		}
	}
	over := l.Elapsed >= r.MaxDwell
	wait := r.wait(l)
	open := slices.IndexFunc(l.Guards, func(g Guard) bool { return !(g.Sound >= enough(r.Beta)) })
	far := slices.IndexFunc(l.Guards, func(g Guard) bool {
		return !(max(known(g.Sound), known(g.Tolerable)) >= enough(r.Beta))
	})
	switch {
	case wait != "" && over:
		return Decision{Inconclusive, "", wait}
	case wait != "":
		return Decision{Continue, "", wait}
	case open < 0:
		return Decision{Promote, "", r.sound("within its margins", l)}
	case over && far < 0:
		return Decision{Promote, "", r.sound("within its wider margins", l)}
	case over:
		g := l.Guards[far]
		return Decision{Inconclusive, g.Name, fmt.Sprintf("after %v %s", short(l.Elapsed),
			r.unproven(g, max(known(g.Sound), known(g.Tolerable))))}
	}
	g := l.Guards[open]
	return Decision{Continue, g.Name, r.unproven(g, g.Sound)}
}

// wait says what is missing of the least that a step takes, if anything.
func (r Rule) wait(l Look) string {
	switch need := max(r.MinRequests, 1); {
	case l.Requests < need:
		return fmt.Sprintf("the canary has had %d of %d requests in %v", l.Requests, need,
			short(l.Elapsed))
	case l.Elapsed < r.MinTime:
		return fmt.Sprintf("%v of %v have passed", short(l.Elapsed), r.MinTime)
	}
	return ""
}

// sound says what all guards have shown.
func (r Rule) sound(what string, l Look) string {
	text := fmt.Sprintf("after %d requests in %v no guard is set", l.Requests,
		short(l.Elapsed))
	for i, g := range l.Guards {
		if i == 0 {
			text = fmt.Sprintf("the canary is %s after %d requests in %v", what, l.Requests,
				short(l.Elapsed))
		}
		text += fmt.Sprintf("; %s: %s", g.Name, g.Facts)
	}
	return text
}

// short leaves out what people do not read in a duration.
func short(d time.Duration) time.Duration {
	if d >= 10*time.Second {
		return d.Round(time.Second)
	}
	return d.Round(time.Millisecond)
}

// unproven says how far a guard is from showing that the canary is sound.
func (r Rule) unproven(g Guard, logE float64) string {
	return fmt.Sprintf("%s neither clears nor condemns the canary: %s (evidence that it is sound "+
		"is %s, needed is %s)", g.Name, g.Facts, factor(logE), factor(enough(r.Beta)))
}

// chance says how often evidence like this would turn up by mistake.
func chance(logE, level float64) string {
	return fmt.Sprintf("a sound version shows this at most once in %s rollouts, the limit is once "+
		"in %s", factor(logE), factor(enough(level)))
}

// factor shows an e-value given as a logarithm, and none above 1e9.
func factor(logE float64) string {
	if logE > math.Log(1e9) {
		return "1e9"
	}
	return figures(math.Exp(known(logE)))
}

// shares splits a level among guards by their weights.
func shares(guards []Guard, level float64) []float64 {
	each := make([]float64, len(guards))
	sum := 0.0
	for i, g := range guards {
		if g.Weight > 0 && !math.IsInf(g.Weight, 1) {
			each[i] = g.Weight
			sum += g.Weight
		}
	}
	for i := range each {
		if sum == 0 {
			each[i] = level / float64(len(each))
		} else {
			each[i] *= level / sum
		}
	}
	return each
}
