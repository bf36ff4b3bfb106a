package drift

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/millrace-ml/millrace/drift/detect"
	"github.com/millrace-ml/millrace/drift/reference"
)

// ErrState is returned for the state of a monitor with another reference.
var ErrState = errors.New("drift: state of another reference; start anew")

// Joint is the name of the stream that stands for how features go together.
const Joint = "(joint)"

// Config says what a monitor promises.
type Config struct {
	// FalseAlarmEvery is the average number of ticks between alarms without drift, or
	// more.
	FalseAlarmEvery float64
	// Tolerance is what is no drift, in deviations: 0.1 is a shift of the mean by a tenth
	// of one, and what is as hard to tell. With 0 any lasting difference is found.
	Tolerance float64
}

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	if !(c.FalseAlarmEvery >= 1 && c.FalseAlarmEvery <= 1e9) {
		faults = append(faults, fmt.Errorf("drift: a false alarm every %v ticks cannot be: "+
			"1 to 1e9", c.FalseAlarmEvery))
	}
	if !(c.Tolerance >= 0 && c.Tolerance <= 1) {
		faults = append(faults, fmt.Errorf("drift: a tolerance of %v deviations cannot be: 0 to 1",
			c.Tolerance))
	}
	return errors.Join(faults...)
}

// Monitor gathers evidence that rows have left a profile.
type Monitor struct {
	profile   *reference.Profile
	windows   *reference.Profile // of the windows: of a segment's that of all
	print     string
	config    Config
	detectors []*detect.Detector // of features, then of projections
	ticks     uint64
}

// Report is what a monitor knows after a tick.
type Report struct {
	Ticks    uint64   `json:"ticks"`    // with rows in them
	Evidence float64  `json:"evidence"` // an alarm from the promised number of ticks on
	Alarm    bool     `json:"alarm"`
	Streams  []Stream `json:"streams"` // features in their order, then the joint one
}

// Stream is the part of one feature in a report.
type Stream struct {
	Name     string  `json:"name"`
	Evidence float64 `json:"evidence"`
	// Named says that this one has drifted. When many have drifted a little it may be
	// that no single one is named.
	Named bool `json:"named"`
}

// NewMonitor returns a monitor of rows that ought to be as in a profile.
func NewMonitor(p *reference.Profile, c Config) (*Monitor, error) { return newMonitor(p, p, c) }

// newMonitor returns a monitor that takes windows of another profile with the same bins.
func newMonitor(p, windows *reference.Profile, c Config) (*Monitor, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	print, err := p.Fingerprint()
	if err != nil {
		return nil, err
	}
	detectors, err := detect.New(streams(p), c.Tolerance)
	if err != nil {
		return nil, err
	}
	return &Monitor{p, windows, print, c, detectors, 0}, nil
}

// streams lists what is watched, the features first.
func streams(p *reference.Profile) (all []detect.Stream) {
	for i := range p.Features {
		all = append(all, watched(&p.Features[i]))
	}
	if p.Joint != nil {
		for i := range p.Joint.Projected {
			all = append(all, watched(&p.Joint.Projected[i]))
		}
	}
	return all
}

func watched(f *reference.Feature) detect.Stream {
	return detect.Stream{Name: f.Name, Layout: f.Layout(), Reference: f.Counts,
		DesignEffect: f.DesignEffect}
}

// Tick takes in the rows of all replicas of one tick, which began at a time. With a
// season it should not reach over a full hour. An empty window is no tick.
func (m *Monitor) Tick(w *Window, at time.Time) (Report, error) {
	if w.profile != m.windows {
		return Report{}, errors.New("drift: window of another profile")
	}
	slot := m.profile.Season.Slot(at)
	rows := uint64(0)
	for i, d := range m.detectors {
		rows = max(rows, w.sketches[i].Total())
		if err := d.Tick(w.sketches[i].Counts(), slot); err != nil {
			return Report{}, err
		}
	}
	if rows > 0 {
		m.ticks++
	}
	return m.Report(), nil
}

// Reference returns the fingerprint of the profile.
func (m *Monitor) Reference() string { return m.print }

// Report says how things are.
func (m *Monitor) Report() Report {
	evidence := make([]float64, len(m.detectors))
	for i, d := range m.detectors {
		evidence[i] = d.Evidence()
	}
	names := make([]string, 0, len(evidence))
	for i := range m.profile.Features {
		names = append(names, m.profile.Features[i].Name)
	}
	if n := len(names); n < len(evidence) {
		evidence = append(evidence[:n], detect.Average(evidence[n:]))
		names = append(names, Joint)
	}
	r := Report{Ticks: m.ticks, Evidence: detect.Average(evidence)}
	r.Alarm = r.Evidence >= m.config.FalseAlarmEvery
	for i, e := range evidence {
		r.Streams = append(r.Streams, Stream{Name: names[i], Evidence: e})
	}
	for _, i := range detect.Name(evidence, m.config.FalseAlarmEvery) {
		r.Streams[i].Named = true
	}
	return r
}

// Reset forgets all evidence, as after a new version was promoted.
func (m *Monitor) Reset() {
	m.ticks = 0
	for _, d := range m.detectors {
		d.Reset()
	}
}

// monitorState is the JSON form of what a monitor has learned.
type monitorState[D any] struct {
	Reference string `json:"reference"`
	Ticks     uint64 `json:"ticks"`
	Detectors []D    `json:"detectors"`
}

// MarshalJSON writes what the monitor has learned, without the profile.
func (m *Monitor) MarshalJSON() ([]byte, error) {
	return json.Marshal(monitorState[*detect.Detector]{m.print, m.ticks, m.detectors})
}

// UnmarshalJSON takes over what a monitor with the same profile has learned. After an
// error the monitor is as before.
func (m *Monitor) UnmarshalJSON(text []byte) error {
	var s monitorState[json.RawMessage]
	if err := json.Unmarshal(text, &s); err != nil {
		return fmt.Errorf("cannot read the state of a monitor: %w", err)
	}
	if s.Reference != m.print || len(s.Detectors) != len(m.detectors) {
		return ErrState
	}
	fresh, err := newMonitor(m.profile, m.windows, m.config)
	if err != nil {
		return err
	}
	for i, d := range fresh.detectors {
		if err := d.UnmarshalJSON(s.Detectors[i]); err != nil {
			return err
		}
	}
	fresh.ticks = s.Ticks
	*m = *fresh
	return nil
}
