// Package monitor decides whether the rows of an endpoint have left the reference of the version
// that serves it, and what state that leaves an alarm in.
//
//   - [Monitor] counts rows, learns a reference from the first ones where there is none, and
//     gathers evidence, a tick at a time. What it finds in a tick is a [Reading].
//   - [Counts] are what one Monitor has counted and another judges: replicas of a server watch as
//     one.
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
	Loss        *Loss    // of answers; nil where nothing becomes known of them
	Outliers    float64  // share of the reference's rows that are unusual, about; 0 looks for none
	Segment     string   // column whose values are also looked at one by one; empty for none
	Derived     []Derived
}

// Derived is a number that is computed of the columns of a row.
type Derived struct {
	Name string
	Of   func(row []sketch.Value) (x float64, ok bool) // without ok there is none
	// Watched makes it a column too. A reference that is given has it.
	Watched bool
	// Seen is called with it for each row that is added; nil for nobody.
	Seen func(x float64, ok bool)
}

// Suspicion is the evidence from which on a monitor suspects drift. Without drift that happens up
// to ten times as often as an alarm.
func (c *Config) Suspicion() float64 { return max(c.Every/10, c.calm()) }

// calm is the evidence below which a suspicion is over: half the way to an alarm, as evidence of
// drift grows by about the same factor from tick to tick.
func (c *Config) calm() float64 { return math.Sqrt(c.Every) }

// something is the evidence from which on there is some: below it, it is what nothing leaves.
const something = 1

// ErrState is returned for a kept state that is of another reference, or damaged, and for counts of
// another reference.
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
	strand   Strand     // of drift
	live     [][]uint32 // since its evidence has grown; nil while nothing has begun
	examples []string   // rows of the window, as texts writes them
	series   series
	last     Reading

	inputs    int            // columns of a row that are none of outputs, which come after
	outputs   []string       // before those that are derived
	row       []sketch.Value // with these
	performer *performer     // nil where nothing becomes known of answers
	outlying  *outlying      // nil where outliers are not looked for
	segmented *segmented     // nil where there are none; else it has the window's rows until a tick
}

// New returns a monitor of rows of a model with this signature. Without a profile it learns one.
func New(cfg Config, sig *tensor.Signature, p *reference.Profile) (*Monitor, error) {
	m := &Monitor{cfg: cfg, rows: drift.NewRows(sig), outputs: Outputs(sig)}
	m.inputs = len(m.rows.Columns()) - len(m.outputs)
	if err := m.checkDerived(p); err != nil {
		return nil, err
	}
	if cfg.Loss != nil {
		var err error
		if m.performer, err = newPerformer(&cfg, m.inputs, m.outputs, lossesOf(p)); err != nil {
			return nil, err
		}
	}
	if p != nil {
		return m, m.begin(p)
	}
	return m, m.learn(sig)
}

// checkDerived holds the derived columns against those of the model and of a reference.
func (m *Monitor) checkDerived(p *reference.Profile) error {
	for _, d := range m.cfg.Derived {
		if !d.Watched {
			continue
		}
		if slices.Contains(m.rows.Columns(), d.Name) {
			return fmt.Errorf("%w: %q is one of the model; name the metric otherwise",
				reference.ErrColumn, d.Name)
		}
		if p != nil && !slices.ContainsFunc(p.Features, func(f reference.Feature) bool {
			return f.Name == d.Name
		}) {
			return fmt.Errorf("%w: the reference has no %q for the metric to be compared with; "+
				"compute it there too, or learn the reference", reference.ErrColumn, d.Name)
		}
	}
	return nil
}

// columns returns the names of a row's columns, with those that are derived.
func (m *Monitor) columns() []string {
	columns := m.rows.Columns()
	for _, d := range m.cfg.Derived {
		if d.Watched {
			columns = append(columns, d.Name)
		}
	}
	return columns
}

// derive computes what is derived of a row, and returns the row with the columns among that, valid
// until the next call.
func (m *Monitor) derive(row []sketch.Value) []sketch.Value {
	if len(m.cfg.Derived) == 0 {
		return row
	}
	m.row = append(m.row[:0], row...)
	for _, d := range m.cfg.Derived {
		value := sketch.Missing()
		x, ok := d.Of(row)
		if ok {
			value = sketch.Number(x)
		}
		if d.Seen != nil {
			d.Seen(x, ok)
		}
		if d.Watched {
			m.row = append(m.row, value)
		}
	}
	return m.row
}

// learn begins to gather rows for a reference.
func (m *Monitor) learn(sig *tensor.Signature) error {
	columns := m.columns()
	if len(columns) == 0 {
		return errors.New("the model has no inputs and outputs whose rows could be watched; take " +
			"the monitor away")
	}
	there := func(names []string) []string {
		return slices.DeleteFunc(slices.Clone(names), func(name string) bool {
			return !slices.Contains(columns, name)
		})
	}
	var err error
	m.learner, err = reference.NewCollector(columns, reference.Options{
		Categorical: there(m.cfg.Categorical), Ignored: there(m.cfg.Ignored),
		Outputs: m.outputs, Segment: m.cfg.Segment})
	return err
}

// Outputs lists the columns of a row that are the model's answers.
func Outputs(sig *tensor.Signature) []string {
	inputs := drift.NewRows(&tensor.Signature{Inputs: sig.Inputs, MaxBatchSize: sig.MaxBatchSize})
	return slices.Clone(drift.NewRows(sig).Columns()[len(inputs.Columns()):])
}

// begin watches against a reference.
func (m *Monitor) begin(p *reference.Profile) error {
	columns := m.columns()
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
	var o *outlying
	if m.cfg.Outliers > 0 {
		if o, err = newOutlying(&m.cfg, p); err != nil {
			return err
		}
	}
	var g *segmented
	if m.cfg.Segment != "" {
		if g, err = newSegmented(&m.cfg, p, columns); err != nil {
			return err
		}
	}
	m.outlying, m.segmented = o, g
	m.profile, m.places, m.window, m.drift, m.learner, m.counted = p, places, w, d, nil, 0
	m.live, m.examples, m.strand = nil, nil, Strand{Kind: KindDrift}
	return nil
}

// Learning says whether the reference is still learned.
func (m *Monitor) Learning() bool { return m.learner != nil }

// Request is a request that was answered. Its tensors are in the order of the signature.
type Request struct {
	ID              []byte // by which it may become known what the answer should have been
	Time            time.Time
	Inputs, Outputs []tensor.Tensor
}

// Add counts the rows of a request and its answer, and returns how many they were. It keeps nothing
// of them but what a label is compared with.
func (m *Monitor) Add(q *Request) (rows int, err error) {
	at := q.Time
	if m.counted == 0 {
		m.at = at
	}
	err = m.rows.Each(q.Inputs, q.Outputs, func(row []sketch.Value) error {
		rows++
		row = m.derive(row)
		if m.performer != nil {
			m.performer.note(row)
		}
		if m.learner != nil {
			return m.learner.Add(at, row)
		}
		if n := len(m.examples); n == 0 || n < maxExamples && m.live != nil {
			m.examples = append(m.examples, m.texts(row))
		}
		return m.count(at, row)
	})
	_ = m.rows.Each(nil, nil, nil) // lets go of the tensors
	m.counted += uint64(rows)
	m.total += uint64(rows)
	if m.performer != nil {
		m.performer.remember(q.ID)
	}
	return rows, err
}

// Label takes what a request should have been answered: a JSON value, and for one of several rows
// a list of these.
func (m *Monitor) Label(now time.Time, id, label []byte) {
	if p := m.performer; p != nil && p.place >= 0 {
		p.label(now, id, label)
	}
}

// Reward takes how good an answer was, from 0 to 1.
func (m *Monitor) Reward(now time.Time, reward float64) {
	if p := m.performer; p != nil && p.place < 0 {
		p.add(now, 1-reward)
	}
}

// count counts a row.
func (m *Monitor) count(at time.Time, row []sketch.Value) error {
	add, score := m.window.Add, m.window.Score
	if g := m.segmented; g != nil {
		add, score = g.window.Add, g.window.Score
	}
	if err := add(row); err != nil || m.outlying == nil {
		return err
	}
	return m.score(at, row, score())
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
		if m.strand.Evidence < something || m.strand.Began.IsZero() {
			m.strand.Began, m.strand.Delay, m.live = m.at, 0, nil
		}
		if g := m.segmented; g != nil {
			if err := g.window.AddTo(m.window); err != nil {
				return r, err
			}
		}
		if _, err := m.drift.Tick(m.window, m.at); err != nil {
			return r, err
		}
		m.strand.Delay++
	}
	report := m.drift.Report()
	m.strand.Ticks, m.strand.Evidence = report.Ticks, report.Evidence
	if report.Evidence >= something {
		m.gather()
	}
	r.Features = m.features(report)
	r.Examples = m.samples(r.Features)
	if err := m.judge(&r); err != nil {
		return r, err
	}
	m.series.add(Point{Time: now, Evidence: r.Evidence, Rows: r.Rows})
	r.Series = m.series.points
	if m.counted > 0 {
		m.window.Reset()
		m.examples, m.counted = nil, 0
	}
	m.last = r
	return r, nil
}

// judge puts the evidence of all kinds together.
func (m *Monitor) judge(r *Reading) error {
	r.Strands = []Strand{m.strand}
	if p := m.performer; p != nil {
		found, err := p.tick(&m.cfg, r.Rows)
		if err != nil {
			return fmt.Errorf("cannot judge the answers: %w", err)
		}
		r.Performance = found
		if found.Learn == 0 {
			r.Strands = append(r.Strands, found.Strand)
		}
	}
	if o := m.outlying; o != nil {
		found, err := o.tick(&m.cfg)
		if err != nil {
			return fmt.Errorf("cannot judge the outliers: %w", err)
		}
		r.Outliers = found
		r.Strands = append(r.Strands, found.Strand)
	}
	if g := m.segmented; g != nil {
		found, err := g.tick(&m.cfg, m.at, m.counted)
		if err != nil {
			return fmt.Errorf("cannot judge the segments: %w", err)
		}
		r.Segments = found
		r.Strands = append(r.Strands, found.Strand)
	}
	r.Strand = strongest(r.Strands)
	return nil
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
		m.strand, m.live = Strand{Kind: KindDrift}, nil
	}
	if m.performer != nil {
		m.performer.restart()
	}
	if m.outlying != nil {
		m.outlying.harm.restart()
	}
	if m.segmented != nil {
		m.segmented.restart()
	}
}

// kept is the JSON form of what a monitor has learned.
type kept struct {
	Profile json.RawMessage `json:"profile,omitempty"` // where it was learned
	Drift   json.RawMessage `json:"drift"`
	Total   uint64          `json:"total"`
	Strand  Strand          `json:"strand"`
	Live    [][]uint32      `json:"live"`
	Last    Reading         `json:"last"`
	Series  series          `json:"series"`

	Performance json.RawMessage `json:"performance,omitempty"`
	Outliers    json.RawMessage `json:"outliers,omitempty"`
	Segments    json.RawMessage `json:"segments,omitempty"`
}

// MarshalJSON writes what the monitor has learned up to its last tick. Of one that is still
// learning its reference there is nothing.
func (m *Monitor) MarshalJSON() ([]byte, error) {
	k := kept{Total: m.total - m.counted, Strand: m.strand, Live: m.live,
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
	if m.performer != nil {
		if k.Performance, err = json.Marshal(m.performer); err != nil {
			return nil, err
		}
	}
	if m.outlying != nil {
		if k.Outliers, err = json.Marshal(m.outlying); err != nil {
			return nil, err
		}
	}
	if m.segmented != nil {
		if k.Segments, err = json.Marshal(m.segmented); err != nil {
			return nil, err
		}
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
	if k.Performance != nil && m.performer != nil {
		p, err := newPerformer(&m.cfg, m.inputs, m.outputs, lossesOf(m.profile))
		if err == nil {
			err = p.restore(k.Performance, &m.cfg)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrState, err)
		}
		next.performer = p
	}
	if k.Outliers != nil && next.outlying != nil {
		if err := next.outlying.restore(k.Outliers); err != nil {
			return fmt.Errorf("%w: %w", ErrState, err)
		}
	}
	if k.Segments != nil && next.segmented != nil {
		if err := next.segmented.restore(k.Segments); err != nil {
			return fmt.Errorf("%w: %w", ErrState, err)
		}
	}
	next.live, next.total, next.strand = k.Live, k.Total, k.Strand
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
