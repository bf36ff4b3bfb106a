package wire

import (
	"encoding/base64"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// nesting writes the tensors of an answer as nested lists.
type nesting struct {
	outputs []tensor.Tensor
	nullNaN bool
	only    int      // the index of the only output, -1 of several
	rows    int      // the length of the first axis of all outputs, -1 where it is not one
	rest    [][]byte // of each output: what its rows to come hold
	wrap    bool     // strings of outputs named ..._bytes are {"b64": ...}
	b64     bool     // those of the output being written
	flat    bool     // a row of one value is that value, and not a list
}

// newNesting looks at the shapes of an answer.
func newNesting(r *Request, a *Answer, nullNaN bool) nesting {
	n := nesting{outputs: a.Outputs, nullNaN: nullNaN, only: -1, rows: -1}
	n.rest = slices.Grow(r.table.rest[:0], len(a.Outputs))[:len(a.Outputs)]
	r.table.rest = n.rest
	count, unequal := 0, false
	for i := range a.Outputs {
		t := &a.Outputs[i]
		n.rest[i] = t.Data
		if t.Datatype == tensor.Invalid {
			continue
		}
		n.only = i
		switch count++; {
		case len(t.Shape) == 0 || count > 1 && int(t.Shape[0]) != n.rows:
			unequal = true
		default:
			n.rows = int(t.Shape[0])
		}
	}
	if count != 1 {
		n.only = -1
	}
	if unequal {
		n.rows = -1
	}
	return n
}

// tensor appends a whole output.
func (n *nesting) tensor(dst []byte, i int) []byte {
	t := &n.outputs[i]
	n.b64 = n.wrap && strings.HasSuffix(t.Name, "_bytes")
	dst, _ = n.level(dst, t, t.Shape, t.Data)
	return dst
}

// row appends the next row of an output.
func (n *nesting) row(dst []byte, i int) []byte {
	t := &n.outputs[i]
	n.b64 = n.wrap && strings.HasSuffix(t.Name, "_bytes")
	shape := t.Shape[1:]
	if n.flat && len(shape) == 1 && shape[0] == 1 {
		shape = nil
	}
	dst, n.rest[i] = n.level(dst, t, shape, n.rest[i])
	return dst
}

// level appends the tensor of a shape that data begins with, and returns the
// data behind it.
func (n *nesting) level(dst []byte, t *tensor.Tensor, shape []int64,
	data []byte) (out, rest []byte) {
	if len(shape) == 0 {
		return n.element(dst, t.Datatype, data)
	}
	dst = append(dst, '[')
	for i := range shape[0] {
		if i > 0 {
			dst = append(dst, ',')
		}
		if len(shape) == 1 {
			dst, data = n.element(dst, t.Datatype, data)
		} else {
			dst, data = n.level(dst, t, shape[1:], data)
		}
	}
	return append(dst, ']'), data
}

func (n *nesting) element(dst []byte, d tensor.Datatype, data []byte) (out, rest []byte) {
	if d != tensor.Bytes {
		return appendElement(dst, d, data, n.nullNaN), data[d.Size():]
	}
	text, rest, ok := tensor.NextElement(data)
	switch {
	case !ok:
		return append(dst, `""`...), nil
	case n.b64:
		dst = append(dst, `{"b64":"`...)
		dst = base64.StdEncoding.AppendEncode(dst, text)
		return append(dst, `"}`...), rest
	}
	return appendString(dst, text), rest
}

// object appends the outputs by their names.
func (n *nesting) object(dst []byte) []byte { return n.each(dst, n.tensor) }

// list appends the rows of the outputs, each an object.
func (n *nesting) list(dst []byte) []byte {
	dst = append(dst, '[')
	for i := range n.rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = n.each(dst, n.row)
	}
	return append(dst, ']')
}

// each appends an object of what value appends for each output.
func (n *nesting) each(dst []byte, value func(dst []byte, i int) []byte) []byte {
	dst = append(dst, '{')
	first := true
	for i := range n.outputs {
		if n.outputs[i].Datatype == tensor.Invalid {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendString(dst, n.outputs[i].Name)
		dst = append(dst, ':')
		dst = value(dst, i)
	}
	return append(dst, '}')
}
