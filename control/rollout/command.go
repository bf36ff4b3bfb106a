package rollout

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// Command is what a person may say to a rollout.
type Command string

const (
	// Pause holds it where it is, with its weight. Harm still rolls back.
	Pause Command = "pause"
	// Resume goes on after a pause. After an inconclusive one the step gets its time anew;
	// a wrong split pauses again at the next look, as no comparison can be believed.
	Resume Command = "resume"
	// Approve says yes where a person is asked.
	Approve Command = "approve"
	// Promote makes the canary the stable version now, without the rest.
	Promote Command = "promote"
	// Abort takes the traffic from the canary for good.
	Abort Command = "abort"
)

// ErrNotNow is returned when a rollout is where a command makes no sense.
var ErrNotNow = errors.New("rollout: not possible now")

// Allowed returns the commands that are possible now.
func (s State) Allowed() []Command {
	hold := Pause
	if s.Paused {
		hold = Resume
	}
	switch s.Phase {
	case Pending:
		return []Command{hold, Abort}
	case Shadow, Step:
		return []Command{hold, Promote, Abort}
	case Approval:
		return []Command{hold, Approve, Promote, Abort}
	}
	return nil
}

// Command does what a person says, or returns ErrNotNow with what is possible. Once a
// rollout is being promoted or is done nothing is, so that of two people who promote
// and abort the first decides, and the other is told.
func (s State) Command(c Command, by string, now time.Time) (State, error) {
	allowed := s.Allowed()
	if !slices.Contains(allowed, c) {
		return s, fmt.Errorf("cannot %s rollout %s: %w; it is %s, possible: %s", c, s.ID, ErrNotNow,
			s.condition(), words(allowed))
	}
	by = cmp.Or(by, "somebody")
	t := turn{by: by, at: now}
	switch c {
	case Pause:
		t.reason = fmt.Sprintf("paused by %s", by)
		return s.pause(t, ""), nil
	case Resume:
		t.reason = fmt.Sprintf("resumed by %s", by)
		if s.Verdict == Inconclusive {
			s.Seen.StepAge = 0
		}
		s.Paused, s.PausedBy, s.Verdict = false, "", ""
		return s.note(s.Phase, t), nil
	case Approve:
		t.reason = fmt.Sprintf("approved by %s", by)
		if s.Spec.Strategy == BlueGreen {
			return s.to(Step, t), nil
		}
		return s.to(Promoting, t), nil
	case Promote:
		t.reason = fmt.Sprintf("%s promoted it %s", by, s.stage(s.Phase))
		return s.to(Promoting, t), nil
	}
	t.reason = fmt.Sprintf("%s aborted it %s", by, s.stage(s.Phase))
	return s.end(Failed, t), nil
}

// condition says where the rollout is, for the one whose command is refused.
func (s State) condition() string {
	switch {
	case s.Phase == Done:
		return fmt.Sprintf("done (%s)", s.Verdict)
	case s.Paused:
		return fmt.Sprintf("paused in phase %s", s.Phase)
	}
	return fmt.Sprintf("in phase %s", s.Phase)
}

func words(commands []Command) string {
	if len(commands) == 0 {
		return "a new rollout"
	}
	text := make([]string, len(commands))
	for i, c := range commands {
		text[i] = string(c)
	}
	return strings.Join(text, ", ")
}
