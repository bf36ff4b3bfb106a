package trigger

import (
	"errors"
	"fmt"
	"slices"
	"time"
)

// Guarantee is what a kind of pipeline does about a start that may have got through.
type Guarantee string

// The guarantees.
const (
	// Keeps: a second start under the same name is the first one, or is left out.
	Keeps Guarantee = "keeps"
	// Finds: a run of the name is looked for until Spec.Settle has passed, by when it is
	// there if it has started, and by Start once more.
	Finds Guarantee = "finds"
	// Blind: nobody can tell; so no start is made again unless it did not get through.
	Blind Guarantee = "blind"
)

// Spec says how often a trigger starts its pipeline, and how patiently.
type Spec struct {
	Trigger   string    `json:"trigger"` // its name
	Guarantee Guarantee `json:"guarantee"`

	Stopped     bool          `json:"stopped"`      // nothing starts
	DryRun      bool          `json:"dry_run"`      // nothing starts, but it says what would
	Cooldown    time.Duration `json:"cooldown"`     // from the end of one run to the next
	MaxRuns     int           `json:"max_runs"`     // at once
	DailyBudget int           `json:"daily_budget"` // starts in any 24 hours
	MaxFailures int           `json:"max_failures"` // in a row, then only a person starts more

	Poll          time.Duration `json:"poll"`           // between looks at a run
	Backoff       time.Duration `json:"backoff"`        // the first pause is random up to this
	MaxBackoff    time.Duration `json:"max_backoff"`    // so are later ones, up to this
	Settle        time.Duration `json:"settle"`         // see Finds
	StartTimeout  time.Duration `json:"start_timeout"`  // from the first call until it is taken
	RunTimeout    time.Duration `json:"run_timeout"`    // from then to its end; it may wait there
	CancelTimeout time.Duration `json:"cancel_timeout"` // from a cancellation to the end
}

// DefaultSpec has all but the name and the guarantee.
func DefaultSpec() Spec {
	return Spec{
		Cooldown: 6 * time.Hour, MaxRuns: 1, DailyBudget: 4, MaxFailures: 3,
		Poll: 15 * time.Second, Backoff: time.Second, MaxBackoff: 5 * time.Minute,
		Settle: 2 * time.Minute, StartTimeout: time.Hour, RunTimeout: 24 * time.Hour,
		CancelTimeout: 10 * time.Minute,
	}
}

// Validate lists all faults.
func (s Spec) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	check(s.Trigger != "", "trigger: is missing")
	check(slices.Contains([]Guarantee{Keeps, Finds, Blind}, s.Guarantee),
		"guarantee: %.40q; keeps, finds and blind are allowed", s.Guarantee)
	check(s.Cooldown >= 0, "cooldown: %v; must not be negative", s.Cooldown)
	check(s.MaxRuns >= 1, "max_runs: %d; must be positive", s.MaxRuns)
	check(s.DailyBudget >= 1 && s.DailyBudget <= maxEarlier,
		"daily_budget: %d; 1 to %d are allowed", s.DailyBudget, maxEarlier)
	check(s.MaxFailures >= 1, "max_failures: %d; must be positive", s.MaxFailures)
	check(s.Poll > 0, "poll: %v; must be positive", s.Poll)
	check(s.Backoff > 0 && s.Backoff <= s.MaxBackoff,
		"backoff: %v; must be positive and at most max_backoff, %v", s.Backoff, s.MaxBackoff)
	check(s.Settle > 0, "settle: %v; must be positive", s.Settle)
	check(s.StartTimeout > 0, "start_timeout: %v; must be positive", s.StartTimeout)
	check(s.RunTimeout > 0, "run_timeout: %v; must be positive", s.RunTimeout)
	check(s.CancelTimeout > 0, "cancel_timeout: %v; must be positive", s.CancelTimeout)
	return errors.Join(faults...)
}

// pause returns how long to wait after so many faults in a row: jitter, from 0 to 1,
// times backoff * 2^(faults-1), so that those who failed together do not come back
// together.
func (s Spec) pause(faults int, jitter float64) time.Duration {
	most := s.MaxBackoff
	if shifted := s.Backoff << (max(faults, 1) - 1); faults < 40 && shifted > 0 && shifted < most {
		most = shifted
	}
	return time.Duration(min(max(jitter, 0), 1) * float64(most))
}
