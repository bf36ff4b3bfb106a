package drift

import (
	"fmt"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// Scorer tells how unusual rows are, as a Window does of those that it counts. It counts
// none, and belongs to one goroutine at a time.
type Scorer struct {
	places    []int // of the features in a row
	columns   int
	layouts   []*sketch.Layout // of the features, then of the joint projections
	projector *reference.Projector
	scorer    *reference.Scorer
	row       []float64 // the last one's numbers, in the order of the features
	bins      []int     // of the last row, as layouts
}

// NewScorer returns a scorer of rows with these columns, among which all features of the
// profile must be.
func NewScorer(p *reference.Profile, columns []string) (*Scorer, error) {
	places, err := p.Match(columns)
	if err != nil {
		return nil, err
	}
	s := &Scorer{places: places, columns: len(columns), layouts: layouts(p), scorer: p.NewScorer(),
		row: make([]float64, len(places))}
	if p.Joint != nil {
		s.projector = p.Joint.NewProjector()
	}
	s.bins = make([]int, len(s.layouts))
	return s, nil
}

// Score returns how unusual a row is, which has a value for each column: see
// [reference.Scorer]. It keeps nothing of the row.
func (s *Scorer) Score(row []sketch.Value) (float64, error) {
	if len(row) != s.columns {
		return 0, fmt.Errorf("%w: it has %d, not %d", ErrRow, len(row), s.columns)
	}
	for i, at := range s.places {
		s.row[i] = row[at].Float()
		s.bins[i] = s.layouts[i].Bin(row[at])
	}
	if s.projector != nil {
		for i, x := range s.projector.Project(s.row, s.bins) {
			at := len(s.places) + i
			s.bins[at] = s.layouts[at].Bin(sketch.Number(x))
		}
	}
	return s.scorer.Score(s.bins), nil
}
