package drift

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/drift/detect"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// ErrNoSegments is returned for a profile without segments.
var ErrNoSegments = errors.New("drift: the reference has no segments")

// SegmentWindow counts rows as a Window does, those of each segment of a profile on
// their own: a row is counted once. With 50 features a segment takes 20 KiB here, and in a
// SegmentMonitor 80 KiB.
type SegmentWindow struct {
	segments *reference.Segments
	column   int
	windows  []*Window
	last     int // that had a row
}

// NewSegmentWindow returns an empty window for rows with these columns, among which all
// features of the profile and the column of its segments must be.
func NewSegmentWindow(p *reference.Profile, columns []string) (*SegmentWindow, error) {
	if p.Segments == nil {
		return nil, ErrNoSegments
	}
	w := &SegmentWindow{segments: p.Segments, column: slices.Index(columns, p.Segments.Column)}
	if w.column < 0 {
		return nil, fmt.Errorf("%w: there is no %q, by which segments are told", ErrRow,
			p.Segments.Column)
	}
	for range p.Segments.List {
		one, err := NewWindow(p, columns)
		if err != nil {
			return nil, err
		}
		w.windows = append(w.windows, one)
	}
	return w, nil
}

// Add counts a row, a value for each column.
func (w *SegmentWindow) Add(row []sketch.Value) error {
	if w.column >= len(row) {
		return fmt.Errorf("%w: it has %d", ErrRow, len(row))
	}
	w.last = w.segments.Place(row[w.column])
	return w.windows[w.last].Add(row)
}

// Score returns how unusual the row is that was added last, among those of all segments.
func (w *SegmentWindow) Score() float64 { return w.windows[w.last].Score() }

// AddTo adds the rows of all segments to a window, for the monitor of all rows.
func (w *SegmentWindow) AddTo(whole *Window) error {
	for _, one := range w.windows {
		if err := whole.Merge(one); err != nil {
			return err
		}
	}
	return nil
}

// Rows returns how many rows were counted: see [Window.Rows].
func (w *SegmentWindow) Rows() (rows uint64, ok bool) {
	for _, one := range w.windows {
		n, ok := one.Rows()
		if !ok {
			return rows, false
		}
		rows += n
	}
	return rows, true
}

// Merge adds the rows of another window on the same profile. After an error some of
// them may have been added: throw the window away.
func (w *SegmentWindow) Merge(o *SegmentWindow) error {
	if len(w.windows) != len(o.windows) {
		return sketch.ErrMismatch
	}
	for i, one := range w.windows {
		if err := one.Merge(o.windows[i]); err != nil {
			return err
		}
	}
	return nil
}

// Reset empties the window.
func (w *SegmentWindow) Reset() {
	for _, one := range w.windows {
		one.Reset()
	}
}

// AppendBinary appends the binary form: of each window its length and its bytes.
func (w *SegmentWindow) AppendBinary(b []byte) ([]byte, error) {
	var one []byte
	for _, window := range w.windows {
		var err error
		if one, err = window.AppendBinary(one[:0]); err != nil {
			return b, err
		}
		b = binary.AppendUvarint(b, uint64(len(one)))
		b = append(b, one...)
	}
	return b, nil
}

// UnmarshalBinary replaces the counts by those of a binary form. After an error some of
// them may be: throw the window away.
func (w *SegmentWindow) UnmarshalBinary(data []byte) error {
	for i, window := range w.windows {
		n, size := binary.Uvarint(data)
		if size <= 0 || n > uint64(len(data)-size) {
			return fmt.Errorf("%w: it ends in segment %d", sketch.ErrData, i)
		}
		end := size + int(n)
		if err := window.UnmarshalBinary(data[size:end]); err != nil {
			return fmt.Errorf("segment %d: %w", i, err)
		}
		data = data[end:]
	}
	if len(data) > 0 {
		return fmt.Errorf("%w: %d bytes are left over", sketch.ErrData, len(data))
	}
	return nil
}

// SegmentMonitor gathers evidence that some segments have left their references. What all
// rows tell is for a Monitor; so is a segment that has more rows than it had.
type SegmentMonitor struct {
	config   Config
	segments *reference.Segments
	monitors []*Monitor // nil for a segment without a reference
}

// SegmentReport is what is known of segments after a tick.
type SegmentReport struct {
	Evidence float64   `json:"evidence"` // an alarm from the promised number of ticks on
	Alarm    bool      `json:"alarm"`
	Segments []Segment `json:"segments"`
}

// Segment is the part of one segment. Its own report has an alarm where its evidence
// alone is enough: for K segments that is K times the promised number of ticks.
type Segment struct {
	Value string `json:"value"` // "" stands for all values that have no segment
	Named bool   `json:"named"` // this one has drifted
	Report
}

// mostTicks is the greatest promise that a Config may make.
const mostTicks = 1e9

// NewSegmentMonitor returns a monitor of a profile's segments. The promise is for all of
// them together.
func NewSegmentMonitor(p *reference.Profile, c Config) (*SegmentMonitor, error) {
	if p.Segments == nil {
		return nil, ErrNoSegments
	}
	if err := c.Validate(); err != nil {
		return nil, err
	}
	m := &SegmentMonitor{config: c, segments: p.Segments,
		monitors: make([]*Monitor, len(p.Segments.List))}
	alone := c
	alone.FalseAlarmEvery = min(c.FalseAlarmEvery*float64(len(m.monitors)), mostTicks)
	for i := range p.Segments.List {
		of := p.Segments.List[i].Profile()
		if of == nil {
			continue
		}
		var err error
		if m.monitors[i], err = newMonitor(of, p, alone); err != nil {
			return nil, err
		}
	}
	return m, nil
}

// Tick takes in the rows of all replicas of one tick, which began at a time.
func (m *SegmentMonitor) Tick(w *SegmentWindow, at time.Time) (SegmentReport, error) {
	if w.segments != m.segments {
		return SegmentReport{}, errors.New("drift: window of another profile")
	}
	for i, one := range m.monitors {
		if one == nil {
			continue
		}
		if _, err := one.Tick(w.windows[i], at); err != nil {
			return SegmentReport{}, err
		}
	}
	return m.Report(), nil
}

// Report says how things are.
func (m *SegmentMonitor) Report() (r SegmentReport) {
	var evidence []float64
	for i, one := range m.monitors {
		if one == nil {
			continue
		}
		s := Segment{Value: m.segments.List[i].Value, Report: one.Report()}
		evidence = append(evidence, s.Evidence)
		r.Segments = append(r.Segments, s)
	}
	r.Evidence = detect.Average(evidence)
	r.Alarm = r.Evidence >= m.config.FalseAlarmEvery
	for _, i := range detect.Name(evidence, m.config.FalseAlarmEvery) {
		r.Segments[i].Named = true
	}
	return r
}

// Reset forgets all evidence.
func (m *SegmentMonitor) Reset() {
	for _, one := range m.monitors {
		if one != nil {
			one.Reset()
		}
	}
}

// MarshalJSON writes what the monitor has learned: a list with one state a segment.
func (m *SegmentMonitor) MarshalJSON() ([]byte, error) { return json.Marshal(m.monitors) }

// UnmarshalJSON takes over what a monitor with the same profile has learned. After an
// error the monitor is as before.
func (m *SegmentMonitor) UnmarshalJSON(text []byte) error {
	var states []json.RawMessage
	if err := json.Unmarshal(text, &states); err != nil {
		return fmt.Errorf("cannot read the state of a monitor of segments: %w", err)
	}
	if len(states) != len(m.monitors) {
		return ErrState
	}
	fresh := make([]*Monitor, len(m.monitors))
	for i, one := range m.monitors {
		if one == nil {
			continue
		}
		var err error
		if fresh[i], err = newMonitor(one.profile, one.windows, one.config); err != nil {
			return err
		}
		if err := fresh[i].UnmarshalJSON(states[i]); err != nil {
			return err
		}
	}
	m.monitors = fresh
	return nil
}
