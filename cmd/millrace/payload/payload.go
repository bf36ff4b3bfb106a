// Package payload makes what is sent to a model under load: inputs that are
// made up or repeated from given ones, and requests of them for package bench.
//
// A [Maker] belongs to one goroutine; the functions may be called concurrently.
package payload

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// ErrShape is returned when the inputs cannot be made with the shapes asked for.
var ErrShape = errors.New("payload: impossible inputs")

// maxElements bounds one made-up tensor.
const maxElements = 1 << 28

// Maker makes inputs of a model.
type Maker struct {
	Specs  []tensor.Spec            // BatchAxis is where the rows lie, -1 for nowhere
	Shapes map[string][]int64       // for inputs with variable dimensions beside the rows
	Given  map[string]tensor.Tensor // of one row, or without rows; the rest is made up
	Rand   *rand.Rand
}

// RowAxes sets the BatchAxis of specs that come from a server's metadata, which
// does not tell it: the first variable dimension.
func RowAxes(specs []tensor.Spec) {
	for i := range specs {
		specs[i].BatchAxis = slices.Index(specs[i].Shape, -1)
	}
}

// ParseShapes reads NAME=1,3,224,224 for each of the inputs that need it.
func ParseShapes(specs []tensor.Spec, texts []string) (map[string][]int64, error) {
	shapes := make(map[string][]int64)
	for _, text := range texts {
		name, list, ok := strings.Cut(text, "=")
		if !ok && len(specs) == 1 {
			name, list = specs[0].Name, text
		}
		i := slices.IndexFunc(specs, func(s tensor.Spec) bool { return s.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: %q is no NAME=DIMS of an input; the inputs are %s",
				ErrShape, text, Describe(specs))
		}
		var shape []int64
		for dim := range strings.SplitSeq(list, ",") {
			n, err := strconv.ParseInt(strings.TrimSpace(dim), 10, 64)
			if err != nil || n < 1 {
				return nil, fmt.Errorf("%w: %q of input %q is no dimension; give numbers from 1 on",
					ErrShape, dim, name)
			}
			shape = append(shape, n)
		}
		if !tensor.Fits(shape, specs[i].Shape) {
			return nil, fmt.Errorf("%w: input %q takes the shape %s, not %s", ErrShape, name,
				tensor.FormatShape(specs[i].Shape), tensor.FormatShape(shape))
		}
		shapes[name] = shape
	}
	return shapes, nil
}

// Describe says what a model takes.
func Describe(specs []tensor.Spec) string {
	var words []string
	for _, s := range specs {
		words = append(words,
			fmt.Sprintf("%s (%s %s)", s.Name, s.Datatype, tensor.FormatShape(s.Shape)))
	}
	return strings.Join(words, ", ")
}

// Rows makes the inputs of one request with that many rows.
func (m *Maker) Rows(rows int64) ([]tensor.Tensor, error) {
	list := make([]tensor.Tensor, 0, len(m.Specs))
	some := false // input has rows
	for i := range m.Specs {
		s := &m.Specs[i]
		some = some || s.BatchAxis >= 0
		given, ok := m.Given[s.Name]
		switch {
		case ok && s.BatchAxis >= 0:
			t, err := Repeat(given, s.BatchAxis, rows)
			if err != nil {
				return nil, err
			}
			list = append(list, t)
		case ok:
			list = append(list, given)
		case s.Optional:
		default:
			t, err := m.makeUp(s, rows)
			if err != nil {
				return nil, err
			}
			list = append(list, t)
		}
	}
	if rows > 1 && !some {
		return nil, fmt.Errorf("%w: the model takes one row a request; its inputs are %s",
			ErrShape, Describe(m.Specs))
	}
	return list, nil
}

func (m *Maker) makeUp(s *tensor.Spec, rows int64) (tensor.Tensor, error) {
	t := tensor.Tensor{Name: s.Name, Datatype: s.Datatype, Shape: slices.Clone(s.Shape)}
	if shape := m.Shapes[s.Name]; shape != nil {
		t.Shape = slices.Clone(shape)
	}
	if s.BatchAxis >= 0 {
		t.Shape[s.BatchAxis] = rows
	}
	if slices.Contains(t.Shape, -1) {
		return t, fmt.Errorf("%w: input %q has the shape %s, with variable dimensions beside "+
			"the rows; say how large they are by --shape %s=%s", ErrShape, s.Name,
			tensor.FormatShape(s.Shape), s.Name, example(t.Shape))
	}
	n, err := tensor.Elements(t.Shape)
	if err != nil {
		return t, err
	}
	if n > maxElements {
		return t, fmt.Errorf("%w: input %q of shape %s is too large", ErrShape, s.Name,
			tensor.FormatShape(t.Shape))
	}
	for range n {
		// Six digits, as the numbers in people's data have.
		f := float64(m.Rand.IntN(1_000_000)) / 1e6
		t.Data = tensor.AppendRandom(t.Data, s.Datatype, f, m.Rand)
	}
	return t, nil
}

// example is a shape in which the variable dimensions have a size.
func example(shape []int64) string {
	words := make([]string, len(shape))
	for i, n := range shape {
		if n < 0 {
			n = 32
		}
		words[i] = strconv.FormatInt(n, 10)
	}
	return strings.Join(words, ",")
}

// Repeat returns t with its one row along axis n times. A tensor that has n
// rows comes back as it is.
func Repeat(t tensor.Tensor, axis int, n int64) (tensor.Tensor, error) {
	if axis >= len(t.Shape) || t.Shape[axis] != 1 && t.Shape[axis] != n {
		return t, fmt.Errorf("%w: the given values of input %q have the shape %s; give one row",
			ErrShape, t.Name, tensor.FormatShape(t.Shape))
	}
	if t.Shape[axis] == n {
		return t, nil
	}
	outer := int64(1)
	for _, d := range t.Shape[:axis] {
		outer *= d
	}
	out := tensor.Tensor{Name: t.Name, Datatype: t.Datatype, Shape: slices.Clone(t.Shape)}
	out.Shape[axis] = n
	for _, part := range parts(&t, outer) {
		for range n {
			out.Data = append(out.Data, part...)
		}
	}
	return out, nil
}

// parts cuts the data of t into n pieces of as many elements.
func parts(t *tensor.Tensor, n int64) [][]byte {
	if n == 0 {
		return nil
	}
	if t.Datatype != tensor.Bytes {
		return slices.Collect(slices.Chunk(t.Data, max(1, len(t.Data)/int(n))))
	}
	elements, _ := tensor.Elements(t.Shape)
	var list [][]byte
	rest := t.Data
	for range n {
		before := rest
		for range elements / n {
			_, rest, _ = tensor.NextElement(rest)
		}
		list = append(list, before[:len(before)-len(rest)])
	}
	return list
}

// Split cuts inputs of many rows, which lie along their first dimension, into
// requests of that many rows. What is left over at the end is a smaller one.
func Split(inputs []tensor.Tensor, rows int64) ([][]tensor.Tensor, error) {
	all := int64(-1)
	for i := range inputs {
		t := &inputs[i]
		if len(t.Shape) == 0 || all >= 0 && t.Shape[0] != all {
			return nil, fmt.Errorf("%w: the inputs do not have the same number of rows in front; "+
				"input %q is %s", ErrShape, t.Name, tensor.FormatShape(t.Shape))
		}
		all = t.Shape[0]
	}
	var sets [][]tensor.Tensor
	for at := int64(0); at < all; at += rows {
		n := min(rows, all-at)
		set := slices.Clone(inputs)
		for i := range set {
			t := &set[i]
			pieces := parts(&inputs[i], all)
			t.Shape = slices.Clone(t.Shape)
			t.Shape[0] = n
			t.Data = slices.Concat(pieces[at : at+n]...)
		}
		sets = append(sets, set)
	}
	return sets, nil
}
