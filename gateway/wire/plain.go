package wire

import (
	"fmt"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// DecodePlain reads plain JSON, for people who know their features and nothing
// of protocols: {"sepal_length": 5.1, ...} is a row, a list of such objects is
// several. Keys are the names of the columns of a matrix, where they are known,
// else those of the inputs; all are needed and no other may be there. A model
// with one input takes a bare value as well: a row such as [5.1, 3.5, 1.4, 0.2],
// or a list of rows. null is NaN.
func DecodePlain(r *Request, sig *tensor.Signature, body []byte) error {
	t := r.newTable(sig, dialectPlain, body)
	var err error
	switch {
	case t.next() == '{':
		r.Single = true
		if err = t.record(); err == nil {
			t.row = 1
			err = t.endRows()
		}
	case t.listOfObjects():
		err = t.records()
	default:
		err = t.bare()
	}
	if err != nil {
		return err
	}
	return t.end()
}

func (t *table) listOfObjects() bool {
	if t.next() != '[' {
		return false
	}
	pos := t.pos
	t.pos++
	is := t.next() == '{'
	t.pos = pos
	return is
}

// bare reads the value of the only input: how deep it is nested tells a row
// from a list of rows.
func (t *table) bare() error {
	if len(t.sig.Inputs) != 1 {
		return t.fail("expected an object or a list of objects; %s", t.expected())
	}
	spec, d := &t.sig.Inputs[0], &t.sinks[0]
	pos, depth := t.pos, 0
	for t.next() == '[' && depth <= tensor.MaxRank {
		t.pos++
		depth++
	}
	t.pos = pos
	if depth == len(spec.Shape)-1 {
		t.r.Single, t.inRows = true, true
		if err := t.item(0); err != nil {
			return err
		}
		t.row = 1
		return t.endRows()
	}
	if depth == 0 && len(spec.Shape) > 0 {
		return t.fail("expected an object, a list of objects or a list of values; %s",
			t.expected())
	}
	if err := t.whole(0); err != nil {
		return err
	}
	if t.sig.MaxBatchSize == 0 || spec.BatchAxis != 0 {
		t.r.Single = true // all of the tensor
		return nil
	}
	if t.r.Rows = int(d.dims[0]); t.r.Rows == 0 {
		return fmt.Errorf("%w: there are no rows", ErrBadRequest)
	}
	return nil
}

// AppendPlain appends the answer to a request that DecodePlain has read: an
// object for a row, a list of objects for several. Each has the outputs by
// their names. A row of one value is that value; columns that have names (a
// label file's, or the keys of a map) are an object of them. The best of the
// classes of a label file stands there as "label" too, unless an output has that
// name. What has no rows is in each object as a whole.
func AppendPlain(dst []byte, r *Request, a *Answer, nullNaN bool) ([]byte, error) {
	p := plain{nesting: newNesting(r, a, nullNaN), r: r, sig: a.Sig}
	if r.Single {
		return p.object(dst), nil
	}
	dst = append(dst, '[')
	for i := range r.Rows {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = p.object(dst)
	}
	return append(dst, ']'), nil
}

// plain is an answer under way.
type plain struct {
	nesting
	r   *Request
	sig *tensor.Signature
}

// object appends the next row.
func (p *plain) object(dst []byte) []byte {
	dst = append(dst, '{')
	from := len(dst)
	if i, class := p.best(); i >= 0 {
		dst = append(dst, `"label":`...)
		dst = appendString(dst, class)
		dst = append(dst, ',')
	}
	for i := range p.outputs {
		t := &p.outputs[i]
		if t.Datatype == tensor.Invalid {
			continue
		}
		dst = appendString(dst, t.Name)
		dst = append(dst, ':')
		dst = p.value(dst, i)
		dst = append(dst, ',')
	}
	if len(dst) > from {
		dst = dst[:len(dst)-1] // the last comma
	}
	return append(dst, '}')
}

// hasRows says whether the first axis of an output is that of the rows.
func (p *plain) hasRows(t *tensor.Tensor) bool {
	return p.r.Rows > 0 && len(t.Shape) > 0 && t.Shape[0] == int64(p.r.Rows)
}

// names are those of the columns of an output of the shape [rows, columns].
func (p *plain) names(i int) []string {
	t := &p.outputs[i]
	names := p.sig.Outputs[i].Labels
	if names == nil {
		names = t.ClassNames
	}
	if len(names) == 0 || len(t.Shape) != 2 || t.Shape[1] != int64(len(names)) || !p.hasRows(t) {
		return nil
	}
	return names
}

// best returns an output with labels and the one of its highest value, -1
// where there is none or an output is named label.
func (p *plain) best() (output int, class string) {
	output = -1
	for i := range p.outputs {
		t := &p.outputs[i]
		if t.Datatype != tensor.Invalid && t.Name == "label" {
			return -1, ""
		}
		names := p.names(i)
		if output >= 0 || names == nil || p.sig.Outputs[i].Labels == nil ||
			t.Datatype == tensor.Bytes || t.Datatype == tensor.Bool {
			continue
		}
		size := t.Datatype.Size()
		top, row := 0, p.rest[i]
		for j := range names {
			if compare(t.Datatype, row[j*size:], row[top*size:]) > 0 {
				top = j
			}
		}
		output, class = i, names[top]
	}
	return output, class
}

// varies says whether an output's rows may be of several lengths: they are lists then, if of one
// value too.
func (p *plain) varies(i int) bool {
	shape := p.sig.Outputs[i].Shape
	return len(shape) == 2 && shape[1] < 0
}

// value appends an output: its part in the row, or all of it.
func (p *plain) value(dst []byte, i int) []byte {
	t := &p.outputs[i]
	if names := p.names(i); names != nil {
		dst = append(dst, '{')
		for j, name := range names {
			if j > 0 {
				dst = append(dst, ',')
			}
			dst = appendString(dst, name)
			dst = append(dst, ':')
			dst, p.rest[i] = p.element(dst, t.Datatype, p.rest[i])
		}
		return append(dst, '}')
	}
	switch {
	case !p.hasRows(t):
		return p.tensor(dst, i)
	case len(t.Shape) == 2 && t.Shape[1] == 1 && !p.varies(i):
		dst, p.rest[i] = p.element(dst, t.Datatype, p.rest[i])
		return dst
	}
	return p.row(dst, i)
}
