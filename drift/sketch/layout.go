package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"
)

// The limits of a layout.
const (
	MaxEdges      = 64  // of a numeric feature
	MaxCategories = 256 // of a categorical one; what is rarer is Other
)

// ErrLayout is returned for edges or categories that cannot be.
var ErrLayout = errors.New("sketch: impossible layout")

// Layout says which bin a value falls in. The bins of a numeric feature with the
// edges e[0] < ... < e[m] are, in this order:
//
//	below e[0] | [e[0], e[1]) | ... | [e[m-1], e[m]] | above e[m] | missing | not a number
//
// Those of a categorical one are its categories, then other and missing. A Layout
// is immutable.
type Layout struct {
	edges []float64
	// In each of some buckets of equal width there are few edges: most at the most, from
	// the first on. Values are sought among them only.
	low, perBucket float64
	first          [buckets]uint8
	most           uint8
	// Moments are relative to the middle between the outermost edges, and to half
	// their distance, the spread.
	middle, perSpread float64
	categories        *categories // nil for a numeric feature
	digest            uint64
}

// buckets is twice as many as there are edges as a rule.
const buckets = 32

// categories says which bin each has, by the forms in which it may come.
type categories struct {
	names []string
	texts map[string]uint16
	ints  map[int64]uint16
	bools [2]uint16
}

// Numeric returns the layout of a numeric feature. Edges ascend strictly and are
// finite; there are at least two.
func Numeric(edges []float64) (*Layout, error) {
	if len(edges) < 2 || len(edges) > MaxEdges {
		return nil, fmt.Errorf("%w: %d edges, there must be 2 to %d", ErrLayout, len(edges),
			MaxEdges)
	}
	for i, e := range edges {
		if math.IsNaN(e) || math.IsInf(e, 0) || i > 0 && e <= edges[i-1] {
			return nil, fmt.Errorf("%w: edges must be finite and ascend: %v", ErrLayout, edges)
		}
	}
	l := &Layout{edges: make([]float64, len(edges))}
	low, high := edges[0], edges[len(edges)-1]
	l.middle = low/2 + high/2
	l.perSpread = min(1/(high/2-low/2), math.MaxFloat64)
	var b []byte
	for i, e := range edges {
		l.edges[i] = e + 0 // -0 becomes 0
		b = binary.LittleEndian.AppendUint64(b, order(l.edges[i]))
	}
	l.digest = xxhash.Sum64(b)
	l.fillBuckets()
	return l, nil
}

// fillBuckets lays the buckets between edges that are not the outermost: these may be far
// out. Any number has a bucket, and by rounding none comes to lie in one before that of a
// lesser number.
func (l *Layout) fillBuckets() {
	n := len(l.edges)
	out := min(2, (n-2)/2)
	l.low = l.edges[out]
	l.perBucket = min(buckets/2/(l.edges[n-1-out]/2-l.low/2), math.MaxFloat64)
	var counts [buckets]uint8
	for _, e := range l.edges {
		b := l.bucket(e)
		counts[b]++
		l.most = max(l.most, counts[b])
	}
	before := 0
	for b, count := range counts {
		l.first[b] = uint8(min(before, n-int(l.most)))
		before += int(count)
	}
}

// bucket returns the bucket of a number.
func (l *Layout) bucket(x float64) int {
	at := (x - l.low) * l.perBucket
	if at >= buckets {
		return buckets - 1
	}
	if at < 0 {
		return 0
	}
	return int(at)
}

// Categorical returns the layout of a categorical feature, in the order of its
// categories. Whole numbers and truth values are known by their decimal form and
// as true and false, or 1 and 0.
func Categorical(names []string) (*Layout, error) {
	if len(names) == 0 || len(names) > MaxCategories {
		return nil, fmt.Errorf("%w: %d categories, there must be 1 to %d", ErrLayout,
			len(names), MaxCategories)
	}
	c := &categories{names: slices.Clone(names), texts: make(map[string]uint16, len(names)),
		ints: make(map[int64]uint16)}
	var b []byte
	for i, name := range c.names {
		if _, twice := c.texts[name]; twice {
			return nil, fmt.Errorf("%w: the category %q is there twice", ErrLayout, name)
		}
		c.texts[name] = uint16(i)
		n, err := strconv.ParseInt(name, 10, 64)
		if err == nil && strconv.FormatInt(n, 10) == name {
			c.ints[n] = uint16(i)
		}
		b = strconv.AppendQuote(b, name)
	}
	for i, name := range [...]string{"false", "true"} {
		if b, ok := c.texts[name]; ok {
			c.bools[i] = b
		} else {
			c.bools[i] = uint16(c.whole(int64(i)))
		}
	}
	return &Layout{categories: c, digest: xxhash.Sum64(b)}, nil
}

// IsNumeric says of which of both kinds the layout is.
func (l *Layout) IsNumeric() bool { return l.categories == nil }

// Edges returns the edges of a numeric layout, which are its own.
func (l *Layout) Edges() []float64 { return l.edges }

// Bins returns how many bins there are.
func (l *Layout) Bins() int { return l.Regular() + 2 }

// Regular returns how many bins hold values of the feature's own type; the first
// ones do. With those of a numeric feature are below and above, so that these bins
// are in the order of the values.
func (l *Layout) Regular() int {
	if l.IsNumeric() {
		return len(l.edges) + 1
	}
	return len(l.categories.names)
}

// Exceptions returns the bins whose every value is suspicious: below, above and
// not a number; other; missing.
func (l *Layout) Exceptions() []int {
	n := l.Regular()
	if l.IsNumeric() {
		return []int{0, n - 1, n, n + 1}
	}
	return []int{n, n + 1}
}

// Label names a bin for people.
func (l *Layout) Label(bin int) string {
	n := l.Regular()
	switch {
	case bin < 0 || bin >= l.Bins():
		return "no bin"
	case !l.IsNumeric():
		return append(l.categories.names[:n:n], "other", "missing")[bin]
	case bin == n:
		return "missing"
	case bin == n+1:
		return "not a number"
	case bin == 0:
		return fmt.Sprintf("below %.6g", l.edges[0])
	case bin == n-1:
		return fmt.Sprintf("above %.6g", l.edges[n-2])
	}
	return fmt.Sprintf("%.6g to %.6g", l.edges[bin-1], l.edges[bin])
}

// Bin returns the bin of a value. It does not allocate.
func (l *Layout) Bin(v Value) int {
	switch {
	case !l.IsNumeric():
		return l.categories.bin(v)
	case v.kind == missing:
		return l.Regular()
	}
	return l.interval(v.Float()) // Texts are not numbers.
}

// order returns a whole number for a float, so that those are in the same order:
// negative floats have the sign bit set and ascend downwards. The digest is of these.
func order(x float64) uint64 {
	b := math.Float64bits(x)
	return b ^ (uint64(int64(b)>>63) | 1<<63)
}

// interval counts the edges that are not above x by bisection in a bucket, without a branch that
// depends on x: none could be predicted. The sign of a difference of floats is right,
// however small or great it is.
func (l *Layout) interval(x float64) int {
	edges := l.edges
	if x != x {
		return len(edges) + 2
	}
	x += 0 // -0 becomes 0
	low := int(l.first[l.bucket(x)])
	for n := int(l.most); n > 0; {
		half := (n + 1) >> 1
		below := int(int64(math.Float64bits(x-edges[low+half-1])) >> 63)
		low += half &^ below
		n -= half
	}
	if low == len(edges) && x == edges[low-1] {
		return low - 1 // The last interval is closed.
	}
	return low
}

func (c *categories) bin(v Value) int {
	switch v.kind {
	case missing:
		return len(c.names) + 1
	case text:
		return c.named(v.text)
	case integer:
		return c.whole(int64(v.bits))
	case boolean:
		return int(c.bools[v.bits])
	}
	x := v.Float()
	if math.IsNaN(x) {
		return len(c.names) + 1
	}
	if x == math.Trunc(x) && math.Abs(x) <= maxWhole {
		return c.whole(int64(x))
	}
	var b [32]byte
	return c.named(string(v.AppendText(b[:0])))
}

func (c *categories) named(name string) int {
	if i, ok := c.texts[name]; ok {
		return int(i)
	}
	return len(c.names)
}

func (c *categories) whole(i int64) int {
	if bin, ok := c.ints[i]; ok {
		return int(bin)
	}
	return len(c.names)
}
