package performance

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"github.com/millrace-ml/millrace/drift"
)

var (
	// ErrLoss is returned for a loss that is not from 0 to 1.
	ErrLoss = errors.New("performance: impossible loss")
	// ErrReference is returned for a reference that nothing can be compared with.
	ErrReference = errors.New("performance: unusable reference")
	// ErrState is returned for the state of a detector with another reference.
	ErrState = errors.New("performance: state of another reference; start anew")
)

// minRows is how many labelled rows a reference has at least.
const minRows = 200

// Losses are the sum of some losses.
type Losses struct {
	Rows uint64  `json:"rows"`
	Sum  float64 `json:"sum"`
}

// Add adds the loss of one row.
func (l *Losses) Add(loss float64) error {
	if !(loss >= 0 && loss <= 1) {
		return fmt.Errorf("%w: %v, it must be from 0 to 1", ErrLoss, loss)
	}
	l.Rows++
	l.Sum += loss
	return nil
}

// Merge adds other losses.
func (l *Losses) Merge(o Losses) {
	l.Rows += o.Rows
	l.Sum += o.Sum
}

// Mean returns the mean loss, NaN without any.
func (l Losses) Mean() float64 { return l.Sum / float64(l.Rows) }

func (l Losses) check() error {
	if !(l.Sum >= 0 && l.Sum <= float64(l.Rows)) {
		return fmt.Errorf("%w: the losses of %d rows cannot add up to %v", ErrLoss, l.Rows, l.Sum)
	}
	return nil
}

// Harm gathers evidence that the mean loss has risen. Bet k on a mean p > m pays for a
// loss x at least
//
//	1 + b (x - m) >= (p/m)^x ((1-p)/(1-m))^(1-x),  b = (p-m) / (m (1-m))
//
// where m is what the mean loss may be. The left side is 1 on average at most, if it is
// no more; the right one, its lower bound for x from 0 to 1, is equal for 0 and 1, and
// needs nothing but the sum of the losses. The bets are summed up as in package detect.
type Harm struct {
	reference Losses
	config    drift.Config
	mean      float64 // what it may be
	state     harmState
}

type harmState struct {
	Reference Losses                 `json:"reference"`
	Ticks     uint64                 `json:"ticks"`
	Wealth    [len(odds) + 1]float64 `json:"wealth"`
	Recent    float64                `json:"recent"` // mean loss
}

// Bets are on the odds of a loss being so many times what they may be, and the last one
// on the recent mean loss. A small rise takes longest to see: it has the most.
var (
	odds    = [...]float64{1.25, 1.5, 2, 3, 6}
	weights = [...]float64{0.25, 0.2, 0.15, 0.1, 0.05, 0.25}
)

const (
	leastOdds = 1.1  // of the bet on the recent mean
	memory    = 100  // rows that the recent mean is of
	leastTick = 0.1  // share of the last tick in it, at most
	most      = 1e15 // that a bet may own: see package detect
	quantile  = 1.6448536269514722
)

// NewHarm returns a detector of a mean loss above the reference's. What may be is the
// upper end of its interval of 95 %, as a reference is finite, and the tolerance: so many
// deviations of a loss that is 0 or 1.
func NewHarm(reference Losses, c drift.Config) (*Harm, error) {
	if err := errors.Join(c.Validate(), reference.check()); err != nil {
		return nil, err
	}
	if reference.Rows < minRows {
		return nil, fmt.Errorf("%w: it has %d rows with labels, it needs at least %d",
			ErrReference, reference.Rows, minRows)
	}
	m := upper(reference.Mean(), float64(reference.Rows))
	if m += c.Tolerance * math.Sqrt(m*(1-m)); m > 1-1e-6 {
		return nil, fmt.Errorf("%w: the mean loss of %.4g cannot become worse", ErrReference,
			reference.Mean())
	}
	h := &Harm{reference: reference, config: c, mean: m}
	h.Reset()
	return h, nil
}

// upper returns the upper end of the Wilson score interval of a rate.
func upper(rate, rows float64) float64 {
	const z = quantile
	spread := z * math.Sqrt(rate*(1-rate)/rows+z*z/(4*rows*rows))
	return (rate + z*z/(2*rows) + spread) / (1 + z*z/rows)
}

// Reset forgets all evidence.
func (h *Harm) Reset() { h.state = harmState{Reference: h.reference, Recent: h.mean} }

// Tick takes in the losses that became known since the last, of all replicas. One
// without any is no tick.
func (h *Harm) Tick(l Losses) error {
	if err := l.check(); err != nil || l.Rows == 0 {
		return err
	}
	s := &h.state
	s.Ticks++
	for i, o := range odds {
		h.bet(&s.Wealth[i], times(h.mean, o), l)
	}
	h.bet(&s.Wealth[len(odds)], max(s.Recent, times(h.mean, leastOdds)), l)
	share := min(-math.Expm1(-float64(l.Rows)/memory), leastTick)
	s.Recent += share * (l.Mean() - s.Recent)
	return nil
}

// times returns the rate whose odds are so many times as high.
func times(rate, odds float64) float64 { return rate * odds / (1 + rate*(odds-1)) }

func (h *Harm) bet(wealth *float64, p float64, l Losses) {
	p = min(p, 1-1e-9)
	gain := l.Sum*math.Log(p/h.mean) + (float64(l.Rows)-l.Sum)*math.Log((1-p)/(1-h.mean))
	*wealth = min((1+*wealth)*math.Exp(gain), most)
}

// HarmReport is what is known after a tick.
type HarmReport struct {
	Ticks    uint64  `json:"ticks"` // with losses in them
	Evidence float64 `json:"evidence"`
	Alarm    bool    `json:"alarm"`
	Recent   float64 `json:"recent"`   // mean loss of the last hundred rows or so
	Expected float64 `json:"expected"` // of the reference
	Limit    float64 `json:"limit"`    // up to which it is no harm
}

// Report says how things are.
func (h *Harm) Report() HarmReport {
	r := HarmReport{Ticks: h.state.Ticks, Recent: h.state.Recent, Expected: h.reference.Mean(),
		Limit: h.mean}
	for i, w := range weights {
		r.Evidence += w * h.state.Wealth[i]
	}
	r.Alarm = r.Evidence >= h.config.FalseAlarmEvery
	return r
}

// MarshalJSON writes what was learned.
func (h *Harm) MarshalJSON() ([]byte, error) { return json.Marshal(h.state) }

// UnmarshalJSON takes over what a detector with the same reference has learned. After an
// error it is as before.
func (h *Harm) UnmarshalJSON(text []byte) error {
	var s harmState
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("cannot read the state of a detector of harm: %w", err)
	}
	ok := s.Reference == h.reference && s.Recent >= 0 && s.Recent <= 1
	for _, w := range s.Wealth {
		ok = ok && w >= 0 && w <= most
	}
	if !ok {
		return ErrState
	}
	h.state = s
	return nil
}
