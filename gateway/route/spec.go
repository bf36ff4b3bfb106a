// Package route decides which version of a model answers a request.
//
// An [Endpoint] is what clients call. It has arms, each a version of a model
// with a weight; rules and sticky keys that come before the weights; shadows
// that get copies. All endpoints together are a [Table], which is immutable:
// a change makes a new one, and the gateway loads it once for each request.
//
// Picking reads no clock, takes no lock and does not allocate.
package route

import (
	"slices"
	"time"
)

// FullWeight is the sum of an endpoint's weights: a weight of 1 is 0.01 %.
const FullWeight = 10_000

// Spec is an endpoint as its owner writes it, and as it is kept on disk.
type Spec struct {
	Name string `json:"name"`
	// Arms are the versions that share the traffic. The first is the stable one:
	// it takes what is not another's, and stands in for one that cannot serve.
	Arms    []ArmSpec    `json:"arms"`
	Rules   []RuleSpec   `json:"rules,omitempty"`
	Sticky  *StickySpec  `json:"sticky,omitempty"`
	Bandit  *BanditSpec  `json:"bandit,omitempty"`
	Shadows []ShadowSpec `json:"shadows,omitempty"`
	Limits  LimitSpec    `json:"limits"`
	// Trial is the id of the rollout that decides on the arm named CanaryArm; empty
	// for none.
	Trial string `json:"trial,omitempty"`
	// Monitored is of how many rows a second requests are copied for monitors; 0 is none.
	Monitored int `json:"monitored,omitempty"`
}

// CanaryArm is the name of the arm that a rollout decides on.
const CanaryArm = "canary"

// Canary returns the index of the arm that a rollout decides on. It is none, below
// 1, where there is no such arm or it is the stable one.
func (s *Spec) Canary() int {
	return slices.IndexFunc(s.Arms, func(a ArmSpec) bool { return a.Name == CanaryArm })
}

// ArmSpec is one of the versions that share an endpoint's traffic.
type ArmSpec struct {
	Name    string `json:"name"`
	Model   string `json:"model"`
	Version string `json:"version"` // "" is the latest that is ready, "@x" the alias x
	Weight  int    `json:"weight"`  // of FullWeight; the first arm's is what the others leave
}

// RuleSpec sends requests with a certain header, or gRPC metadata, to an arm.
// One of Exact, Prefix and Regexp is set.
type RuleSpec struct {
	Header string `json:"header"` // its name, in any case
	Exact  string `json:"exact,omitempty"`
	Prefix string `json:"prefix,omitempty"`
	Regexp string `json:"regexp,omitempty"` // must match the whole value
	Arm    string `json:"arm"`
}

// StickySpec keeps requests with the same key with the same arm, in every
// process and for as long as the weights stay. One of Header, Cookie and Input
// is set. A weight that rises moves users into its arm and none out of it; with
// more than two arms, those that come after it make room and lose some.
type StickySpec struct {
	Header string        `json:"header,omitempty"`
	Cookie string        `json:"cookie,omitempty"`
	Input  string        `json:"input,omitempty"` // name of an input tensor: its first element
	Set    time.Duration `json:"set,omitempty"`   // life of a cookie that is set; 0 sets none
	Salt   string        `json:"salt,omitempty"`  // the endpoint's name where it is empty
}

// BanditSpec lets rewards move the weights. Beside a StickySpec each move takes
// some users to another arm.
type BanditSpec struct {
	Policy   string        `json:"policy"`              // "thompson" or "epsilon_greedy"
	Epsilon  float64       `json:"epsilon,omitempty"`   // share of traffic that explores
	HalfLife time.Duration `json:"half_life,omitempty"` // after which a reward counts half; 0 never
	Floor    int           `json:"floor,omitempty"`     // least weight of an arm, of FullWeight
	Ceiling  int           `json:"ceiling,omitempty"`   // most; 0 is FullWeight
	Interval time.Duration `json:"interval"`            // between two changes of the weights
}

// ShadowSpec sends copies of requests to a version whose answers are compared
// and thrown away.
type ShadowSpec struct {
	Name    string  `json:"name"` // that of its version where it is empty, or "latest"
	Model   string  `json:"model"`
	Version string  `json:"version"` // as an arm's
	Percent float64 `json:"percent"` // of the endpoint's requests
	// Two numbers agree when they differ by at most Absolute + Relative * |stable|.
	// 0 takes the default of the datatype.
	Absolute float64 `json:"absolute,omitempty"`
	Relative float64 `json:"relative,omitempty"`
	TopK     int     `json:"top_k,omitempty"` // classes that are compared besides the first
}

// LimitSpec bounds an endpoint's requests. 0 is no bound.
type LimitSpec struct {
	Timeout     time.Duration `json:"timeout,omitempty"`
	Concurrency int           `json:"concurrency,omitempty"` // requests in flight
	Adaptive    bool          `json:"adaptive,omitempty"`    // Concurrency is learned from latency
	Requests    float64       `json:"requests,omitempty"`    // a second
	Rows        float64       `json:"rows,omitempty"`        // a second
	Priority    int           `json:"priority,omitempty"`    // of requests that name none
}

// Aliases are movable names of versions, by model.
type Aliases map[string]map[string]string
