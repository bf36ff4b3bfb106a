package drift

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// ErrRow is returned for a row that does not have the columns it should.
var ErrRow = errors.New("drift: row of other columns")

// Window counts rows by the bins of a profile.
type Window struct {
	profile   *reference.Profile
	places    []int // of the features in a row
	columns   int
	sketches  []*sketch.Sketch // of the features, then of the joint projections
	projector *reference.Projector
	row       []float64         // the last one's numbers, in the order of the features
	bins      []int             // of the last row, as sketches
	scorer    *reference.Scorer // nil before the first Score
}

// NewWindow returns an empty window for rows with these columns, among which all
// features of the profile must be.
func NewWindow(p *reference.Profile, columns []string) (*Window, error) {
	places, err := p.Match(columns)
	if err != nil {
		return nil, err
	}
	w := &Window{profile: p, places: places, columns: len(columns),
		row: make([]float64, len(places))}
	for _, l := range layouts(p) {
		w.sketches = append(w.sketches, sketch.New(l))
	}
	if p.Joint != nil {
		w.projector = p.Joint.NewProjector()
	}
	w.bins = make([]int, len(w.sketches))
	return w, nil
}

// layouts are those of the features, then of the joint projections.
func layouts(p *reference.Profile) (all []*sketch.Layout) {
	for i := range p.Features {
		all = append(all, p.Features[i].Layout())
	}
	if p.Joint != nil {
		for i := range p.Joint.Projected {
			all = append(all, p.Joint.Projected[i].Layout())
		}
	}
	return all
}

// Add counts a row, a value for each column. It keeps nothing of it.
func (w *Window) Add(row []sketch.Value) error {
	if len(row) != w.columns {
		return fmt.Errorf("%w: it has %d, not %d", ErrRow, len(row), w.columns)
	}
	for i, at := range w.places {
		w.row[i] = row[at].Float()
		w.bins[i] = w.sketches[i].Add(row[at])
	}
	if w.projector != nil {
		for i, x := range w.projector.Project(w.row, w.bins) {
			at := len(w.places) + i
			w.bins[at] = w.sketches[at].Add(sketch.Number(x))
		}
	}
	return nil
}

// Score returns how unusual the row is that was added last: see [reference.Scorer].
func (w *Window) Score() float64 {
	if w.scorer == nil {
		w.scorer = w.profile.NewScorer()
	}
	return w.scorer.Score(w.bins)
}

// Feature returns the counts of the profile's feature i.
func (w *Window) Feature(i int) *sketch.Sketch { return w.sketches[i] }

// Rows returns how many rows were counted. It is not ok where the sketches do not agree on that, as
// in a binary form that somebody has made up.
func (w *Window) Rows() (rows uint64, ok bool) {
	rows = w.sketches[0].Total()
	for _, s := range w.sketches[1:] {
		if s.Total() != rows {
			return rows, false
		}
	}
	return rows, true
}

// Merge adds the rows of another window on the same profile. After an error some of
// them may have been added: throw the window away.
func (w *Window) Merge(o *Window) error {
	if len(w.sketches) != len(o.sketches) {
		return sketch.ErrMismatch
	}
	for i, s := range w.sketches {
		if err := s.Merge(o.sketches[i]); err != nil {
			return err
		}
	}
	return nil
}

// Reset empties the window.
func (w *Window) Reset() {
	for _, s := range w.sketches {
		s.Reset()
	}
}

// AppendBinary appends the window's binary form: of each sketch its length and its
// bytes.
func (w *Window) AppendBinary(b []byte) ([]byte, error) {
	var one []byte
	for _, s := range w.sketches {
		var err error
		if one, err = s.AppendBinary(one[:0]); err != nil {
			return b, err
		}
		b = binary.AppendUvarint(b, uint64(len(one)))
		b = append(b, one...)
	}
	return b, nil
}

// UnmarshalBinary replaces the window's counts by those of a binary form. After an
// error the window is as before.
func (w *Window) UnmarshalBinary(data []byte) error {
	sketches := make([]*sketch.Sketch, len(w.sketches))
	for i, s := range w.sketches {
		n, size := binary.Uvarint(data)
		if size <= 0 || n > uint64(len(data)-size) {
			return fmt.Errorf("%w: it ends in sketch %d", sketch.ErrData, i)
		}
		end := size + int(n)
		var err error
		if sketches[i], err = sketch.Decode(s.Layout(), data[size:end]); err != nil {
			return fmt.Errorf("cannot read sketch %d of a window: %w", i, err)
		}
		data = data[end:]
	}
	if len(data) > 0 {
		return fmt.Errorf("%w: %d bytes are left over", sketch.ErrData, len(data))
	}
	w.sketches = sketches
	return nil
}
