package shadow

import (
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
)

// Report adds up what came of the samples of one endpoint for one shadow. All
// but the offers and drops is about one version of the shadow: it begins anew
// with another.
type Report struct {
	endpoint, shadow, model string
	limits                  exampleLimits

	offered atomic.Uint64
	dropped [drops]atomic.Uint64

	mu      sync.Mutex // never held while an example is made
	version string     // Guarded by mu, as all below.
	since   time.Time
	sums    *sums
}

// sums is what is known of one version.
type sums struct {
	compared, agreed             uint64
	disagreed                    [reasons]uint64
	failed                       map[string]uint64 // by class of error
	argmaxRows, argmaxAgree      uint64
	topKRows                     uint64
	topKOverlap                  float64
	absolute, relative           histogram // of the greatest error of each request
	stableScores, shadowScores   histogram
	stableSeconds, shadowSeconds histogram // seconds
	difference                   moments   // seconds that the shadow took longer
	worst                        examples
}

func newReport(cfg *Config) *Report {
	return &Report{
		endpoint: cfg.Endpoint, shadow: cfg.Shadow.Name, model: string(cfg.Shadow.Model),
		limits: exampleLimits{cfg.Examples, cfg.ExampleBytes, cfg.ExampleElements},
		since:  time.Now(), sums: newSums(),
	}
}

func newSums() *sums {
	return &sums{
		failed:   make(map[string]uint64),
		absolute: newHistogram(errorBounds), relative: newHistogram(errorBounds),
		stableScores: newHistogram(scoreBounds[:]), shadowScores: newHistogram(scoreBounds[:]),
		stableSeconds: newHistogram(secondBounds), shadowSeconds: newHistogram(secondBounds),
	}
}

func (r *Report) drop(d Drop) { r.dropped[d].Add(1) }

// about says which version of the shadow is compared from now on.
func (r *Report) about(version string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.version == version {
		return
	}
	if r.version != "" {
		r.sums, r.since = newSums(), time.Now()
	}
	r.version = version
}

// answered counts a pair of answers; the shadow took that long for its own.
func (r *Report) answered(x *Result, s *tap.Sample, compute time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.sums
	t.compared++
	if x.Agree() {
		t.agreed++
	} else {
		t.disagreed[x.Reason]++
	}
	if x.Floats > 0 {
		t.absolute.add(x.MaxAbs)
		t.relative.add(x.MaxRel)
	}
	t.argmaxRows += uint64(x.ArgmaxRows)
	t.argmaxAgree += uint64(x.ArgmaxAgree)
	t.topKRows += uint64(x.TopKRows)
	t.topKOverlap += x.TopKOverlap
	t.stableSeconds.add(s.Compute.Seconds())
	t.shadowSeconds.add(compute.Seconds())
	t.difference.add((compute - s.Compute).Seconds())
}

// scored adds how scores lie, and clears it.
func (r *Report) scored(s *Scores) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sums.stableScores.merge(&s.Stable)
	r.sums.shadowScores.merge(&s.Shadow)
	*s = Scores{}
}

// failed counts a run of the shadow that gave no answer. When that is the
// version's own fault it is a disagreement.
func (r *Report) failed(class string, fault bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sums.failed[class]++
	if fault {
		r.sums.compared++
		r.sums.disagreed[ReasonError]++
	}
}

// wants says whether an example of that severity would be kept.
func (r *Report) wants(severity float64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sums.worst.wants(severity, r.limits)
}

// keep keeps an example if it is among the worst.
func (r *Report) keep(e *Example) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sums.worst.keep(e, r.limits)
}

// Snapshot is a Report at one moment. Every number in it is finite: what is not
// is the largest that there is.
type Snapshot struct {
	Endpoint string    `json:"endpoint"`
	Shadow   string    `json:"shadow"`
	Model    string    `json:"model"`
	Version  string    `json:"version"` // "" before the first run
	Since    time.Time `json:"since"`   // of all but Offered and Dropped

	Offered uint64            `json:"offered"`
	Dropped map[string]uint64 `json:"dropped"` // by Drop
	Errors  map[string]uint64 `json:"errors"`  // runs of the shadow, by class

	Compared  uint64            `json:"compared"`
	Agreed    uint64            `json:"agreed"`
	Disagreed map[string]uint64 `json:"disagreed"` // by Reason

	ArgmaxRows  uint64  `json:"argmax_rows"`
	ArgmaxAgree uint64  `json:"argmax_agree"`
	TopKRows    uint64  `json:"top_k_rows"`
	TopKOverlap float64 `json:"top_k_overlap"` // sum over the rows of the share of classes

	// Of each request the greatest error.
	AbsoluteError []Bucket `json:"absolute_error"`
	RelativeError []Bucket `json:"relative_error"`
	// Of each row the best score.
	StableScores []Bucket `json:"stable_scores"`
	ShadowScores []Bucket `json:"shadow_scores"`

	StableSeconds []Bucket `json:"stable_seconds"` // that a request computed
	ShadowSeconds []Bucket `json:"shadow_seconds"`
	Pairs         uint64   `json:"pairs"` // of times
	// The mean and the variance of what the shadow took longer for the same request.
	DifferenceSeconds  float64 `json:"difference_seconds"`
	DifferenceVariance float64 `json:"difference_variance"`

	Examples []Example `json:"examples"` // of disagreements, the worst first
}

// Snapshot returns a copy of what is known. Reasons that have not occurred are
// in it with 0.
func (r *Report) Snapshot() Snapshot {
	s := Snapshot{
		Endpoint: r.endpoint, Shadow: r.shadow, Model: r.model, Offered: r.offered.Load(),
		Dropped: make(map[string]uint64), Errors: make(map[string]uint64),
		Disagreed: make(map[string]uint64),
	}
	for d := DropNone + 1; d < drops; d++ {
		s.Dropped[d.String()] = r.dropped[d].Load()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.sums
	s.Version, s.Since = r.version, r.since
	for class, n := range t.failed {
		s.Errors[class] = n
	}
	s.Compared, s.Agreed = t.compared, t.agreed
	for why := ReasonNone + 1; why < reasons; why++ {
		s.Disagreed[why.String()] = t.disagreed[why]
	}
	s.ArgmaxRows, s.ArgmaxAgree = t.argmaxRows, t.argmaxAgree
	s.TopKRows, s.TopKOverlap = t.topKRows, t.topKOverlap
	s.AbsoluteError, s.RelativeError = t.absolute.buckets(), t.relative.buckets()
	s.StableScores, s.ShadowScores = t.stableScores.buckets(), t.shadowScores.buckets()
	s.StableSeconds, s.ShadowSeconds = t.stableSeconds.buckets(), t.shadowSeconds.buckets()
	s.Pairs, s.DifferenceSeconds = t.difference.n, t.difference.mean
	s.DifferenceVariance = t.difference.variance()
	s.Examples = t.worst.sorted()
	return s
}

// Summary is as much of a Report as a rollout decides on.
type Summary struct {
	Shadow, Version  string
	Compared, Agreed uint64 // pairs of answers
	Failed           uint64 // runs of the shadow that gave none by the version's own fault
}

// Summary returns what is known in short: it does not allocate.
func (r *Report) Summary() Summary {
	r.mu.Lock()
	defer r.mu.Unlock()
	failed := r.sums.disagreed[ReasonError]
	return Summary{Shadow: r.shadow, Version: r.version, Compared: r.sums.compared - failed,
		Agreed: r.sums.agreed, Failed: failed}
}

// moments are the mean and the variance of numbers, taken in one by one
// (Welford's way, which does not lose the small behind the large).
type moments struct {
	n    uint64
	mean float64
	sum  float64 // of squared distances from the mean
}

func (m *moments) add(x float64) {
	m.n++
	d := x - m.mean
	m.mean += d / float64(m.n)
	m.sum += d * (x - m.mean)
}

// variance returns the unbiased estimate, 0 for fewer than two numbers.
func (m *moments) variance() float64 {
	if m.n < 2 {
		return 0
	}
	return m.sum / float64(m.n-1)
}

// finite makes a number of an infinity that JSON has a word for.
func finite(x float64) float64 { return min(x, math.MaxFloat64) }
