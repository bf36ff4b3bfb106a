package monitor

import (
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/performance"
)

// Kind is what evidence is of.
type Kind string

// The kinds of evidence. Each has its own share of the promise about false alarms.
const (
	KindDrift       Kind = "drift"       // rows have left the reference
	KindPerformance Kind = "performance" // answers are wrong more often
	KindOutliers    Kind = "outliers"    // more rows are unusual
	KindSegment     Kind = "segment"     // rows with one value of a column have left theirs
)

// Strand is the evidence of one kind.
type Strand struct {
	Kind     Kind      `json:"kind,omitempty"`
	Ticks    uint64    `json:"ticks"`          // with something to judge
	Evidence float64   `json:"evidence"`       // an alarm from Config.Every on
	Began    time.Time `json:"began,omitzero"` // since when the evidence has grown
	Delay    uint64    `json:"delay"`          // ticks since then
}

// follow counts a tick whose first row or loss is of a time. Evidence of few of them a tick is
// never quite nothing: it has begun to grow when it was last calm.
func (s *Strand) follow(c *Config, at time.Time) {
	if s.Evidence < c.calm() || s.Began.IsZero() {
		s.Began, s.Delay = at, 0
	}
	s.Ticks++
	s.Delay++
}

// strongest returns the strand that is nearest to an alarm, of several the first.
func strongest(all []Strand) (most Strand) {
	for i, s := range all {
		if i == 0 || s.Evidence > most.Evidence {
			most = s
		}
	}
	return most
}

// harm is a detector of a mean loss that has risen, with what people want to know of it.
type harm struct {
	detector *performance.Harm
	window   performance.Losses // since the last tick
	at       time.Time          // of the first of these
	strand   Strand
	since    performance.Losses // since the evidence has grown
}

func newHarm(kind Kind, reference performance.Losses, c *Config) (*harm, error) {
	d, err := performance.NewHarm(reference, drift.Config{FalseAlarmEvery: c.Every,
		Tolerance: c.Tolerance})
	return &harm{detector: d, strand: Strand{Kind: kind}}, err
}

// add counts a loss, which is from 0 to 1.
func (h *harm) add(at time.Time, loss float64) error {
	if h.window.Rows == 0 {
		h.at = at
	}
	return h.window.Add(loss)
}

// tick judges the losses since the last one.
func (h *harm) tick(c *Config) (performance.HarmReport, error) {
	if h.window.Rows == 0 {
		return h.detector.Report(), nil
	}
	h.strand.follow(c, h.at)
	if err := h.detector.Tick(h.window); err != nil {
		return performance.HarmReport{}, err
	}
	if h.strand.Delay == 1 {
		h.since = performance.Losses{}
	}
	h.since.Merge(h.window)
	h.window = performance.Losses{}
	r := h.detector.Report()
	h.strand.Evidence = r.Evidence
	return r, nil
}

// restart forgets the evidence, and the losses since the last tick.
func (h *harm) restart() {
	h.detector.Reset()
	h.window, h.since = performance.Losses{}, performance.Losses{}
	h.strand = Strand{Kind: h.strand.Kind}
}
