// Package monitor decides whether the rows of an endpoint have left the reference of the version
// that serves it, and what state that leaves an alarm in.
//
//   - [Monitor] counts rows, learns a reference from the first ones where there is none, and
//     gathers evidence, a tick at a time. What it finds in a tick is a [Reading].
//   - [Status] is what people see and what is stored: Next takes a reading in, Acknowledge,
//     Resolve and Reset are what a person says. [Alarm] is the record of one alarm.
//
// Nothing here reads a clock, takes a lock or logs. A Monitor belongs to one goroutine at a time;
// a Status is a value.
package monitor

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Config is what a monitor promises, and how it gets its reference.
type Config struct {
	// Every is the average number of ticks with rows between alarms without drift, at least.
	Every     float64
	Tolerance float64 // in standard deviations
	// Learn is how many rows become the reference where none is given.
	Learn       int
	Ignored     []string // columns that a learned reference leaves out
	Categorical []string // columns of numbers that are names, of a learned reference
}

// Suspicion is the evidence from which on a monitor suspects drift. Without drift that happens up
// to ten times as often as an alarm.
func (c *Config) Suspicion() float64 { return max(c.Every/10, c.calm()) }

// calm is the evidence below which a suspicion is over: half the way to an alarm, as evidence of
// drift grows by about the same factor from tick to tick.
func (c *Config) calm() float64 { return math.Sqrt(c.Every) }

// something is the evidence from which on there is some: below it, it is what nothing leaves.
const something = 1

// ErrState is returned for a kept state that is of another reference, or damaged.
var ErrState = errors.New("monitor: state of another reference")

// Monitor watches the rows of one version.
type Monitor struct {
	cfg  Config
	rows *drift.Rows

	learner *reference.Collector // nil once there is a reference
	profile *reference.Profile
	places  []int // of the profile's features in a row
	window  *drift.Window
	drift   *drift.Monitor

	counted  uint64     // rows in the window
	total    uint64     // rows since the version began
	at       time.Time  // begin of the window
	began    time.Time  // since when evidence has grown
	delay    uint64     // ticks since then
	live     [][]uint32 // since then; nil while nothing has begun
	examples []string   // rows of the window, as texts writes them
	series   series
	last     Reading
}

// New returns a monitor of rows of a model with this signature. Without a profile it learns one.
func New(cfg Config, sig *tensor.Signature, p *reference.Profile) (*Monitor, error) {
	m := &Monitor{cfg: cfg, rows: drift.NewRows(sig)}
	if p != nil {
		return m, m.begin(p)
	}
	return m, m.learn(sig)
}

// learn begins to gather rows for a reference.
func (m *Monitor) learn(sig *tensor.Signature) error {
	columns := m.rows.Columns()
	if len(columns) == 0 {
		return errors.New("the model has no inputs and outputs of fixed width that could be " +
			"watched; take the monitor away")
	}
	there := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return !slices.Contains(columns, name)
		})
	}
	var err error
	m.learner, err = reference.NewCollector(columns, reference.Options{
		Categorical: there(m.cfg.Categorical), Ignored: there(m.cfg.Ignored),
		Outputs: Outputs(sig)})
	return err
}

// Outputs lists the columns of a row that are the model's answers.
func Outputs(sig *tensor.Signature) []string {
	inputs := drift.NewRows(&tensor.Signature{Inputs: sig.Inputs, MaxBatchSize: sig.MaxBatchSize})
	return drift.NewRows(sig).Columns()[len(inputs.Columns()):]
}

// begin watches against a reference.
func (m *Monitor) begin(p *reference.Profile) error {
	columns := m.rows.Columns()
	places, err := p.Match(columns)
	if err != nil {
		return err
	}
	w, err := drift.NewWindow(p, columns)
	if err != nil {
		return err
	}
	d, err := drift.NewMonitor(p, drift.Config{FalseAlarmEvery: m.cfg.Every,
		Tolerance: m.cfg.Tolerance})
	if err != nil {
		return err
	}
	m.profile, m.places, m.window, m.drift, m.learner, m.counted = p, places, w, d, nil, 0
	m.live, m.examples = nil, nil
	return nil
}

// Learning says whether the reference is still learned.
func (m *Monitor) Learning() bool { return m.learner != nil }

// Add counts the rows of a request and its answer, whose tensors are in the order of the
// signature, and returns how many they were. It keeps nothing of them.
func (m *Monitor) Add(at time.Time, inputs, outputs []tensor.Tensor) (rows int, err error) {
	if m.counted == 0 {
		m.at = at
	}
	err = m.rows.Each(inputs, outputs, func(row []sketch.Value) error {
		rows++
		if m.learner != nil {
			return m.learner.Add(at, row)
		}
		if n := len(m.examples); n == 0 || n < maxExamples && m.live != nil {
			m.examples = append(m.examples, m.texts(row))
		}
		return m.window.Add(row)
	})
	_ = m.rows.Each(nil, nil, nil) // lets go of the tensors
	m.counted += uint64(rows)
	m.total += uint64(rows)
	return rows, err
}

// maxExamples bounds the rows that are kept of a tick, maxCell the bytes of one value.
const maxExamples, maxCell = 3, 40

// separator stands between the values of an example that is kept.
const separator = "\x1f"

// texts writes the features of a row.
func (m *Monitor) texts(row []sketch.Value) string {
	var all []byte
	for _, at := range m.places {
		from := len(all)
		all = row[at].AppendText(all)
		all = append(all[:min(len(all), from+maxCell)], separator...)
	}
	return string(all)
}

// Tick judges the rows since the last one. An error says that no reference could be learned; the
// monitor goes on to learn then.
func (m *Monitor) Tick(now time.Time) (Reading, error) {
	r := Reading{Time: now, Rows: m.counted, Total: m.total, Series: m.series.points}
	if m.learner != nil {
		return m.tickLearning(r)
	}
	if m.counted > 0 {
		if m.last.Evidence < something || m.began.IsZero() {
			m.began, m.delay, m.live = m.at, 0, nil
		}
		if _, err := m.drift.Tick(m.window, m.at); err != nil {
			return r, err
		}
		m.delay++
	}
	report := m.drift.Report()
	if report.Evidence >= something {
		m.gather()
	}
	m.series.add(Point{Time: now, Evidence: report.Evidence, Rows: r.Rows})
	r.Ticks, r.Evidence, r.Began, r.Delay = report.Ticks, report.Evidence, m.began, m.delay
	r.Series = m.series.points
	r.Features = m.features(report)
	r.Examples = m.samples(r.Features)
	if m.counted > 0 {
		m.window.Reset()
		m.examples, m.counted = nil, 0
	}
	m.last = r
	return r, nil
}

// gather adds the window to what has come since something has begun.
func (m *Monitor) gather() {
	if m.live == nil {
		m.live = make([][]uint32, len(m.profile.Features))
		for i := range m.live {
			m.live[i] = make([]uint32, m.profile.Features[i].Layout().Bins())
		}
	}
	for i, counts := range m.live {
		for bin, n := range m.window.Feature(i).Counts() {
			counts[bin] += uint32(min(n, uint64(math.MaxUint32-counts[bin])))
		}
	}
}

func (m *Monitor) tickLearning(r Reading) (Reading, error) {
	r.Learn, r.Learned = m.cfg.Learn, int(m.learner.Rows())
	m.counted = 0
	if r.Learned < r.Learn {
		m.last = r
		return r, nil
	}
	p, err := m.learner.Build()
	if err == nil {
		err = m.begin(p)
	}
	if err != nil {
		return r, fmt.Errorf("cannot learn a reference from %d rows: %w", r.Learned, err)
	}
	m.last = r
	return r, nil
}

// Last returns the reading of the last tick.
func (m *Monitor) Last() Reading {
	r := m.last
	r.Series = m.series.points
	return r
}

// Restart forgets the evidence and the rows since the last tick, as after an alarm was raised.
func (m *Monitor) Restart() {
	if m.drift != nil {
		m.drift.Reset()
		m.window.Reset()
		m.counted, m.examples = 0, nil
		m.last.Evidence, m.began, m.live = 0, time.Time{}, nil
	}
}

// kept is the JSON form of what a monitor has learned.
type kept struct {
	Profile json.RawMessage `json:"profile,omitempty"` // where it was learned
	Drift   json.RawMessage `json:"drift"`
	Total   uint64          `json:"total"`
	Began   time.Time       `json:"began,omitzero"`
	Delay   uint64          `json:"delay"`
	Live    [][]uint32      `json:"live"`
	Last    Reading         `json:"last"`
	Series  series          `json:"series"`
}

// MarshalJSON writes what the monitor has learned up to its last tick. Of one that is still
// learning its reference there is nothing.
func (m *Monitor) MarshalJSON() ([]byte, error) {
	k := kept{Total: m.total - m.counted, Began: m.began, Delay: m.delay, Live: m.live,
		Last: m.last, Series: m.series}
	k.Last.Series = nil
	if m.drift == nil {
		return []byte("{}"), nil
	}
	var err error
	if m.cfg.Learn > 0 {
		if k.Profile, err = json.Marshal(m.profile); err != nil {
			return nil, err
		}
	}
	if k.Drift, err = json.Marshal(m.drift); err != nil {
		return nil, err
	}
	return json.Marshal(k)
}

// UnmarshalJSON takes over what a monitor with the same reference has learned. After an error,
// which wraps ErrState, the monitor is as before.
func (m *Monitor) UnmarshalJSON(text []byte) error {
	var k kept
	if err := json.Unmarshal(text, &k); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if k.Drift == nil {
		return nil
	}
	next := *m
	if next.learner != nil {
		p, err := readProfile(k.Profile)
		if err == nil {
			err = next.begin(p)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrState, err)
		}
	} else if err := next.begin(m.profile); err != nil {
		return err
	}
	if err := next.drift.UnmarshalJSON(k.Drift); err != nil {
		return fmt.Errorf("%w: %w", ErrState, err)
	}
	if !next.fits(k.Live) {
		return fmt.Errorf("%w: its counts have other bins", ErrState)
	}
	next.live, next.total, next.began, next.delay = k.Live, k.Total, k.Began, k.Delay
	next.last, next.series = k.Last, k.Series
	*m = next
	return nil
}

func (m *Monitor) fits(live [][]uint32) bool {
	return live == nil || slices.EqualFunc(live, m.profile.Features,
		func(counts []uint32, f reference.Feature) bool {
			return len(counts) == f.Layout().Bins()
		})
}
