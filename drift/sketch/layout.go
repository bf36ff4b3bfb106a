package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
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
	edges []uint64 // order of each edge
	// Moments are relative to the middle between the outermost edges, and to half
	// their distance, the spread.
	middle, perSpread float64
	names             []string
	texts             map[string]uint16
	ints              map[int64]uint16
	bools             [2]uint16
	digest            uint64
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
	l := &Layout{edges: make([]uint64, len(edges))}
	low, high := edges[0], edges[len(edges)-1]
	l.middle = low/2 + high/2
	l.perSpread = min(1/(high/2-low/2), math.MaxFloat64)
	var b []byte
	for i, e := range edges {
		l.edges[i] = order(e)
		b = binary.LittleEndian.AppendUint64(b, l.edges[i])
	}
	l.digest = xxhash.Sum64(b)
	return l, nil
}

// Categorical returns the layout of a categorical feature, in the order of its
// categories. Whole numbers and truth values are known by their decimal form and
// as true and false, or 1 and 0.
func Categorical(categories []string) (*Layout, error) {
	if len(categories) == 0 || len(categories) > MaxCategories {
		return nil, fmt.Errorf("%w: %d categories, there must be 1 to %d", ErrLayout,
			len(categories), MaxCategories)
	}
	l := &Layout{names: slices.Clone(categories), texts: make(map[string]uint16, len(categories)),
		ints: make(map[int64]uint16)}
	var b []byte
	for i, c := range l.names {
		if _, twice := l.texts[c]; twice {
			return nil, fmt.Errorf("%w: the category %q is there twice", ErrLayout, c)
		}
		l.texts[c] = uint16(i)
		if n, err := strconv.ParseInt(c, 10, 64); err == nil && strconv.FormatInt(n, 10) == c {
			l.ints[n] = uint16(i)
		}
		b = strconv.AppendQuote(b, c)
	}
	l.digest = xxhash.Sum64(b)
	for i, name := range [...]string{"false", "true"} {
		if b, ok := l.texts[name]; ok {
			l.bools[i] = b
		} else {
			l.bools[i] = uint16(l.whole(int64(i)))
		}
	}
	return l, nil
}

// IsNumeric says of which of both kinds the layout is.
func (l *Layout) IsNumeric() bool { return l.edges != nil }

// Bins returns how many bins there are.
func (l *Layout) Bins() int { return l.Regular() + 2 }

// Regular returns how many bins hold values of the feature's own type; the first
// ones do. With those of a numeric feature are below and above, so that these bins
// are in the order of the values.
func (l *Layout) Regular() int {
	if l.IsNumeric() {
		return len(l.edges) + 1
	}
	return len(l.names)
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
		return append(l.names[:n:n], "other", "missing")[bin]
	case bin == n:
		return "missing"
	case bin == n+1:
		return "not a number"
	case bin == 0:
		return fmt.Sprintf("below %.6g", unorder(l.edges[0]))
	case bin == n-1:
		return fmt.Sprintf("above %.6g", unorder(l.edges[n-2]))
	}
	return fmt.Sprintf("%.6g to %.6g", unorder(l.edges[bin-1]), unorder(l.edges[bin]))
}

// Bin returns the bin of a value. It does not allocate.
func (l *Layout) Bin(v Value) int {
	if l.IsNumeric() {
		if v.kind == number {
			return l.interval(math.Float64frombits(v.bits))
		}
		if v.kind == missing {
			return l.Regular()
		}
		return l.interval(v.Float()) // Texts are not numbers.
	}
	switch v.kind {
	case missing:
		return l.Regular() + 1
	case text:
		return l.named(v.text)
	case integer:
		return l.whole(int64(v.bits))
	case boolean:
		return int(l.bools[v.bits])
	}
	x := v.Float()
	if math.IsNaN(x) {
		return l.Regular() + 1
	}
	if x == math.Trunc(x) && math.Abs(x) <= maxWhole {
		return l.whole(int64(x))
	}
	var b [32]byte
	return l.named(v.AppendText(b[:0]))
}

// order returns a whole number for a float, so that those are in the same order:
// negative floats have the sign bit set and ascend downwards.
func order(x float64) uint64 {
	b := math.Float64bits(x + 0) // -0 becomes 0
	return b ^ (uint64(int64(b)>>63) | 1<<63)
}

// unorder is the inverse of order.
func unorder(o uint64) float64 {
	return math.Float64frombits(o ^ (^uint64(int64(o)>>63) | 1<<63))
}

// interval counts the edges that are not above x by bisection, without a branch that
// depends on x: none could be predicted.
func (l *Layout) interval(x float64) int {
	edges := l.edges
	if x != x {
		return len(edges) + 2
	}
	key, low := order(x), 0
	for n := len(edges); n > 0; {
		half := (n + 1) >> 1
		_, above := bits.Sub64(key, edges[low+half-1], 0)
		low += half & (int(above) - 1)
		n -= half
	}
	if low == len(edges) && key == edges[low-1] {
		return low - 1 // The last interval is closed.
	}
	return low
}

func (l *Layout) named(b []byte) int {
	if i, ok := l.texts[string(b)]; ok {
		return int(i)
	}
	return l.Regular()
}

func (l *Layout) whole(i int64) int {
	if bin, ok := l.ints[i]; ok {
		return int(bin)
	}
	return l.Regular()
}
