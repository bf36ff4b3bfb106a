package tap

import (
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// column is where the tensors of one name go in a file.
type column struct {
	output   bool
	name     string
	datatype tensor.Datatype
	binary   bool   // of BYTES: not all of it is UTF-8
	key      string // name in the file, such as "input.x"
	shape    string // name of the column with the shapes
}

// layout is the columns of a file of samples.
type layout struct {
	endpoint, model string
	columns         []column
	places          []*tensor.Tensor // of the sample that was placed last
}

// newLayout returns the layout that the sample asks for.
func newLayout(s *Sample) *layout {
	l := &layout{endpoint: s.Endpoint, model: s.Model}
	taken := make(map[string]bool)
	for side, list := range [2][]tensor.Tensor{s.Inputs, s.Outputs} {
		for i := range list {
			t := &list[i]
			if t.Datatype == tensor.Invalid {
				continue
			}
			c := column{output: side == 1, name: t.Name, datatype: t.Datatype, binary: !isText(t)}
			// A tensor may be called like the shape of another.
			for c.key = key(side, t.Name); taken[c.key] || taken[shapeKey(c.key)]; {
				c.key += "_"
			}
			c.shape = shapeKey(c.key)
			taken[c.key], taken[c.shape] = true, true
			l.columns = append(l.columns, c)
		}
	}
	l.places = make([]*tensor.Tensor, len(l.columns))
	return l
}

// key is what a tensor's column is called.
func key(side int, name string) string {
	return [2]string{"input.", "output."}[side] + strings.ToValidUTF8(name, "\ufffd")
}

// shapeKey is what the column is called that has a tensor's shape.
func shapeKey(key string) string { return key + ".shape" }

// place notes which tensor goes to which column: nil where there is none, or a
// redacted one. It returns false when the sample does not go to such a file.
func (l *layout) place(s *Sample) bool {
	if s.Endpoint != l.endpoint || s.Model != l.model {
		return false
	}
	clear(l.places)
	next := 0
	for side, list := range [2][]tensor.Tensor{s.Inputs, s.Outputs} {
		for i := range list {
			t := &list[i]
			if t.Datatype == tensor.Invalid {
				continue
			}
			at := l.find(next, side == 1, t)
			if at < 0 {
				return false
			}
			if next = at + 1; t.Data != nil {
				l.places[at] = t
			}
		}
	}
	return true
}

// find returns the column that takes the tensor, or -1. Tensors come in the
// order of the columns, so that the search starts behind the last one's.
func (l *layout) find(next int, output bool, t *tensor.Tensor) int {
	if next < len(l.columns) && l.columns[next].takes(output, t) {
		return next
	}
	return slices.IndexFunc(l.columns, func(c column) bool { return c.takes(output, t) })
}

func (c *column) takes(output bool, t *tensor.Tensor) bool {
	return c.output == output && c.name == t.Name && c.datatype == t.Datatype &&
		(c.binary || isText(t))
}

// isText says whether t is not BYTES, or has only elements that are UTF-8.
func isText(t *tensor.Tensor) bool {
	if t.Datatype != tensor.Bytes {
		return true
	}
	for data := t.Data; len(data) > 0; {
		element, rest, ok := tensor.NextElement(data)
		if !ok || !utf8.Valid(element) {
			return false
		}
		data = rest
	}
	return true
}
