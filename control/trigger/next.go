package trigger

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// What an error of a Pipeline wraps says how the run goes on. One that wraps none of
// these says that the call did not get through, and may be made again.
var (
	// ErrRefused is wrapped when it is of no use to start the run as it is.
	ErrRefused = errors.New("trigger: refused")
	// ErrUncertain is wrapped when the run may have started, or not.
	ErrUncertain = errors.New("trigger: nobody knows whether it has started")
	// ErrGone is wrapped when a run is not known there.
	ErrGone = errors.New("trigger: the run is not known there")
)

// Pipeline starts runs elsewhere. Its methods may be called concurrently. The texts of
// its errors hold no secrets.
type Pipeline interface {
	// Start starts a run under its Name, or finds that it has started before: then that
	// is no error. The Status has External.
	Start(ctx context.Context, r Run) (Status, error)
	// Status looks at a run by its External, and by its Name as long as it has none: then
	// the Status has External, or the error is ErrGone.
	Status(ctx context.Context, r Run) (Status, error)
	// Cancel asks to end a run; it may be asked again, more firmly. Status shows when it
	// has ended.
	Cancel(ctx context.Context, external string) error
}

// Status is how a run does elsewhere. Texts that are empty leave the Run's as they are.
type Status struct {
	State    State // Running, Succeeded, Failed or Cancelled
	External string
	Link     string
	Logs     string // their end
	Detail   string // for people: why it failed, or waits
}

// Fault is an error of a Pipeline that knows more.
type Fault struct {
	Kind       error // ErrRefused, ErrUncertain, ErrGone or nil
	Text       string
	RetryAfter time.Duration // how long the server asks to be left alone; 0 when it does not
}

func (f *Fault) Error() string {
	if f.Kind == nil {
		return f.Text
	}
	return f.Kind.Error() + ": " + f.Text
}

// Unwrap returns the kind.
func (f *Fault) Unwrap() error { return f.Kind }

// Action is what is to be done for a run.
type Action string

// The actions.
const (
	Wait  Action = "wait" // nothing; until Run.Due, or for ever when the run has ended
	Start Action = "start"
	Look  Action = "look"
	End   Action = "end" // Cancel, and look
)

// Observation is what came of an action.
type Observation struct {
	Action Action
	Status Status
	Err    error
	Jitter float64 // random, 0 to 1, for the pause after an error
}

// Act does what Turn says, at the pipeline. The caller adds the Jitter.
func Act(ctx context.Context, p Pipeline, r Run, a Action) Observation {
	o := Observation{Action: a}
	switch a {
	case Start:
		o.Status, o.Err = p.Start(ctx, r)
	case Look:
		o.Status, o.Err = p.Status(ctx, r)
	case End:
		err := p.Cancel(ctx, r.External)
		o.Status, o.Err = p.Status(ctx, r)
		if o.Err == nil && !o.Status.State.Done() {
			o.Err = err
		}
	}
	return o
}

// Turn says what is to be done now. The Run that it returns has to be stored before
// that is done.
func (r Run) Turn(now time.Time) (Run, Action) {
	if r.Calling { // who called has died before it knew more
		r = r.Next(Observation{Action: Start, Err: &Fault{Kind: ErrUncertain,
			Text: "millrace was ended during the call"}}, now)
	}
	if r.State.Done() || now.Before(r.Due) {
		return r, Wait
	}
	if r.State == Running {
		return r.follow(now)
	}
	late := !r.Called.IsZero() && now.Sub(r.Called) > r.Spec.StartTimeout
	switch {
	case late:
		return r.giveUp(fmt.Sprintf("it could not be started within %v (start_timeout): %s",
			r.Spec.StartTimeout, r.Error), now), Wait
	case r.Stop != "":
		return r.end(Lost, r.Stop+" while nobody knew whether it had started", now), Wait
	case now.Before(r.Settles):
		return r, Look
	}
	if r.Called.IsZero() {
		r.Called = now
	}
	r.State, r.Calling = Starting, true
	r.Calls++
	return r, Start
}

// follow says what is to be done for a run that is running.
func (r Run) follow(now time.Time) (Run, Action) {
	if r.Stop == "" && now.Sub(r.Started) > r.Spec.RunTimeout {
		r.Stop = fmt.Sprintf("it has not ended within %v (run_timeout)", r.Spec.RunTimeout)
		r.StopBegan = now
	}
	switch {
	case r.Stop == "":
		return r, Look
	case now.Sub(r.StopBegan) > r.Spec.CancelTimeout:
		return r.end(Lost, fmt.Sprintf("%s, and could not be ended within %v (cancel_timeout)%s",
			r.Stop, r.Spec.CancelTimeout, afterColon(r.Error)), now), Wait
	}
	return r, End
}

// giveUp ends a run that was not started, or may have been.
func (r Run) giveUp(why string, now time.Time) Run {
	switch {
	case r.Uncertain:
		return r.end(Lost, why, now)
	case r.StopBy != "":
		return r.end(Cancelled, r.Stop, now)
	}
	return r.end(Failed, why, now)
}

// Next takes what came of an action. What comes after the run's end changes nothing.
func (r Run) Next(o Observation, now time.Time) Run {
	switch {
	case r.State.Done():
		return r
	case o.Action == Start && r.State != Running:
		return r.started(o, now)
	case o.Action == Look && r.State == Starting:
		return r.sought(o, now)
	case (o.Action == Look || o.Action == End) && r.State == Running:
		return r.looked(o, now)
	}
	return r
}

// started takes what came of a call of Start.
func (r Run) started(o Observation, now time.Time) Run {
	r.Calling = false
	if o = o.identified(); o.Err == nil {
		return r.taken(o.Status, now)
	}
	unsure := errors.Is(o.Err, ErrUncertain)
	r.Uncertain = r.Uncertain || unsure
	why := o.Err.Error()
	switch {
	case r.StopBy != "" && r.Uncertain:
		return r.giveUp(r.Stop+" while nobody knew whether it had started: "+why, now)
	case r.StopBy != "", errors.Is(o.Err, ErrRefused), errors.Is(o.Err, ErrGone):
		return r.giveUp(why, now)
	case unsure && r.Spec.Guarantee == Blind:
		return r.giveUp(why+"; look there, and retry it if it has not", now)
	}
	if unsure && r.Spec.Guarantee == Finds {
		// It is looked for at once, and with growing pauses until it would be there for sure.
		r.Settles, r.Faults = now.Add(r.Spec.Settle), 0
	}
	r = r.delay(o, 0, now)
	if !r.Uncertain {
		r.State = Pending
	}
	return r
}

// identified makes an error of a run that cannot be found again.
func (o Observation) identified() Observation {
	if n := len(o.Status.External); o.Err == nil && (n == 0 || n > maxExternal) {
		o.Err = &Fault{Kind: ErrUncertain,
			Text: fmt.Sprintf("it was taken, with an id of %d bytes", n)}
	}
	return o
}

// taken goes on with a run that is there.
func (r Run) taken(s Status, now time.Time) Run {
	r.State, r.Started, r.Due = Running, now, now.Add(r.Spec.Poll)
	r.Error, r.Faults, r.Uncertain, r.Settles = "", 0, false, time.Time{}
	if r.Stop != "" || s.State.Done() {
		r.Due = now
	}
	return r.learn(s)
}

// sought takes what came of a look for a run that may have started.
func (r Run) sought(o Observation, now time.Time) Run {
	if o = o.identified(); o.Err == nil {
		return r.taken(o.Status, now)
	}
	why := r.Error
	r = r.delay(o, 0, now)
	if errors.Is(o.Err, ErrGone) {
		r.Error = why // why it is looked for says more
		if r.Due.After(r.Settles) {
			r.Due = r.Settles
		}
	}
	return r
}

// maxMisses is how many looks in a row may not find a run before it counts as lost: one
// may ask a replica that lags behind.
const maxMisses = 3

// looked takes what came of a look.
func (r Run) looked(o Observation, now time.Time) Run {
	if o.Err == nil && o.Status.State != Running && o.Status.State != Succeeded &&
		o.Status.State != Failed && o.Status.State != Cancelled {
		o.Err = &Fault{Text: fmt.Sprintf("its state there, %.40q, makes no sense", o.Status.State)}
	}
	if errors.Is(o.Err, ErrGone) {
		if r.Misses++; r.Misses >= maxMisses {
			return r.end(Lost, o.Err.Error()+afterColon(r.Stop), now)
		}
	}
	if o.Err != nil {
		return r.delay(o, r.Spec.Poll, now)
	}
	r.Faults, r.Misses = 0, 0
	r.Error, r.Due = clip(o.Status.Detail, maxText), now.Add(r.Spec.Poll)
	r = r.learn(o.Status)
	switch s := o.Status.State; {
	case s == Running:
		return r
	case s == Succeeded:
		return r.end(Succeeded, "", now)
	case r.StopBy != "":
		return r.end(Cancelled, r.Stop, now)
	case r.Stop != "":
		return r.end(Failed, r.Stop+" and was cancelled", now)
	default:
		return r.end(s, o.Status.Detail, now)
	}
}

// maxRetryAfter bounds how long a server may ask to be left alone.
const maxRetryAfter = time.Hour

// delay waits after an error, at least as long as the server asks.
func (r Run) delay(o Observation, least time.Duration, now time.Time) Run {
	r.Faults++
	r.Error = clip(o.Err.Error(), maxText)
	pause := max(least, r.Spec.pause(r.Faults, o.Jitter))
	if f, ok := errors.AsType[*Fault](o.Err); ok {
		pause = max(pause, min(f.RetryAfter, maxRetryAfter))
	}
	r.Due = now.Add(pause)
	return r
}

// Bounds of what others have written, in bytes.
const (
	maxText     = 2 << 10
	maxEvidence = 8 << 10
	maxLogs     = 16 << 10
	maxExternal = 512
	maxLink     = 2 << 10
)

// learn takes what a Status tells anew.
func (r Run) learn(s Status) Run {
	if s.External != "" && len(s.External) <= maxExternal {
		r.External = s.External
	}
	web := strings.HasPrefix(s.Link, "https://") || strings.HasPrefix(s.Link, "http://")
	if web && len(s.Link) <= maxLink {
		r.Link = s.Link
	}
	if s.Logs != "" {
		r.Logs = strings.ToValidUTF8(s.Logs[max(0, len(s.Logs)-maxLogs):], "")
	}
	return r
}

// clip shortens a text to so many bytes.
func clip(text string, most int) string {
	if len(text) <= most {
		return text
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
