package monitor

import (
	"errors"
	"fmt"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/performance"
)

// ErrCounts is returned for counts that no monitor can have made.
var ErrCounts = errors.New("monitor: impossible counts")

// Counts is what a monitor has counted, for another one with the same reference and rules that
// judges them together with its own. There are no rows in it, and what is found depends on nothing
// but the sum.
type Counts struct {
	Reference string    `json:"reference"` // its fingerprint
	Rows      uint64    `json:"rows"`
	Began     time.Time `json:"began,omitzero"` // when the first of these came
	// Window is the binary form of a drift.SegmentWindow where there are segments, and else of a
	// drift.Window. There is none without rows.
	Window []byte `json:"window,omitempty"`
	// Outliers are the rows, with a loss of 1 for an outlier.
	Outliers performance.Losses `json:"outliers,omitzero"`
	Answers  *CountedAnswers    `json:"answers,omitempty"` // where something becomes known of them
}

// CountedAnswers is what has become known of answers.
type CountedAnswers struct {
	Losses  performance.Losses `json:"losses"`
	Began   time.Time          `json:"began,omitzero"` // when the first of these came
	Unknown uint64             `json:"unknown"`        // labels: see Performance
	// How sure the model was of its answers, and of those with a label.
	Scores   performance.Scores   `json:"scores,omitzero"`
	Labelled performance.Labelled `json:"labelled,omitzero"`
}

// mostCounted bounds each count, so that sums of many are exact.
const mostCounted = 1 << 40

// Counting returns a reading of a monitor whose counts another one judges.
func (m *Monitor) Counting(now time.Time) Reading {
	m.last = Reading{Time: now, Rows: m.counted, Total: m.total}
	return m.last
}

// Take returns what was counted since the call before, and begins anew. It goes with a reference
// that was given.
func (m *Monitor) Take() (Counts, error) {
	if m.learner != nil {
		return Counts{}, fmt.Errorf("%w: the reference is still learned", ErrState)
	}
	c := Counts{Reference: m.drift.Reference(), Rows: m.counted}
	if m.counted > 0 {
		c.Began = m.at
		var err error
		if g := m.segmented; g != nil {
			c.Window, err = g.window.AppendBinary(nil)
			g.window.Reset()
		} else {
			c.Window, err = m.window.AppendBinary(nil)
			m.window.Reset()
		}
		if err != nil {
			return c, err
		}
	}
	if o := m.outlying; o != nil {
		c.Outliers, o.fresh = o.harm.window, nil
		o.harm.window = performance.Losses{}
	}
	if m.performer != nil {
		c.Answers = m.performer.takeCounted()
	}
	m.examples, m.counted = nil, 0
	return c, nil
}

// takeCounted returns what has become known since the call before.
func (p *performer) takeCounted() *CountedAnswers {
	a := &CountedAnswers{Losses: p.learned, Began: p.began, Unknown: p.last.Unknown - p.taken}
	p.taken = p.last.Unknown
	if h := p.harm; h != nil {
		a.Losses, a.Began, h.window = h.window, h.at, performance.Losses{}
	} else {
		p.learned = performance.Losses{}
	}
	if e := p.estimating; e != nil {
		a.Scores, a.Labelled = e.live, e.taught
		e.live, e.taught = performance.Scores{}, performance.Labelled{}
	}
	return a
}

// AddCounts adds what another monitor has counted to the rows of this tick. After an error
// nothing was added: it wraps ErrState for counts of another reference, and ErrCounts for those
// that cannot be.
func (m *Monitor) AddCounts(c *Counts, now time.Time) error {
	here := "" // while it is learned
	if m.learner == nil {
		here = m.drift.Reference()
	}
	if here == "" || c.Reference != here {
		return fmt.Errorf("%w: the counts are of reference %q, here it is %q", ErrState,
			c.Reference, here)
	}
	if err := m.check(c); err != nil {
		return err
	}
	if c.Rows > 0 {
		if err := m.addWindow(c); err != nil {
			return err
		}
	}
	at := earlier(c.Began, now)
	if c.Rows > 0 {
		if m.counted == 0 || at.Before(m.at) {
			m.at = at
		}
		m.counted += c.Rows
		m.total += c.Rows
	}
	if o := m.outlying; o != nil {
		o.harm.merge(at, c.Outliers)
		o.last.Rows += c.Outliers.Rows
		o.last.Above += uint64(c.Outliers.Sum)
	}
	if p := m.performer; p != nil && c.Answers != nil {
		p.merge(earlier(c.Answers.Began, now), c.Answers)
	}
	return nil
}

// earlier is a time of another clock, but not one to come.
func earlier(at, now time.Time) time.Time {
	if at.IsZero() || at.After(now) {
		return now
	}
	return at
}

// addWindow adds the rows of counts, all or none.
func (m *Monitor) addWindow(c *Counts) error {
	if g := m.segmented; g != nil {
		w, err := drift.NewSegmentWindow(m.profile, m.columns())
		if err == nil {
			err = c.read(w)
		}
		if err == nil {
			err = g.window.Merge(w)
		}
		return err
	}
	w, err := drift.NewWindow(m.profile, m.columns())
	if err == nil {
		err = c.read(w)
	}
	if err == nil {
		err = m.window.Merge(w)
	}
	return err
}

// read reads the window into one that is thrown away after an error.
func (c *Counts) read(w interface {
	UnmarshalBinary(data []byte) error
	Rows() (rows uint64, ok bool)
}) error {
	if err := w.UnmarshalBinary(c.Window); err != nil {
		return fmt.Errorf("%w: cannot read the window: %w", ErrCounts, err)
	}
	if rows, ok := w.Rows(); !ok || rows != c.Rows {
		return fmt.Errorf("%w: the window is not of %d rows", ErrCounts, c.Rows)
	}
	return nil
}

// check says what cannot be about counts, but for their window.
func (m *Monitor) check(c *Counts) error {
	outliers := uint64(0)
	if m.outlying != nil {
		outliers = c.Rows
	}
	a := c.Answers
	if a == nil {
		a = &CountedAnswers{}
	}
	switch {
	case c.Rows > mostCounted || a.Unknown > mostCounted:
		return fmt.Errorf("%w: more than %d of something", ErrCounts, uint64(mostCounted))
	case c.Outliers.Rows != outliers || !sums(c.Outliers):
		return fmt.Errorf("%w: %d rows, of which %d with %v outliers", ErrCounts, c.Rows,
			c.Outliers.Rows, c.Outliers.Sum)
	case (c.Answers != nil) != (m.performer != nil) || !sums(a.Losses):
		return fmt.Errorf("%w: %d losses that add up to %v", ErrCounts, a.Losses.Rows,
			a.Losses.Sum)
	}
	for i, n := range a.Labelled.Right {
		bin := func(s *performance.Scores) performance.Losses {
			return performance.Losses{Rows: s.Rows[i], Sum: s.Confidence[i]}
		}
		if !sums(bin(&a.Scores)) || !sums(bin(&a.Labelled.Scores)) || n > a.Labelled.Rows[i] {
			return fmt.Errorf("%w: confidences that add up to too much", ErrCounts)
		}
	}
	return nil
}

// sums says whether losses, each from 0 to 1, can add up to that.
func sums(l performance.Losses) bool {
	return l.Rows <= mostCounted && l.Sum >= 0 && l.Sum <= float64(l.Rows)
}

// merge adds losses, the first of a time.
func (h *harm) merge(at time.Time, l performance.Losses) {
	if l.Rows > 0 && (h.window.Rows == 0 || at.Before(h.at)) {
		h.at = at
	}
	h.window.Merge(l)
}

// merge adds what has become known elsewhere.
func (p *performer) merge(at time.Time, a *CountedAnswers) {
	if p.harm != nil {
		p.harm.merge(at, a.Losses)
	} else {
		p.learned.Merge(a.Losses)
	}
	p.last.Known += a.Losses.Rows
	p.last.Unknown += a.Unknown
	e := p.estimating
	switch {
	case e == nil:
		return
	case e.estimator == nil:
		e.taught.Merge(&a.Labelled)
	default:
		e.labelled.Merge(&a.Labelled)
	}
	e.live.Merge(&a.Scores)
}
