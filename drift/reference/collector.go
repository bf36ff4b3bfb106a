package reference

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/drift/sketch"
)

// Options say how a profile is built.
type Options struct {
	Season      Season
	TimeColumn  string   // of a file, for the season; it is no feature
	Categorical []string // columns of numbers that are names, such as codes
	Outputs     []string // columns of what the model answers
	Ignored     []string // columns that are no features, such as the label
	MaxRows     int      // that are kept in memory, a sample of all; 0 is 200,000
	Segment     string   // column whose values are also looked at one by one
	MaxSegments int      // so many of its values, the most frequent; 0 is 10
	Truth       Truth    // of the answers, where the file has it
}

// asText says whether a column has names, even if they look like numbers.
func (o *Options) asText(name string) bool {
	return name == o.Segment || slices.Contains(o.Categorical, name)
}

const defaultMaxRows = 200_000

// Collector gathers rows for a profile. Of more than it may keep it keeps a uniform
// sample.
type Collector struct {
	options Options
	columns []column
	slots   []int
	seen    uint64
	last    time.Time // of a row
	ordered bool      // rows came in the order of their times
	draw    *rand.Rand
	loser   *loser // nil without a label
}

// NewCollector returns a collector of rows with these columns.
func NewCollector(names []string, o Options) (*Collector, error) {
	if _, err := o.Season.slots(); err != nil {
		return nil, err
	}
	if o.MaxRows == 0 {
		o.MaxRows = defaultMaxRows
	}
	// The seed is fixed so that the same file always gives the same profile.
	c := &Collector{ordered: true, draw: rand.New(rand.NewPCG(1, 1))}
	for i, name := range names {
		if slices.Contains(names[:i], name) {
			return nil, fmt.Errorf("%w: %q is there twice", ErrColumn, name)
		}
		c.columns = append(c.columns, column{name: name})
	}
	if o.MaxSegments == 0 {
		o.MaxSegments = defaultMaxSegments
	}
	if o.MaxSegments < 0 || o.MaxSegments > MaxSegments {
		return nil, fmt.Errorf("reference: %d segments cannot be: 1 to %d", o.MaxSegments,
			MaxSegments)
	}
	c.options = o
	for _, list := range [][]string{o.Categorical, o.Outputs, o.Ignored, {o.Segment}} {
		for _, name := range list {
			if name != "" && !slices.Contains(names, name) {
				return nil, fmt.Errorf("%w: there is no %q among %q", ErrColumn, name, names)
			}
		}
	}
	for i := range c.columns {
		if o.asText(c.columns[i].name) {
			c.columns[i].toTexts()
		}
	}
	var err error
	if c.loser, err = newLoser(o.Truth, names); c.loser != nil {
		c.Ignore(o.Truth.Label)
	}
	return c, err
}

// Rows returns how many rows were added.
func (c *Collector) Rows() uint64 { return c.seen }

// Ignore leaves out columns that turned out to be no features.
func (c *Collector) Ignore(names ...string) {
	c.options.Ignored = append(slices.Clip(c.options.Ignored), names...)
}

// Add takes a row with a value for each column, and its time, which is the zero time
// when it is not known. Rows in the order of their times, and no more of them than are
// kept, also show how dependent they are.
func (c *Collector) Add(at time.Time, row []sketch.Value) error {
	if len(row) != len(c.columns) {
		return fmt.Errorf("%w: row %d has %d values, there are %d columns", ErrColumn, c.seen+1,
			len(row), len(c.columns))
	}
	place := len(c.slots)
	c.seen++
	if c.loser != nil {
		c.loser.add(row)
	}
	c.ordered = c.ordered && !at.IsZero() && !at.Before(c.last) && place < c.options.MaxRows
	c.last = at
	if place < c.options.MaxRows {
		c.slots = append(c.slots, 0)
	} else if place = int(c.draw.Uint64N(c.seen)); place >= c.options.MaxRows {
		return nil
	}
	c.slots[place] = c.options.Season.Slot(at)
	for i, v := range row {
		c.columns[i].set(place, v)
	}
	return nil
}

// Build makes a profile of the rows so far.
func (c *Collector) Build() (*Profile, error) {
	if len(c.slots) < MinRows {
		return nil, tooFew(uint64(len(c.slots)), 0, 1)
	}
	p := &Profile{Version: profileVersion, Rows: c.seen, Season: c.options.Season}
	if c.loser != nil {
		losses := c.loser.Losses
		p.Losses = &losses
	}
	var faults []error
	var numeric []int // places in columns of numeric inputs
	var features []int
	for i := range c.columns {
		col := &c.columns[i]
		if slices.Contains(c.options.Ignored, col.name) {
			continue
		}
		f, note, err := c.feature(col)
		if err != nil {
			faults = append(faults, fmt.Errorf("%w: %q %w", ErrColumn, col.name, err))
			continue
		}
		if note != "" {
			p.Notes = append(p.Notes, fmt.Sprintf("%q %s", col.name, note))
		} else if f.Edges != nil && !f.Output {
			numeric = append(numeric, i)
			features = append(features, len(p.Features))
		}
		if f.DesignEffect > 2 {
			p.Notes = append(p.Notes, fmt.Sprintf("%q is alike in rows that follow each other: "+
				"drift takes %.0f times as long to see", col.name, f.DesignEffect))
		}
		p.Features = append(p.Features, f)
	}
	if faults != nil {
		return nil, errors.Join(faults...)
	}
	if c.seen < 10_000 {
		p.Notes = append(p.Notes, fmt.Sprintf("with %d rows small shifts go unseen, 10000 are "+
			"better", c.seen))
	}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	var rest projected
	p.Joint, rest = c.joint(p, numeric, features)
	if c.options.Segment != "" {
		if p.Segments = c.segments(p, &rest); p.Segments == nil {
			return nil, fmt.Errorf("%w: no value of %q has %d, which a segment needs%s", ErrRows,
				c.options.Segment, MinRows, eachHour(p.Season))
		}
	}
	if err := p.prepare(); err != nil {
		return nil, err
	}
	p.Outliers = c.outliers(p)
	return p, nil
}

// byName returns the columns by their names.
func (c *Collector) byName() map[string]*column {
	all := make(map[string]*column, len(c.columns))
	for i := range c.columns {
		all[c.columns[i].name] = &c.columns[i]
	}
	return all
}

// feature builds the reference of one column.
func (c *Collector) feature(col *column) (f Feature, note string, err error) {
	f = Feature{Name: col.name, Output: slices.Contains(c.options.Outputs, col.name)}
	if col.texts != nil {
		f.Categories = col.categories()
		if f.Categories == nil {
			return f, "", errors.New("has no values, all are missing: leave it out")
		}
		if len(f.Categories) == 1 {
			note = "has one frequent value only: nothing but its share is watched"
		}
	} else {
		values := col.finite()
		if len(values) == 0 {
			return f, "", errors.New("has no numbers, all are missing, NaN or infinite: " +
				"leave it out")
		}
		f.Edges = makeEdges(values)
		if values[0] == values[len(values)-1] {
			note = "is constant: only other values are noticed"
		}
	}
	if err := f.makeLayout(); err != nil {
		return f, "", err
	}
	c.count(&f, col, nil)
	return f, note, nil
}

// count fills in the counts of a feature from a column's values in some rows; nil are
// all.
func (c *Collector) count(f *Feature, col *column, rows []int) {
	slots, _ := c.options.Season.slots() // NewCollector has checked it
	f.Counts, f.DesignEffect = make([][]uint64, slots), 0
	for i := range f.Counts {
		f.Counts[i] = make([]uint64, f.layout.Bins())
	}
	n := len(rows)
	if rows == nil {
		n = len(c.slots)
	}
	bins, slotOf := make([]int, n), make([]int, n)
	for i := range n {
		row := i
		if rows != nil {
			row = rows[i]
		}
		bins[i], slotOf[i] = f.layout.Bin(col.value(row)), c.slots[row]
		f.Counts[slotOf[i]][bins[i]]++
	}
	if c.ordered && n > 0 {
		f.DesignEffect = designEffect(f, bins, slotOf)
	}
}

// finite returns the numbers of a column that are some, ascending.
func (c *column) finite() []float64 {
	values := make([]float64, 0, len(c.numbers))
	for i, x := range c.numbers {
		if !c.missing[i] && !math.IsNaN(x) && !math.IsInf(x, 0) {
			values = append(values, x)
		}
	}
	slices.Sort(values)
	return values
}

// rare is the share of rows below which a category has no bin of its own.
const rare = 1.0 / 2000

// categories returns the texts of a column that deserve a bin, most frequent first.
func (c *column) categories() []string {
	counts := make(map[string]int)
	for i, s := range c.texts {
		if !c.missing[i] {
			counts[s]++
		}
	}
	names := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		scarce := float64(counts[name]) < rare*float64(len(c.texts))
		if i > 0 && (i == sketch.MaxCategories || scarce) {
			return names[:i]
		}
	}
	return names
}
