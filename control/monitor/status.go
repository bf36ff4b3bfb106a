package monitor

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift"
)

// State is how things stand with a monitor.
type State string

// The states of a monitor. An alarm is on in StateAlarm and StateAcknowledged.
const (
	StateLearning     State = "learning"  // the reference is read or learned
	StateCounting     State = "counting"  // another server judges what is counted here
	StateOK           State = "ok"        // rows are as in the reference
	StateSuspected    State = "suspected" // some evidence of drift, not enough for an alarm
	StateAlarm        State = "alarm"
	StateAcknowledged State = "acknowledged" // a person has seen the alarm
	StateResolved     State = "resolved"     // the last alarm is over, nothing has come since
	StateError        State = "error"        // it cannot watch; the reason says what to do
)

// States lists all states.
func States() []State {
	return []State{StateLearning, StateCounting, StateOK, StateSuspected, StateAlarm,
		StateAcknowledged, StateResolved, StateError}
}

// Firing says whether an alarm is on.
func (s State) Firing() bool { return s == StateAlarm || s == StateAcknowledged }

// Subject is what a monitor watches.
type Subject struct {
	Endpoint string `json:"endpoint"`
	Model    string `json:"model"`
	Version  string `json:"version"`
}

// Status is what people see of a monitor, and what is stored of it.
type Status struct {
	Subject
	State  State     `json:"state"`
	Since  time.Time `json:"since,omitzero"` // of the state
	Reason string    `json:"reason,omitempty"`
	// Reference says what rows are held against.
	Reference string  `json:"reference,omitempty"`
	Threshold float64 `json:"threshold"`         // evidence of an alarm
	Skipped   uint64  `json:"skipped,omitempty"` // rows of other versions
	Alarms    int     `json:"alarms,omitempty"`  // that there were
	Alarm     string  `json:"alarm,omitempty"`   // the record of the last
	Kinds     []Kind  `json:"kinds,omitempty"`   // of that alarm: what raised it is the first
	Quiet     uint64  `json:"quiet,omitempty"`   // ticks without enough evidence that end the alarm
	Last      Reading `json:"last"`
	// Sent is when the judge has taken counts last, where it is another server. Replicas are those
	// that have sent counts here, the one that was heard last the first.
	Sent     time.Time `json:"sent,omitzero"`
	Replicas []Replica `json:"replicas,omitempty"`
	Events   []Event   `json:"events,omitempty"` // the latest last
}

// Replica is a server whose counts are judged here.
type Replica struct {
	ID       string    `json:"id"`
	Sequence uint64    `json:"sequence"` // of the last counts that were taken
	Heard    time.Time `json:"heard"`
	Rows     uint64    `json:"rows"` // that were taken
}

// Event is something that happened to a monitor.
type Event struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
}

// maxEvents bounds the events of a monitor.
const maxEvents = 30

// Alarm is the record of an alarm. What is not known yet is zero.
type Alarm struct {
	Subject
	Monitor      string    `json:"monitor"`
	Number       int       `json:"number"`
	Kind         Kind      `json:"kind"`
	Reason       string    `json:"reason"`
	Began        time.Time `json:"began"` // when the drift has begun, about
	Raised       time.Time `json:"raised"`
	Acknowledged time.Time `json:"acknowledged,omitzero"`
	By           string    `json:"by,omitempty"` // who has acknowledged it
	Resolved     time.Time `json:"resolved,omitzero"`
	Resolution   string    `json:"resolution,omitempty"`
	Threshold    float64   `json:"threshold"`
	Reading      Reading   `json:"reading"` // that raised it
	// What others know: when Alertmanager has taken the alarm and its end, and how far the run
	// of MLflow is; each is tried again until then.
	Alerted time.Time `json:"alerted,omitzero"`
	Ended   time.Time `json:"ended,omitzero"`
	Logged  string    `json:"logged,omitempty"` // "raised" or "resolved"
	Error   string    `json:"error,omitempty"`  // of the last try
}

// ErrNotNow is wrapped when a command makes no sense in a state.
var ErrNotNow = errors.New("monitor: not possible now")

// enter goes to a state. One that is as it was stays as old as it is.
func (s *Status) enter(state State, now time.Time, reason string) {
	if s.State != state {
		s.Since = now
		text := string(state)
		if s.State != "" {
			text = fmt.Sprintf("%s after %s", state, s.State)
		}
		if reason != "" {
			text += ": " + reason
		}
		s.Events = append(slices.Clip(s.Events), Event{now, text})
		s.Events = s.Events[max(0, len(s.Events)-maxEvents):]
	}
	s.State, s.Reason = state, reason
}

// Begin returns the status of a monitor that is to watch something else from now on, or by other
// rules. An alarm that is on ends.
func (s Status) Begin(of Subject, threshold float64, now time.Time, why string) Status {
	if s.State.Firing() {
		s.enter(StateResolved, now, why)
	}
	s.Subject, s.Threshold, s.Reference, s.Last = of, threshold, "", Reading{}
	s.Skipped, s.Quiet, s.Sent, s.Replicas = 0, 0, time.Time{}, nil
	s.enter(StateLearning, now, "the reference is read")
	return s
}

// Wait returns the status of a monitor that cannot watch yet.
func (s Status) Wait(now time.Time, why string) Status {
	s.enter(StateLearning, now, why)
	return s
}

// Count returns the status of a monitor whose counts another server judges.
func (s Status) Count(r Reading, why string) Status {
	s.Last = r
	s.enter(StateCounting, r.Time, why)
	return s
}

// Fail returns the status of a monitor that cannot watch. An alarm stays on.
func (s Status) Fail(now time.Time, why string) Status {
	if s.State.Firing() {
		s.Reason = why
		return s
	}
	s.enter(StateError, now, why)
	return s
}

// An alarm ends by itself after some ticks, and some times those that the drift took to be seen,
// in which it would have been seen again. A weak drift may be seen late once: an alarm that comes
// back soon takes longer to end each time, so that there are few of them however long it lasts.
const leastQuiet, quietDelays, quietAgain, soon = 60, 20, 4, 10

// quiet is how many ticks without enough evidence end the alarm that a reading raises.
func (s *Status) quiet(c Config, r Reading) uint64 {
	n := quietDelays * r.Delay
	if r.Ticks < soon*s.Quiet {
		n = max(n, quietAgain*s.Quiet)
	}
	return max(leastQuiet, min(n, uint64(c.Every)))
}

// Next returns the status after a reading, and whether the evidence is to begin anew since it was
// enough for an alarm. An alarm that is on is not raised again.
func (s Status) Next(c Config, r Reading) (next Status, restart bool) {
	s.Last = r
	enough := r.Evidence >= c.Every
	switch {
	case r.Learn > 0:
		s.enter(StateLearning, r.Time, fmt.Sprintf("%d of %d rows for the reference have come",
			r.Learned, r.Learn))
	case s.State.Firing():
		s.follow(c, r)
	case enough:
		s.Alarms++
		s.Kinds = []Kind{r.Kind}
		s.Quiet = s.quiet(c, r)
		s.enter(StateAlarm, r.Time, c.Reason(r))
	case r.Evidence >= c.Suspicion():
		s.enter(StateSuspected, r.Time, c.Reason(r))
	case s.State == StateSuspected && r.Evidence >= c.calm():
		s.Reason = c.Reason(r)
	case s.State != StateResolved || r.ticks(s.Kinds) > s.Quiet:
		s.enter(StateOK, r.Time, "")
	}
	return s, enough
}

// noLabels begins what is added to the reason of an alarm while it cannot be told whether it is
// over.
const noLabels = "; no labels since "

// follow goes on with an alarm that is on. Worse answers are not over because nobody says any more
// how good they are: after as many ticks of rows as end an alarm at the earliest, the reason says
// so.
func (s *Status) follow(c Config, r Reading) {
	s.Reason, _, _ = strings.Cut(s.Reason, noLabels)
	enough := r.Evidence >= c.Every
	if n := r.ticks(s.Kinds); !enough && n >= s.Quiet {
		s.enter(StateResolved, r.Time, fmt.Sprintf(
			"in %d ticks the evidence has not come back", n))
		return
	}
	if enough && !slices.Contains(s.Kinds, r.Kind) {
		s.Kinds = append(slices.Clip(s.Kinds), r.Kind)
		s.enter(s.State, r.Time, s.Reason+"; later "+c.Reason(r))
	}
	p := r.Performance
	if p != nil && p.Silent >= leastQuiet && slices.Contains(s.Kinds, KindPerformance) {
		s.Reason += noLabels + p.Latest.UTC().Format(time.RFC3339) +
			": it cannot be told whether it is over"
	}
}

// ticks is how many ticks the evidence of some kinds is of: that which has the fewest.
func (r *Reading) ticks(kinds []Kind) uint64 {
	least, known := r.Ticks, false
	for _, s := range r.Strands {
		if slices.Contains(kinds, s.Kind) && (s.Ticks < least || !known) {
			least, known = s.Ticks, true
		}
	}
	return least
}

// Reason says in a sentence what a reading has found.
func (c *Config) Reason(r Reading) string {
	text := r.drifted()
	switch r.Kind {
	case KindSegment:
		text = r.Segments.reason()
	case KindOutliers:
		o := r.Outliers
		text = fmt.Sprintf("more rows are unusual: a share of %s, in the reference %s, and up to "+
			"%s is no harm", Short(o.Since.Mean()), Short(o.Expected), Short(o.Limit))
	case KindPerformance:
		p := r.Performance
		text = fmt.Sprintf("answers are worse: the mean loss is %s, that of the reference %s, "+
			"and up to %s is no harm", Short(p.Since.Mean()), Short(p.Expected), Short(p.Limit))
	}
	return fmt.Sprintf("%s; the evidence is %s, an alarm takes %s", text, Short(r.Evidence),
		Short(c.Every))
}

// drifted says which rows have left the reference.
func (r *Reading) drifted() string {
	var named, most []string
	for _, f := range r.Features {
		if f.Name == drift.Joint {
			f.Name = "how features go together"
		}
		if f.Named {
			named = append(named, f.Name)
		} else if f.Bins != nil {
			most = append(most, f.Name)
		}
	}
	text := "rows have left the reference"
	switch {
	case len(named) > 0:
		text = strings.Join(named, ", ") + " left the reference"
		if len(named) == maxFeatures {
			text = strings.Join(named, ", ") + " and perhaps more left the reference"
		}
	case len(most) > 0:
		text += ", most of all " + strings.Join(most, ", ")
	}
	return text
}

// Short writes a number of evidence for people.
func Short(x float64) string {
	if x >= 100 && x < 1e6 {
		return strconv.FormatFloat(x, 'f', 0, 64)
	}
	return strconv.FormatFloat(x, 'g', 3, 64)
}

// Acknowledge returns the status after a person has seen the alarm.
func (s Status) Acknowledge(by string, now time.Time) (Status, error) {
	if s.State != StateAlarm {
		return s, fmt.Errorf("%w: no alarm is on that nobody has seen; the state is %s", ErrNotNow,
			s.State)
	}
	reason := s.Reason
	s.enter(StateAcknowledged, now, "by "+by)
	s.Reason = reason
	return s, nil
}

// Resolve returns the status after a person has ended the alarm. The evidence begins anew.
func (s Status) Resolve(by string, now time.Time) (Status, error) {
	if !s.State.Firing() && s.State != StateSuspected {
		return s, fmt.Errorf("%w: no alarm is on; the state is %s", ErrNotNow, s.State)
	}
	s.enter(StateResolved, now, "by "+by)
	return s, nil
}

// Reset returns the status after a person has had all forgotten that was learned. An alarm that
// is on ends.
func (s Status) Reset(by string, now time.Time) Status {
	return s.Begin(s.Subject, s.Threshold, now, "reset by "+by)
}

// Record returns the record of the alarm that a status has just raised.
func (s *Status) Record(name string) Alarm {
	return Alarm{Subject: s.Subject, Monitor: name, Number: s.Alarms, Kind: s.Kinds[0],
		Reason: s.Reason, Began: s.Last.Began, Raised: s.Since, Threshold: s.Threshold,
		Reading: s.Last}
}

// Follow returns the record of an alarm after its monitor has gone from one status to another.
func (a Alarm) Follow(s *Status, by string) Alarm {
	switch {
	case s.State == StateAcknowledged && a.Acknowledged.IsZero():
		a.Acknowledged, a.By = s.Since, by
	case !s.State.Firing() && a.Resolved.IsZero():
		a.Resolved = s.Since
		a.Resolution = s.Reason
		for _, e := range slices.Backward(s.Events) { // it may have gone on since
			if text, ok := strings.CutPrefix(e.Text, string(StateResolved)+" after "); ok {
				_, a.Resolution, _ = strings.Cut(text, ": ")
				break
			}
		}
	}
	return a
}

// Sentence says where a monitor stands.
func (s *Status) Sentence() string {
	text := string(s.State)
	if s.State == "" {
		text = "it begins"
	}
	if s.Reason != "" {
		text += ": " + s.Reason
	}
	return text
}
