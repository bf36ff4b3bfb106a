package monitor

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
)

// Segments is what is known of rows with one value of a column each.
type Segments struct {
	Strand
	Column string    `json:"column"`
	List   []Segment `json:"list"` // with the most evidence, the most first
}

// Segment is the part of one value.
type Segment struct {
	Value    string   `json:"value"` // "" stands for all others
	Evidence float64  `json:"evidence"`
	Named    bool     `json:"named,omitempty"`    // it has left its reference
	Features []string `json:"features,omitempty"` // that have drifted in it, a few
}

// Text says for people which rows these are.
func (s *Segment) Text(column string) string {
	if s.Value == "" {
		return "another " + column
	}
	return column + "=" + s.Value
}

// segmented looks at each segment of a reference.
type segmented struct {
	column  string
	window  *drift.SegmentWindow
	monitor *drift.SegmentMonitor
	strand  Strand
}

func newSegmented(c *Config, p *reference.Profile, columns []string) (*segmented, error) {
	if p.Segments == nil || p.Segments.Column != c.Segment {
		return nil, fmt.Errorf("%w by %q: no value of it has %d rows, or the profile was built "+
			"without; see `millrace reference build --segment`", drift.ErrNoSegments, c.Segment,
			reference.MinRows)
	}
	w, err := drift.NewSegmentWindow(p, columns)
	if err != nil {
		return nil, err
	}
	m, err := drift.NewSegmentMonitor(p, drift.Config{FalseAlarmEvery: c.Every,
		Tolerance: c.Tolerance})
	return &segmented{column: c.Segment, window: w, monitor: m,
		strand: Strand{Kind: KindSegment}}, err
}

// tick judges the rows since the last one, if there were any, the first at a time.
func (g *segmented) tick(c *Config, at time.Time, rows uint64) (*Segments, error) {
	if rows > 0 {
		g.strand.follow(c, at)
		if _, err := g.monitor.Tick(g.window, at); err != nil {
			return nil, err
		}
		g.window.Reset()
	}
	report := g.monitor.Report()
	g.strand.Evidence = report.Evidence
	r := &Segments{Strand: g.strand, Column: g.column}
	for _, s := range report.Segments {
		one := Segment{Value: s.Value, Evidence: s.Evidence, Named: s.Named}
		for _, f := range s.Streams {
			if f.Named && len(one.Features) < maxFeatures {
				one.Features = append(one.Features, f.Name)
			}
		}
		r.List = append(r.List, one)
	}
	slices.SortStableFunc(r.List, func(a, b Segment) int {
		return cmp.Compare(b.Evidence, a.Evidence)
	})
	return r, nil
}

// restart forgets the evidence, and the rows since the last tick.
func (g *segmented) restart() {
	g.monitor.Reset()
	g.window.Reset()
	g.strand = Strand{Kind: KindSegment}
}

// reason says which segments have left their reference; the first where none can be named.
func (s *Segments) reason() string {
	var named []string
	for i := range s.List {
		one := &s.List[i]
		if !one.Named && i > 0 {
			continue
		}
		text := one.Text(s.Column)
		if len(one.Features) > 0 {
			text += " (" + strings.Join(one.Features, ", ") + ")"
		}
		named = append(named, text)
	}
	return "rows with " + strings.Join(named, ", ") + " have left their reference"
}

// keptSegments is the JSON form of what was learned.
type keptSegments struct {
	Monitor json.RawMessage `json:"monitor"`
	Strand  Strand          `json:"strand"`
}

// MarshalJSON writes what was learned.
func (g *segmented) MarshalJSON() ([]byte, error) {
	text, err := json.Marshal(g.monitor)
	if err != nil {
		return nil, err
	}
	return json.Marshal(keptSegments{text, g.strand})
}

// restore takes over what was learned.
func (g *segmented) restore(text []byte) error {
	var k keptSegments
	if err := json.Unmarshal(text, &k); err != nil {
		return err
	}
	g.strand = k.Strand
	return g.monitor.UnmarshalJSON(k.Monitor)
}
