package trigger

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"
)

// State is where a run is.
type State string

// The states. The last five are ends.
const (
	Pending    State = "pending"  // written down; it has not started for sure
	Starting   State = "starting" // it may have started
	Running    State = "running"  // it was taken elsewhere, and perhaps waits there
	Succeeded  State = "succeeded"
	Failed     State = "failed"
	Lost       State = "lost"
	Cancelled  State = "cancelled"
	Suppressed State = "suppressed"
)

// Done says whether a state is an end.
func (s State) Done() bool { return s != Pending && s != Starting && s != Running }

// ErrNotNow is returned when a run is where a command makes no sense.
var ErrNotNow = errors.New("trigger: not possible now")

// Event is something that a trigger may start its pipeline for.
type Event struct {
	// ID names this event among those of the trigger, as in "alarm/fraud/17". Whoever
	// tells of the event again gives the same.
	ID      string
	Reason  string // for people
	By      string // the person who asks for it; empty when nobody does
	Context Context
}

// Context is what a pipeline gets to know. It is seen by people elsewhere and holds no
// secrets.
type Context struct {
	Endpoint string `json:"endpoint,omitempty"`
	Model    string `json:"model,omitempty"`
	Version  string `json:"version,omitempty"`
	Evidence string `json:"evidence,omitempty"` // as JSON
	Samples  string `json:"samples,omitempty"`  // where captured requests lie
	// Extra are a person's own parameters.
	Extra map[string]string `json:"extra,omitempty"`
}

// maxExtra bounds a person's own parameters.
const maxExtra = 100

// bounded shortens what is longer than anybody needs.
func (c Context) bounded() Context {
	for _, text := range []*string{&c.Endpoint, &c.Model, &c.Version, &c.Samples} {
		*text = clip(*text, maxText)
	}
	c.Evidence = clip(c.Evidence, maxEvidence)
	if len(c.Extra) == 0 {
		return c
	}
	extra := make(map[string]string)
	for _, key := range slices.Sorted(maps.Keys(c.Extra)) {
		if len(extra) < maxExtra && len(key) <= maxText {
			extra[key] = clip(c.Extra[key], maxText)
		}
	}
	c.Extra = extra
	return c
}

// Run is one start of a pipeline, as it is stored. It is a value: those that methods
// return share nothing that is changed later.
type Run struct {
	ID      string  `json:"id"`
	Trigger string  `json:"trigger"`
	Event   string  `json:"event"`
	Reason  string  `json:"reason"`
	By      string  `json:"by,omitempty"` // the person who asked for this attempt
	Context Context `json:"context"`
	Spec    Spec    `json:"spec"`

	State    State       `json:"state"`
	Attempts int         `json:"attempts"`          // each is another run elsewhere
	Earlier  []time.Time `json:"earlier,omitempty"` // when earlier attempts began
	Began    time.Time   `json:"began"`             // this attempt, as written down
	Called   time.Time   `json:"called,omitzero"`   // Start, for the first time
	Started  time.Time   `json:"started,omitzero"`  // when it was taken elsewhere
	Ended    time.Time   `json:"ended,omitzero"`
	Due      time.Time   `json:"due,omitzero"` // when to go on, or to decide anew if suppressed

	External string `json:"external,omitempty"` // its id there
	Link     string `json:"link,omitempty"`     // where people see more
	Logs     string `json:"logs,omitempty"`     // their end
	Error    string `json:"error,omitempty"`    // what went wrong last, or why it ended

	Calls     int       `json:"calls,omitempty"`     // of Start in this attempt
	Calling   bool      `json:"calling,omitempty"`   // a call of Start has not come back
	Uncertain bool      `json:"uncertain,omitempty"` // a call of Start may have got through
	Settles   time.Time `json:"settles,omitzero"`    // until then it is only looked for; see Finds
	Faults    int       `json:"faults,omitempty"`    // calls in a row that went wrong
	Misses    int       `json:"misses,omitempty"`    // looks in a row that did not find it
	Stop      string    `json:"stop,omitempty"`      // why it is to be ended; empty when not
	StopBy    string    `json:"stop_by,omitempty"`   // the person who wants that
	StopBegan time.Time `json:"stop_began,omitzero"`
}

// maxSlug is how much of a trigger's name is in an id. With what is around it, an id
// fits into the 63 characters of a name in Kubernetes.
const maxSlug = 30

// ID returns the id of the run of an event: lower-case letters, digits and hyphens, at
// most 63 with those of Name, which all kinds take as a name.
func ID(trigger, event string) string {
	slug := strings.Trim(strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			return c
		}
		return '-'
	}, strings.ToLower(trigger)), "-")
	slug = strings.TrimRight(slug[:min(len(slug), maxSlug)], "-")
	sum := sha256.Sum256([]byte(trigger + "\x00" + event))
	return "millrace-" + strings.TrimLeft(slug+"-", "-") + hex.EncodeToString(sum[:8])
}

// Name is what the run is called elsewhere: each attempt has another.
func (r Run) Name() string {
	if r.Attempts <= 1 {
		return r.ID
	}
	return r.ID + "-" + strconv.Itoa(r.Attempts)
}

// RunKey is the parameter that holds a run's Name.
const RunKey = "millrace_run"

// Parameters returns what a pipeline gets, RunKey included. Extra ones do not hide
// those of the run.
func (r Run) Parameters() map[string]string {
	p := make(map[string]string, len(r.Context.Extra)+7)
	maps.Copy(p, r.Context.Extra)
	for key, value := range map[string]string{RunKey: r.Name(), "reason": r.Reason,
		"endpoint": r.Context.Endpoint, "model": r.Context.Model,
		"version": r.Context.Version, "evidence": r.Context.Evidence,
		"samples": r.Context.Samples} {
		if value != "" {
			p[key] = value
		}
	}
	return p
}

// Cancel ends a run: at once if it has not started for sure, else as soon as the
// pipeline can be told. Its error is ErrNotNow when the run has ended, or is to end
// already.
func (r Run) Cancel(by string, now time.Time) (Run, error) {
	if r.State.Done() || r.StopBy != "" {
		return r, fmt.Errorf("cannot cancel the run %s: %w; it is %s%s", r.ID, ErrNotNow, r.State,
			afterColon(r.Stop))
	}
	r.Stop, r.StopBy, r.StopBegan, r.Due = "cancelled by "+by, by, now, now
	if r.State == Pending {
		return r.end(Cancelled, r.Stop, now), nil
	}
	return r, nil
}

// Retry starts a run anew that has failed, was lost or cancelled, under another Name.
// It goes by what Decide goes by for a person. Its error is ErrNotNow.
func (r Run) Retry(history []Run, spec Spec, by string, now time.Time) (Run, error) {
	fail := func(why string) (Run, error) {
		return r, fmt.Errorf("cannot retry the run %s: %w; %s", r.ID, ErrNotNow, why)
	}
	if r.State != Failed && r.State != Lost && r.State != Cancelled {
		return fail("it is " + string(r.State))
	}
	if why, _ := spec.refusal(history, true, now); why != "" {
		return fail(why)
	}
	earlier := append(r.Earlier[:len(r.Earlier):len(r.Earlier)], r.Began)
	if extra := len(earlier) - maxEarlier; extra > 0 {
		earlier = earlier[extra:]
	}
	return Run{ID: r.ID, Trigger: r.Trigger, Event: r.Event, Reason: r.Reason, By: by,
		Context: r.Context, Spec: spec, State: Pending, Attempts: r.Attempts + 1,
		Earlier: earlier, Began: now, Due: now}, nil
}

// maxEarlier bounds the attempts that are remembered, and with it the daily budget
// that can be kept for one run.
const maxEarlier = 100

// end ends the run.
func (r Run) end(s State, why string, now time.Time) Run {
	r.State, r.Error, r.Ended, r.Due = s, clip(why, maxText), now, time.Time{}
	r.Calling = false
	return r
}

func afterColon(text string) string {
	if text == "" {
		return ""
	}
	return ": " + text
}
