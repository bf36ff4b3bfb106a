package rollout

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"
)

// Strategy is how a canary comes to its traffic.
type Strategy string

const (
	// Canary goes up by steps, each with evidence from live traffic.
	Canary Strategy = "canary"
	// BlueGreen goes from copies of requests to all traffic at once, after the shadow
	// stage, after a person's approval, or both.
	BlueGreen Strategy = "blue_green"
	// Immediate takes all traffic at once, and is watched for a step.
	Immediate Strategy = "immediate"
)

// Metrics of guards.
const (
	Errors       = "errors"       // requests that fail, compared between the arms
	Latency      = "latency"      // answers slower than a quantile, compared between the arms
	Disagreement = "disagreement" // copies answered otherwise than by the stable version
	Reward       = "reward"       // feedback, compared between the arms
	Prometheus   = "prometheus"   // the value of a query
)

// Spec says how a version is tried. Fields that are zero have defaults, which a
// rollout keeps from its beginning to its end.
type Spec struct {
	Strategy Strategy    `json:"strategy"` // default canary
	Shadow   ShadowStage `json:"shadow"`
	// Percent of the traffic, ascending, the first below 100; default 1, 5, 25, 50. Other
	// strategies have one step of 100.
	Steps  []float64   `json:"steps"`
	Step   StepRule    `json:"step"`
	Guards []GuardSpec `json:"guards"` // default errors and latency
	// Of sound versions at most 1-Confidence are rolled back by the guards, and of those
	// beyond the margin of a guard at most as many promoted. Default 0.95.
	Confidence  float64 `json:"confidence"`
	Approve     bool    `json:"approve,omitempty"` // a person must approve the promotion
	ErrorsInRow uint64  `json:"errors_in_row"`     // of the canary roll it back; default 20
}

// ShadowStage is the stage before the first step, in which the canary gets copies.
type ShadowStage struct {
	Percent  float64 `json:"percent"`  // of the requests; 0 leaves the stage out
	Requests uint64  `json:"requests"` // copies to compare before the first step; default 1000
}

// StepRule is what each step takes.
type StepRule struct {
	MinTime time.Duration `json:"min_time"` // default 1m
	// MaxTime is when a wider margin will do, and without it a person decides; default 24h.
	MaxTime     time.Duration `json:"max_time"`
	MinRequests uint64        `json:"min_requests"` // of the canary; default 100
}

// GuardSpec is a test that the canary has to stand.
//
// By the defaults, a canary like a stable version with 0.1 % errors and latencies that
// vary by a factor of 1.6 shows that it is sound with about 450 requests of its own:
// 9,000 in all at 5 %, or 45,000 at 1 %. With 0.5 % errors it takes 600 of its own, with
// 1 % 1,200, and in one of ten cases twice as many. Evidence stays from step to step.
// Rewards of 0 or 1 take about 12,000 in all at 5 %, 2,500 at 50 %.
type GuardSpec struct {
	Metric   string  `json:"metric"`
	Quantile float64 `json:"quantile,omitempty"` // of latency; default 0.99
	// Ratio is how many times the stable version's quantile an answer of the canary may
	// take and not count as slow; default 1.25.
	Ratio float64 `json:"ratio,omitempty"`
	// Margin is by how much the canary may be worse and still be promoted: as a share of
	// the stable version's errors (default 0.5) or slow answers (1), or as a difference of
	// mean rewards (0.05).
	Margin float64 `json:"margin,omitempty"`
	// WideMargin is what will do after MaxTime; default twice Margin. For disagreement,
	// which has no Margin, and for the rate of errors it raises Max by its share.
	WideMargin float64 `json:"wide_margin,omitempty"`
	// Max is the share of copies that may be answered otherwise (default 0.02), the value
	// that a query may have, and for errors a rate that is low enough whatever the stable
	// version's is (0.02).
	Max    float64 `json:"max,omitempty"`
	Query  string  `json:"query,omitempty"`  // PromQL
	Weight float64 `json:"weight,omitempty"` // share of 1-Confidence beside other guards; default 1
}

// DefaultSpec returns the spec of a rollout of which nothing is said.
func DefaultSpec() Spec { return Spec{}.WithDefaults() }

// WithDefaults returns the spec with a default in place of each field that is zero.
func (s Spec) WithDefaults() Spec {
	fill(&s.Strategy, Canary)
	if s.Strategy != Canary {
		s.Steps = []float64{100}
	} else if len(s.Steps) == 0 {
		s.Steps = []float64{1, 5, 25, 50}
	}
	fill(&s.Shadow.Requests, 1000)
	fill(&s.Step.MinTime, time.Minute)
	fill(&s.Step.MaxTime, 24*time.Hour)
	fill(&s.Step.MinRequests, 100)
	fill(&s.Confidence, 0.95)
	fill(&s.ErrorsInRow, 20)
	s.Steps, s.Guards = slices.Clone(s.Steps), slices.Clone(s.Guards)
	if len(s.Guards) == 0 {
		s.Guards = []GuardSpec{{Metric: Errors}, {Metric: Latency}}
	}
	for i := range s.Guards {
		s.Guards[i].fill()
	}
	return s
}

func (g *GuardSpec) fill() {
	switch g.Metric {
	case Errors:
		fill(&g.Margin, 0.5)
		fill(&g.Max, 0.02)
	case Latency:
		fill(&g.Quantile, 0.99)
		fill(&g.Ratio, 1.25)
		fill(&g.Margin, 0.5)
	case Disagreement:
		fill(&g.WideMargin, 1)
		fill(&g.Max, 0.02)
	case Reward:
		fill(&g.Margin, 0.05)
	}
	fill(&g.WideMargin, 2*g.Margin)
	fill(&g.Weight, 1)
}

func fill[T comparable](field *T, value T) {
	if *field == *new(T) {
		*field = value
	}
}

// Name is what people call the guard, as in "latency p99".
func (g GuardSpec) Name() string {
	switch g.Metric {
	case Latency:
		return fmt.Sprintf("%s p%.4g", g.Metric, 100*g.Quantile)
	case Prometheus:
		return fmt.Sprintf("%s %q", g.Metric, g.Query)
	}
	return g.Metric
}

// Validate lists all faults, with the keys that they have in YAML.
func (s Spec) Validate() error {
	s = s.WithDefaults()
	var f faults
	f.check(slices.Contains([]Strategy{Canary, BlueGreen, Immediate}, s.Strategy),
		"strategy is %q, must be canary, blue_green or immediate", s.Strategy)
	f.check(within(s.Shadow.Percent, 0, 100), "shadow.percent is %v, must be 0 to 100",
		s.Shadow.Percent)
	f.check(s.Strategy != BlueGreen || s.Shadow.Percent > 0 || s.Approve, "strategy blue_green "+
		"needs shadow.percent or approve, so that something speaks for the switch")
	for i, w := range s.Steps {
		f.check(w > 0 && w <= 100, "steps[%d] is %v, must be above 0 and up to 100", i, w)
		f.check(i == 0 || w > s.Steps[i-1], "steps[%d] is %v, must be above the step before", i, w)
	}
	f.check(s.Strategy != Canary || s.Steps[0] < 100, "steps[0] is 100, which leaves nothing to "+
		"compare with; use the strategy blue_green or immediate")
	f.check(len(s.Steps) <= maxSteps, "steps are %d, at most %d can be", len(s.Steps), maxSteps)
	f.check(s.Step.MinTime >= 0, "step.min_time is %v, must not be negative", s.Step.MinTime)
	f.check(s.Step.MaxTime > 0 && s.Step.MaxTime >= s.Step.MinTime,
		"step.max_time is %v, must be at least step.min_time, %v", s.Step.MaxTime, s.Step.MinTime)
	f.check(s.Confidence > 0 && s.Confidence < 1, "confidence is %v, must be between 0 and 1",
		s.Confidence)
	f.check(len(s.Guards) <= maxGuards, "guards are %d, at most %d can be", len(s.Guards),
		maxGuards)
	for i, g := range s.Guards {
		f.guard(fmt.Sprintf("guards[%d].", i), g)
		f.check(!slices.ContainsFunc(s.Guards[:i], func(o GuardSpec) bool {
			return o.Name() == g.Name()
		}), "guards[%d] is a second one for %s", i, g.Name())
		f.check(g.Metric != Disagreement || s.Shadow.Percent > 0,
			"guards[%d].metric is disagreement, which needs shadow.percent", i)
	}
	return errors.Join(f...)
}

// Bounds of what a rollout keeps.
const (
	maxSteps  = 100
	maxGuards = 20
)

// faults are all that is wrong.
type faults []error

func (f *faults) check(ok bool, format string, args ...any) {
	if !ok {
		*f = append(*f, fmt.Errorf(format, args...))
	}
}

func (f *faults) guard(at string, g GuardSpec) {
	switch g.Metric {
	case Errors:
		f.check(g.Max > 0 && g.Max < 1, "%smax is %v, must be between 0 and 1", at, g.Max)
	case Latency:
		f.check(g.Quantile > 0 && g.Quantile < 1, at+"quantile is %v, must be between 0 and 1",
			g.Quantile)
		f.check(within(g.Ratio, 1, 1000), "%sratio is %v, must be 1 to 1000", at, g.Ratio)
	case Disagreement:
		f.check(g.Max > 0 && g.Max < 1, "%smax is %v, must be between 0 and 1", at, g.Max)
	case Reward:
		f.check(g.WideMargin <= 1, "%swide_margin is %v, must be up to 1 for rewards", at,
			g.WideMargin)
	case Prometheus:
		f.check(g.Query != "", "%squery is empty, must be PromQL with one value", at)
		f.check(!math.IsNaN(g.Max) && !math.IsInf(g.Max, 0), "%smax is %v, must be a number", at,
			g.Max)
	default:
		f.check(false, "%smetric is %q, must be errors, latency, disagreement, reward or "+
			"prometheus", at, g.Metric)
	}
	f.check(within(g.Margin, 0, 1000), "%smargin is %v, must be 0 to 1000", at, g.Margin)
	f.check(within(g.WideMargin, g.Margin, 2000),
		"%swide_margin is %v, must be %v, the margin, to 2000", at, g.WideMargin, g.Margin)
	f.check(within(g.Weight, 0, 1000), "%sweight is %v, must be 0 to 1000", at, g.Weight)
}

func within(x, low, high float64) bool { return x >= low && x <= high }
