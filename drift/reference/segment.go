package reference

import (
	"fmt"
	"slices"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// MaxSegments bounds the values of a column that are looked at one by one.
const MaxSegments = 32

const defaultMaxSegments = 10

// Segments are references of the rows with one value of a column each, with the bins of
// the whole profile, so that the counts of all segments add up to those of all rows.
type Segments struct {
	Column string `json:"column"`
	// List has the most frequent values, and at the end what stands for all others.
	List []Segment `json:"list"`

	layout *sketch.Layout
}

// Segment is the reference of one value.
type Segment struct {
	Value  string `json:"value"`            // "" at the end of the list
	Rows   uint64 `json:"rows"`             // of those that were kept
	Counts []Part `json:"counts,omitempty"` // of features, then of the joint projections

	profile *Profile
}

// Part has what a Feature has, of a segment's rows.
type Part struct {
	Counts       [][]uint64 `json:"counts"`
	DesignEffect float64    `json:"design_effect,omitempty"`
}

// Place returns which of the list a row with this value of the column belongs to.
func (s *Segments) Place(v sketch.Value) int { return min(s.layout.Bin(v), len(s.List)-1) }

// Profile returns the segment's reference. All others may have none, when there were
// too few.
func (s *Segment) Profile() *Profile { return s.profile }

// segments builds the references of the values that have rows enough; nil without any.
func (c *Collector) segments(p *Profile, rest *projected) *Segments {
	at := slices.IndexFunc(c.columns, func(col column) bool {
		return col.name == c.options.Segment
	})
	col := &c.columns[at]
	values := c.frequent(col, len(p.Features[0].Counts))
	if len(values) == 0 {
		return nil
	}
	s := &Segments{Column: col.name, List: make([]Segment, len(values)+1)}
	for i, name := range values {
		s.List[i].Value = name
	}
	if s.makeLayout() != nil {
		return nil
	}
	rows, inRest := make([][]int, len(s.List)), make([][]int, len(s.List))
	for i := range s.List {
		rows[i], inRest[i] = []int{}, []int{} // nil would be all
	}
	for row := range c.slots {
		place := s.Place(col.value(row))
		rows[place] = append(rows[place], row)
	}
	for i, row := range rest.places {
		place := s.Place(col.value(row))
		inRest[place] = append(inRest[place], i)
	}
	for i := range s.List {
		one := &s.List[i]
		one.Rows = uint64(len(rows[i]))
		one.Counts = c.parts(p, rows[i])
		if one.Counts != nil && p.Joint != nil {
			one.Counts = append(one.Counts, rest.parts(p.Joint, inRest[i])...)
		}
	}
	return s
}

// frequent returns the most frequent values that have rows enough in each slot.
func (c *Collector) frequent(col *column, slots int) (values []string) {
	counts := make(map[string][]uint64)
	for row, slot := range c.slots {
		if col.missing[row] {
			continue
		}
		name := col.texts[row]
		if counts[name] == nil {
			counts[name] = make([]uint64, slots)
		}
		counts[name][slot]++
	}
	for _, name := range col.categories() {
		if slices.Min(counts[name]) >= MinRows && len(values) < c.options.MaxSegments {
			values = append(values, name)
		}
	}
	return values
}

// parts counts some rows by the features of a profile; nil when they are too few.
func (c *Collector) parts(p *Profile, rows []int) (parts []Part) {
	byName := c.byName()
	for _, f := range p.Features { // copies
		c.count(&f, byName[f.Name], rows)
		if f.least() < MinRows {
			return nil
		}
		parts = append(parts, Part{f.Counts, f.DesignEffect})
	}
	return parts
}

// parts counts some rows by the directions; nil when they are too few.
func (r *projected) parts(j *Joint, rows []int) (parts []Part) {
	for d, f := range j.Projected { // copies
		r.count(&f, &r.columns[d], rows)
		if f.least() < MinRows {
			return nil
		}
		parts = append(parts, Part{f.Counts, f.DesignEffect})
	}
	return parts
}

func (s *Segments) makeLayout() (err error) {
	var values []string
	for i := range len(s.List) - 1 {
		values = append(values, s.List[i].Value)
	}
	s.layout, err = sketch.Categorical(values)
	return err
}

// prepare checks segments that were built or read, and makes their profiles.
func (s *Segments) prepare(p *Profile, slots int) error {
	if n := len(s.List); n < 2 || n > MaxSegments+1 || s.List[n-1].Value != "" {
		return fmt.Errorf("there are %d in the list, it must have 1 to %d and all others", n,
			MaxSegments)
	}
	if err := s.makeLayout(); err != nil {
		return err
	}
	for i := range s.List {
		one := &s.List[i]
		if one.Counts == nil && i == len(s.List)-1 {
			continue
		}
		if err := one.prepare(p, slots); err != nil {
			return fmt.Errorf("%q: %w", one.Value, err)
		}
	}
	return nil
}

// prepare makes the profile of a segment, which shares the bins of the whole one.
func (s *Segment) prepare(p *Profile, slots int) error {
	all := slices.Clone(p.Features)
	joint := p.Joint != nil && len(s.Counts) == len(p.Features)+len(p.Joint.Projected)
	if joint {
		all = append(all, p.Joint.Projected...)
	}
	if len(s.Counts) != len(all) {
		return fmt.Errorf("it has counts of %d features, not of %d", len(s.Counts), len(all))
	}
	for i := range all {
		all[i].Counts, all[i].DesignEffect = s.Counts[i].Counts, s.Counts[i].DesignEffect
		if err := all[i].check(slots); err != nil {
			return fmt.Errorf("feature %q: %w", all[i].Name, err)
		}
		s.Counts[i].Counts = all[i].Counts
	}
	s.profile = &Profile{Version: p.Version, Rows: s.Rows, Season: p.Season,
		Features: all[:len(p.Features):len(p.Features)]}
	if joint {
		j := *p.Joint
		j.Projected = all[len(p.Features):]
		s.profile.Joint = &j
	}
	return nil
}

// eachHour ends a sentence about rows.
func eachHour(s Season) string {
	if s == NoSeason {
		return ""
	}
	return " in each hour"
}
