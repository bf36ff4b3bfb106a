package rollout

import (
	"fmt"
	"strconv"
	"strings"
)

// Sentence says in one sentence, with its numbers, where the rollout stands, for a
// person on call.
func (s State) Sentence() string {
	who := "version " + s.Canary.Version
	text := ""
	switch {
	case s.Phase == Done:
		text = fmt.Sprintf("%s %s", who, s.outcome())
	case s.Verdict == Inconclusive:
		text = fmt.Sprintf("%s waits for a person %s, with %v %% of the traffic (%s)", who,
			s.stage(s.Phase), s.Weight(), words(s.Allowed()))
	case s.Paused:
		text = fmt.Sprintf("%s is paused %s, with %v %% of the traffic", who, s.stage(s.Phase),
			s.Weight())
	case s.Phase == Pending:
		text = fmt.Sprintf("%s has not begun beside %s", who, s.Stable.Version)
	case s.Phase == Approval:
		text = fmt.Sprintf("%s waits for approval, with %v %% of the traffic", who, s.Weight())
	case s.Phase == Promoting:
		text = fmt.Sprintf("%s is being promoted in place of %s", who, s.Stable.Version)
	default:
		text = fmt.Sprintf("%s is tried beside %s %s, after %s", who, s.Stable.Version,
			s.stage(s.Phase), s.work(s.Phase))
	}
	return text + ": " + strings.TrimSuffix(s.Reason, ".") + "."
}

// outcome says how a rollout ended.
func (s State) outcome() string {
	var last Entry
	if n := len(s.History); n > 0 {
		last = s.History[n-1]
	}
	switch {
	case s.Verdict == Successful:
		return fmt.Sprintf("was promoted after %s of its requests", thousands(s.canaryRequests()))
	case s.Verdict == Errored:
		return fmt.Sprintf("was taken back %s, as nothing could be decided", s.stage(last.From))
	case last.By != "":
		return fmt.Sprintf("was taken back after %s", s.work(last.From))
	}
	return fmt.Sprintf("was rolled back after %s %s", s.work(last.From), s.stage(last.From))
}

// work says what the canary has done in a phase.
func (s State) work(p Phase) string {
	if p == Shadow {
		return thousands(s.Seen.Shadow.Compared+s.Seen.Shadow.Failed) + " copies of requests"
	}
	return thousands(s.stepRequests()) + " of its requests"
}

// thousands shows a number as in "1,020".
func thousands(n uint64) string {
	text := strconv.FormatUint(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
