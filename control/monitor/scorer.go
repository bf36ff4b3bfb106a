package monitor

import (
	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Scorer tells how unusual the rows of requests are, as a monitor does of those that it counts. It
// counts none, and belongs to one goroutine at a time.
type Scorer struct {
	columns   *Monitor // that makes rows with all columns, and no more
	rows      *drift.Scorer
	threshold float64
}

// Reference returns what rows are held against: nil as long as it is learned. It is immutable.
func (m *Monitor) Reference() *reference.Profile { return m.profile }

// NewScorer returns a scorer for a model with this signature, by the reference of a monitor.
func NewScorer(cfg Config, sig *tensor.Signature, p *reference.Profile) (*Scorer, error) {
	t, err := threshold(&cfg, p)
	if err != nil {
		return nil, err
	}
	m := &Monitor{cfg: cfg, rows: drift.NewRows(sig)}
	rows, err := drift.NewScorer(p, m.columns())
	if err != nil {
		return nil, err
	}
	return &Scorer{m, rows, t.Score}, nil
}

// Score returns the greatest score of the rows of a request and its answer, and whether that makes
// an outlier; ok is false when there are no rows. It keeps nothing of them.
func (s *Scorer) Score(inputs, outputs []tensor.Tensor) (score float64, outlier, ok bool) {
	err := s.columns.rows.Each(inputs, outputs, func(row []sketch.Value) error {
		one, err := s.rows.Score(s.columns.derive(row))
		score, ok = max(score, one), true
		return err
	})
	_ = s.columns.rows.Each(nil, nil, nil) // lets go of the tensors
	return score, score > s.threshold, ok && err == nil
}
