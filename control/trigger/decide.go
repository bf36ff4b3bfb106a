package trigger

import (
	"fmt"
	"slices"
	"time"
)

// Decide makes a run of an event, and says whether it is new. It is Pending when it is
// to start; else it is Suppressed, its Error says why, and its Due from when on it is worth
// deciding anew, if it is. An event that has its run already gets that one. One
// whose run was suppressed is decided anew, in its place.
//
// History are the trigger's runs in any order: at least those that have not ended, those
// of the last day, and the last MaxFailures. What a person asks for need not wait for
// the cooldown, nor after failures.
func Decide(history []Run, e Event, spec Spec, now time.Time) (r Run, fresh bool) {
	id := ID(spec.Trigger, e.ID)
	for _, h := range history {
		if h.ID == id && h.State != Suppressed {
			return h, false
		}
	}
	r = Run{ID: id, Trigger: spec.Trigger, Event: clip(e.ID, maxText),
		Reason: clip(e.Reason, maxText), By: clip(e.By, maxText), Context: e.Context.bounded(),
		Spec: spec, State: Pending, Attempts: 1, Began: now, Due: now}
	if why, until := spec.refusal(history, e.By != "", now); why != "" {
		r = r.end(Suppressed, why, now)
		r.Due = until
	}
	return r, true
}

// day is what the daily budget is for.
const day = 24 * time.Hour

// refusal says why nothing is to start now, and from when on it is worth asking again: at
// once where a run has to end first, never where a person has to say so. It is empty when a
// run may start.
func (s Spec) refusal(history []Run, byPerson bool, now time.Time) (why string, until time.Time) {
	var active int
	var last time.Time // a run ended
	var starts []time.Time
	for _, h := range history {
		switch {
		case h.State == Suppressed:
			continue
		case !h.State.Done():
			active++
		case !h.Called.IsZero() && h.Ended.After(last):
			last = h.Ended
		}
		for _, at := range append(slices.Clip(h.Earlier), h.Began) {
			if now.Sub(at) < day {
				starts = append(starts, at)
			}
		}
	}
	ready := last.Add(s.Cooldown)
	halted := s.Halted(history)
	switch {
	case s.Stopped:
		return "the trigger is stopped", time.Time{}
	case active >= s.MaxRuns:
		return fmt.Sprintf("%d of its runs have not ended; %d at once are allowed (max_runs)",
			active, s.MaxRuns), now
	case !byPerson && !last.IsZero() && now.Before(ready):
		return fmt.Sprintf("the last run ended %v ago; %v must pass (cooldown)",
			now.Sub(last).Round(time.Second), s.Cooldown), ready
	case !byPerson && halted != "":
		return halted, time.Time{}
	case len(starts) >= s.DailyBudget:
		slices.SortFunc(starts, time.Time.Compare)
		return fmt.Sprintf("%d runs began within a day; %d are allowed (daily_budget)",
				len(starts), s.DailyBudget),
			starts[len(starts)-s.DailyBudget].Add(day)
	case s.DryRun:
		return "it would start, but this is a dry run", time.Time{}
	}
	return "", time.Time{}
}

// Halted says why only a person may start more after these runs; it is empty while that is not so.
func (s Spec) Halted(history []Run) string {
	failures, fault := failed(history)
	if failures < s.MaxFailures {
		return ""
	}
	return fmt.Sprintf("%d runs in a row have failed (max_failures), the last one: %s; find out "+
		"why, and then start one by hand", failures, fault)
}

// failed counts the latest runs that did not succeed, up to one that a person has asked
// for, and returns what is known of the last.
func failed(history []Run) (n int, fault string) {
	runs := slices.Clone(history)
	slices.SortStableFunc(runs, func(a, b Run) int { return b.Began.Compare(a.Began) })
	for _, r := range runs {
		switch r.State {
		case Succeeded:
			return n, fault
		case Failed, Lost:
			if n++; n == 1 {
				fault = r.Error
			}
			if r.By != "" {
				return n, fault
			}
		}
	}
	return n, fault
}
