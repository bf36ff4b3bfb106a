package reference

import (
	"bytes"
	"fmt"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// Truth says which columns of a file tell how wrong the model's answers to its rows are. The zero
// Truth is none.
type Truth struct {
	Label  string // what the answer should have been; it is no feature
	Output string // what the model has answered
	// Scale is the error of a number that is a loss of 1, as is a greater one. With 0 each answer
	// that is not the label is.
	Scale float64
}

// Losses are how wrong the answers are to the rows of a reference that have a label: from 0 to 1
// each.
type Losses struct {
	Output string  `json:"output"`
	Scale  float64 `json:"scale,omitempty"`
	Sum    float64 `json:"sum"`
	Rows   uint64  `json:"rows"`
}

// check wants them to be possible, and enough of them.
func (l *Losses) check() error {
	if !(l.Sum >= 0) || l.Sum > float64(l.Rows) || l.Rows > 1<<40 || l.Output == "" ||
		!(l.Scale >= 0) || math.IsInf(l.Scale, 0) {
		return fmt.Errorf("losses of %q that are %v in %d rows are impossible", l.Output, l.Sum,
			l.Rows)
	}
	if l.Rows < MinRows {
		return fmt.Errorf("%w: %d have a label and so a loss, %d are needed", ErrRows, l.Rows,
			MinRows)
	}
	return nil
}

// loser sums up losses.
type loser struct {
	Losses
	label, output int // their places in a row
	a, b          []byte
}

// newLoser returns nil where there is no truth.
func newLoser(t Truth, names []string) (*loser, error) {
	if t == (Truth{}) {
		return nil, nil
	}
	l := &loser{Losses: Losses{Output: t.Output, Scale: t.Scale},
		label: slices.Index(names, t.Label), output: slices.Index(names, t.Output)}
	switch {
	case t.Label == "":
		return nil, fmt.Errorf("%w: an error with a scale needs the label", ErrColumn)
	case t.Output == "":
		return nil, fmt.Errorf("%w: the label %q needs the output that it is compared with",
			ErrColumn, t.Label)
	case !(t.Scale >= 0) || math.IsInf(t.Scale, 0):
		return nil, fmt.Errorf("%w: errors of %q cannot have the scale %v", ErrColumn, t.Output,
			t.Scale)
	case t.Output == t.Label:
		return nil, fmt.Errorf("%w: %q cannot be both label and output", ErrColumn, t.Label)
	case l.label < 0 || l.output < 0:
		return nil, fmt.Errorf("%w: the label %q and the output %q must both be among %q",
			ErrColumn, t.Label, t.Output, names)
	}
	return l, nil
}

// add takes a row, which has no loss where there is no label.
func (l *loser) add(row []sketch.Value) {
	truth, x := row[l.label], row[l.output]
	if truth.IsMissing() || l.Scale > 0 && math.IsNaN(truth.Float()) {
		return
	}
	l.Rows++
	if l.Scale == 0 {
		l.a, l.b = truth.AppendText(l.a[:0]), x.AppendText(l.b[:0])
		if x.IsMissing() || !bytes.Equal(l.a, l.b) {
			l.Sum++
		}
		return
	}
	loss := math.Abs(truth.Float()-x.Float()) / l.Scale
	if !(loss < 1) { // an answer that is no number is as wrong as can be
		loss = 1
	}
	l.Sum += loss
}
