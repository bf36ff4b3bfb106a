package detect

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// ErrReference is returned for a reference that nothing can be compared with.
var ErrReference = errors.New("detect: unusable reference")

// ErrCounts is returned for counts, slots and states that are not this stream's.
var ErrCounts = errors.New("detect: counts of another stream")

// most is what a bet may own, so that a long drift is forgotten in time. It is far
// above what an alarm needs; to own less breaks no promise.
const most = 1e15

// Stream is what a detector watches: how its values are counted, and the reference,
// which has the counts of these bins for each slot of the season, as in hours of the
// day; one for a stream that does not depend on the hour.
type Stream struct {
	Name      string
	Layout    *sketch.Layout
	Reference [][]uint64
	// DesignEffect is how many times as much as independent values those that follow each
	// other vary together; 0 is 1. So many values count as one.
	DesignEffect float64
}

// Detector watches one stream. See the package comment for what it computes.
type Detector struct {
	kind      *kind
	reference [][]uint64
	null      *null
	effect    float64
	state     state
}

// state is all that changes, but for what the slot determines.
type state struct {
	Slot int `json:"slot"`
	// Wealth of the bets: shapes, exceptions, then for each memory the histogram of
	// recent values and, of a numeric stream, its tilt.
	Wealth []float64 `json:"wealth"`
	// Live are these histograms, each of which adds up to 1.
	Live [][]float64 `json:"live"`
}

// kind is what streams with as many bins of the same sort have in common.
type kind struct {
	bins       int
	ordered    int   // regular bins of a numeric stream; 0 for others
	exceptions []int // bins
	memories   []memory
	weights    []float64
	chosen     float64 // quantile for bets on a recent histogram
	tolerance  float64
}

func newKind(l *sketch.Layout, tolerance float64) *kind {
	k := &kind{bins: l.Bins(), exceptions: l.Exceptions(), chosen: chosenQuantile(l.Bins() - 1),
		memories: categoricalMemories, tolerance: tolerance}
	left := 1 - exceptionWeight*float64(len(k.exceptions))
	adaptive := len(k.memories)
	if l.IsNumeric() {
		k.ordered, k.memories = l.Regular(), numericMemories
		adaptive = 2 * len(k.memories)
		for _, s := range shapes {
			k.weights = append(k.weights, s.weight)
			left -= s.weight
		}
	}
	for range k.exceptions {
		k.weights = append(k.weights, exceptionWeight)
	}
	// What is left goes to the bets on recent histograms.
	for range adaptive {
		k.weights = append(k.weights, left/float64(adaptive))
	}
	return k
}

// New returns detectors of streams. A distribution p whose distance from the reference
// q is within the tolerance, 0 to 1, is no drift: the distance is the root of the sum of
// (p-q)^2/q, for a small shift of the mean as much as that is in deviations. Detectors
// with equal references share memory, as all numeric features without ties have as many
// rows in each bin.
func New(streams []Stream, tolerance float64) ([]*Detector, error) {
	if !(tolerance >= 0 && tolerance <= 1) {
		return nil, fmt.Errorf("detect: a tolerance of %v deviations cannot be: 0 to 1", tolerance)
	}
	type form struct {
		bins    int
		numeric bool
	}
	kinds := make(map[form]*kind)
	nulls := make(map[string]*null)
	all := make([]*Detector, 0, len(streams))
	for _, s := range streams {
		if err := s.check(); err != nil {
			return nil, fmt.Errorf("stream %q: %w", s.Name, err)
		}
		of := form{s.Layout.Bins(), s.Layout.IsNumeric()}
		if kinds[of] == nil {
			kinds[of] = newKind(s.Layout, tolerance)
		}
		effect := max(s.DesignEffect, 1)
		key := fmt.Sprint(of, s.Reference[0], effect)
		if nulls[key] == nil {
			nulls[key] = newNull(s.Reference[0], kinds[of], effect)
		}
		d := &Detector{kind: kinds[of], reference: s.Reference, null: nulls[key], effect: effect}
		d.Reset()
		all = append(all, d)
	}
	return all, nil
}

func (s *Stream) check() error {
	if len(s.Reference) == 0 {
		return fmt.Errorf("%w: it is empty", ErrReference)
	}
	for slot, counts := range s.Reference {
		rows := uint64(0)
		for _, c := range counts {
			rows += c
		}
		if len(counts) != s.Layout.Bins() || rows == 0 {
			return fmt.Errorf("%w: slot %d has %d rows in %d bins, the stream has %d bins",
				ErrReference, slot, rows, len(counts), s.Layout.Bins())
		}
	}
	return nil
}

// Reset forgets all evidence.
func (d *Detector) Reset() {
	d.state.Wealth = make([]float64, len(d.kind.weights))
	d.state.Live = make([][]float64, len(d.kind.memories))
	for i := range d.state.Live {
		d.state.Live[i] = slices.Clone(d.null.q)
	}
}

// Tick takes in the counts of all values since the last tick. One without any is
// none: it is not counted as time.
func (d *Detector) Tick(counts []uint64, slot int) error {
	if len(counts) != d.kind.bins || slot < 0 || slot >= len(d.reference) {
		return fmt.Errorf("%w: %d bins in slot %d, it has %d and %d slots", ErrCounts,
			len(counts), slot, d.kind.bins, len(d.reference))
	}
	rows := 0.0
	for _, c := range counts {
		rows += float64(c)
	}
	if rows == 0 {
		return nil
	}
	d.enter(slot)
	wealth := d.state.Wealth
	if d.kind.ordered > 0 {
		for i := range shapes {
			d.bet(&wealth[i], dot(counts, d.null.fixed[i*len(counts):]))
		}
		wealth = wealth[len(shapes):]
	}
	for i, bin := range d.kind.exceptions {
		d.bet(&wealth[i], d.null.exception(i, float64(counts[bin]), rows))
	}
	d.betOnRecent(wealth[len(d.kind.exceptions):], counts)
	for i, m := range d.kind.memories {
		m.update(d.state.Live[i], counts, rows)
	}
	return nil
}

// betOnRecent makes the bets that expect what came lately.
func (d *Detector) betOnRecent(wealth []float64, counts []uint64) {
	var scratch [sketch.MaxCategories + 2]float64
	ratios := scratch[:len(counts)]
	for _, live := range d.state.Live {
		d.null.recent(live, ratios)
		d.null.discount(ratios, d.kind.chosen)
		d.bet(&wealth[0], logDot(counts, ratios))
		wealth = wealth[1:]
		if d.kind.ordered > 0 {
			mean, deviation := d.null.moments(live)
			d.null.tilt(mean, deviation, ratios)
			d.null.discount(ratios, tiltQuantile)
			d.bet(&wealth[0], logDot(counts, ratios))
			wealth = wealth[1:]
		}
	}
}

// tiltQuantile is for bets with a chosen mean and deviation.
var tiltQuantile = chosenQuantile(2)

// bet is the step of Shiryaev and Roberts. By Jensen's inequality a root of a ratio is
// no more than 1 on average if the ratio is.
func (d *Detector) bet(wealth *float64, logRatio float64) {
	*wealth = min((1+*wealth)*math.Exp(logRatio/d.effect), most)
}

// dot returns the sum of counts times the ratios' logarithms.
func dot(counts []uint64, logs []float32) (sum float64) {
	for i, n := range counts {
		if n > 0 {
			sum += float64(n) * float64(logs[i])
		}
	}
	return sum
}

// logDot takes the logarithms itself.
func logDot(counts []uint64, ratios []float64) (sum float64) {
	for i, n := range counts {
		if n > 0 {
			sum += float64(n) * math.Log(ratios[i])
		}
	}
	return sum
}

// enter goes to a slot. Recent histograms keep what sets them apart from the old
// slot's reference.
func (d *Detector) enter(slot int) {
	if slot == d.state.Slot {
		return
	}
	old := d.null
	d.null = newNull(d.reference[slot], d.kind, d.effect)
	d.state.Slot = slot
	for _, live := range d.state.Live {
		sum := 0.0
		for i := range live {
			live[i] *= d.null.q[i] / old.q[i]
			sum += live[i]
		}
		for i := range live {
			live[i] /= sum
		}
	}
}

// Evidence returns M: 0 at first, and at least A at an alarm that comes once in A
// ticks without drift.
func (d *Detector) Evidence() float64 {
	sum := 0.0
	for i, w := range d.kind.weights {
		sum += w * d.state.Wealth[i]
	}
	return sum
}

// MarshalJSON writes what the detector has learned, without its reference.
func (d *Detector) MarshalJSON() ([]byte, error) { return json.Marshal(d.state) }

// UnmarshalJSON takes over what a detector of the same stream has learned.
func (d *Detector) UnmarshalJSON(text []byte) error {
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("cannot read the state of a detector: %w", err)
	}
	return d.restore(s)
}

// restore checks a state before it is used.
func (d *Detector) restore(s state) error {
	ok := s.Slot >= 0 && s.Slot < len(d.reference) && len(s.Wealth) == len(d.state.Wealth) &&
		len(s.Live) == len(d.state.Live)
	for _, m := range s.Wealth {
		ok = ok && m >= 0 && m <= most
	}
	for _, live := range s.Live {
		sum := 0.0
		for _, h := range live {
			ok = ok && h >= 0
			sum += h
		}
		ok = ok && len(live) == d.kind.bins && math.Abs(sum-1) < 1e-6
	}
	if !ok {
		return fmt.Errorf("%w: the state is of another reference", ErrCounts)
	}
	if s.Slot != d.state.Slot {
		d.null = newNull(d.reference[s.Slot], d.kind, d.effect)
	}
	d.state = s
	return nil
}
