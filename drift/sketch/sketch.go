package sketch

import (
	"errors"
	"maps"
	"math"
	"slices"
)

// ErrMismatch is returned when sketches of different layouts are to be added.
var ErrMismatch = errors.New("sketch: of another layout; both need the same reference")

const (
	maxNames   = 32      // other categories that are remembered
	maxName    = 64      // bytes of each
	maxCount   = 1 << 53 // of a bin, up to which float64 is exact
	maxSpreads = 1e3     // from the middle, which values count with in moments
)

// Sketch counts values in the bins of a Layout. It also knows the mean and the
// deviation of the numbers, how many different texts and whole numbers there were
// of a categorical feature, and some of those in other.
type Sketch struct {
	layout       *Layout
	counts       []uint64
	sum, squares float64 // of what is in intervals, in spreads from the middle
	names        map[string]*uint64
	distinct     *registers // nil for numeric features and without other
}

// New returns an empty sketch.
func New(l *Layout) *Sketch { return &Sketch{layout: l, counts: make([]uint64, l.Bins())} }

// Layout returns what the sketch counts by.
func (s *Sketch) Layout() *Layout { return s.layout }

// Counts returns the counts of the bins. They are the sketch's own.
func (s *Sketch) Counts() []uint64 { return s.counts }

// Add counts a value and returns its bin. It allocates only for some of the first
// values in other.
func (s *Sketch) Add(v Value) int {
	l := s.layout
	if l.IsNumeric() && v.kind == number {
		x := math.Float64frombits(v.bits)
		bin := l.interval(x)
		s.count(bin)
		s.moments(x, bin)
		return bin
	}
	bin := l.Bin(v)
	s.count(bin)
	if l.IsNumeric() {
		s.moments(v.Float(), bin)
	} else if bin == l.Regular() {
		s.other(v)
	}
	return bin
}

func (s *Sketch) count(bin int) {
	if n := &s.counts[bin]; *n < maxCount {
		*n++
	}
}

// moments takes in a number by its bin.
func (s *Sketch) moments(x float64, bin int) {
	l := s.layout
	last := len(l.edges)
	if bin > last {
		return
	}
	x = (x - l.middle) * l.perSpread
	if bin == 0 || bin == last {
		x = min(max(x, -maxSpreads), maxSpreads)
	}
	s.sum += x
	s.squares += x * x
}

// Merge adds what another sketch of the same layout has counted.
func (s *Sketch) Merge(o *Sketch) error {
	if s.layout.digest != o.layout.digest || len(s.counts) != len(o.counts) {
		return ErrMismatch
	}
	for i, n := range o.counts {
		s.counts[i] = min(s.counts[i]+n, maxCount)
	}
	s.sum += o.sum
	s.squares += o.squares
	for _, name := range slices.Sorted(maps.Keys(o.names)) {
		s.remember(name, *o.names[name])
	}
	if o.distinct != nil {
		s.registers().merge(o.distinct)
	}
	return nil
}

// Reset empties the sketch.
func (s *Sketch) Reset() {
	clear(s.counts)
	s.sum, s.squares = 0, 0
	s.names, s.distinct = nil, nil
}

// Total returns how many values there were.
func (s *Sketch) Total() (n uint64) {
	for _, c := range s.counts {
		n += c
	}
	return n
}

// numbers returns how many values the moments are of.
func (s *Sketch) numbers() (n float64) {
	if s.layout.IsNumeric() {
		for _, c := range s.counts[:s.layout.Regular()] {
			n += float64(c)
		}
	}
	return n
}

// Mean returns the mean of the numbers, NaN without any. Those far beyond the
// edges count with a thousand times the edges' distance.
func (s *Sketch) Mean() float64 {
	n := s.numbers()
	if n == 0 {
		return math.NaN()
	}
	return s.layout.middle + s.sum/n/s.layout.perSpread
}

// StdDev returns the standard deviation of the numbers, NaN without any.
func (s *Sketch) StdDev() float64 {
	n := s.numbers()
	if n == 0 {
		return math.NaN()
	}
	mean := s.sum / n
	return math.Sqrt(max(s.squares/n-mean*mean, 0)) / s.layout.perSpread
}

// Others returns the values in other by name and how often each came: of those
// that came first, and as an example only.
func (s *Sketch) Others() map[string]uint64 {
	all := make(map[string]uint64, len(s.names))
	for name, n := range s.names {
		all[name] = *n
	}
	return all
}

// Distinct estimates how many different values there were in other, with a
// standard error of 2.3 %.
func (s *Sketch) Distinct() float64 {
	if s.distinct == nil {
		return 0
	}
	return s.distinct.estimate()
}
