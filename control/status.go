package control

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/control/rollout"
)

// KindRollout is the kind of the records of rollouts. Their names are ENDPOINT/NUMBER.
const KindRollout = "Rollout"

// EndpointStatus is what the control plane knows of an endpoint.
type EndpointStatus struct {
	// Promoted serves in the place of the stable version of the spec.
	Promoted *Promoted `json:"promoted,omitempty"`
	// Former was stable before, and stays loaded for an undo until Until.
	Former *Former `json:"former,omitempty"`
	// Refused are versions that are not tried again unless asked.
	Refused  []Refused `json:"refused,omitempty"`
	Rollouts int       `json:"rollouts,omitempty"` // that there were
	Rollout  string    `json:"rollout,omitempty"`  // the one under way
	Waiting  string    `json:"waiting,omitempty"`  // why no rollout of a new version begins
	Events   []Event   `json:"events,omitempty"`   // the latest last
}

// Promoted is the version of a model that a rollout has made the stable one. It holds while what
// the spec says is among Over: the versions that it, and promotions whose alias was still to move,
// have taken the place of. Once the registry's alias has moved elsewhere, by the rollout itself or
// by a person, that holds, and goes on to when it moves back.
type Promoted struct {
	Model   string   `json:"model"`
	Version string   `json:"version"`
	Over    []string `json:"over"`
}

// Former is the version of a model that was the stable one before its Successor.
type Former struct {
	Model     string    `json:"model"`
	Version   string    `json:"version"`
	Successor string    `json:"successor"`
	Until     time.Time `json:"until"`
}

// Refused is a version that was rolled back.
type Refused struct {
	Version string `json:"version"`
	Digest  string `json:"digest"`
	Rollout string `json:"rollout"`
}

// is says whether a version is the refused one: by its files, or where nobody knows those by its
// name.
func (r Refused) is(v rollout.VersionRef) bool {
	return r.Digest == v.Digest && (r.Digest != "" || r.Version == v.Version)
}

// Event is something that happened.
type Event struct {
	Time time.Time `json:"time"`
	Text string    `json:"text"`
	Warn bool      `json:"warn,omitempty"`
}

// RolloutStatus is the record of a rollout.
type RolloutStatus struct {
	State rollout.State `json:"state"`
	// Held says what keeps the rollout from going on, such as a gate or a freeze.
	Held    string   `json:"held,omitempty"`
	Actions []Action `json:"actions,omitempty"` // that follow from the verdict
	Undone  string   `json:"undone,omitempty"`  // who has taken the promotion back, in a sentence
	// Examples are requests that the canary answered otherwise as a shadow, the worst first. They
	// come with the verdict.
	Examples json.RawMessage `json:"examples,omitempty"`
}

// Kinds of actions.
const (
	ActionAlias      = "alias"      // the registry's alias moves to the version
	ActionTags       = "tags"       // the version gets the verdict
	ActionExperiment = "experiment" // the rollout becomes a run of MLflow
)

// Action is something to do elsewhere. It is written down before it is done, and repeating it
// does no harm.
type Action struct {
	Kind    string    `json:"kind"`
	Alias   string    `json:"alias,omitempty"`
	Version string    `json:"version,omitempty"`
	Done    time.Time `json:"done,omitzero"`
	Error   string    `json:"error,omitempty"` // of the last attempt
}

// maxEvents bounds the events of an endpoint, maxRefused the versions that it refuses.
const maxEvents, maxRefused = 50, 100

func (s *EndpointStatus) event(now time.Time, warn bool, text string) {
	s.Events = append(slices.Clip(s.Events), Event{now, text, warn})
	if n := len(s.Events); n > maxEvents {
		s.Events = s.Events[n-maxEvents:]
	}
}

func (s *EndpointStatus) refuse(r Refused) {
	s.Refused = append(slices.Clip(s.Refused), r)
	if n := len(s.Refused); n > maxRefused {
		s.Refused = s.Refused[n-maxRefused:]
	}
}
