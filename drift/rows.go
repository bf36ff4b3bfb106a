package drift

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// maxWidth bounds the features that one tensor is taken for. What has more, such as an
// image, is summed up.
const maxWidth = 1024

// Rows takes requests and answers apart into rows. The columns are, in the order of
// the signature:
//
//   - for an input with one element a row its own name, for one with more those of the
//     signature's columns, or the name with a number: x.0, x.1;
//   - for an output likewise, with the labels of its classes: probabilities.cat; and
//     if it has several numbers a row the class with the greatest: probabilities.class;
//   - for one with more than 1024 elements a row, or not always as many, what sums these
//     up: image.mean, image.sd, image.step (the mean difference of neighbours),
//     image.nan (the share of what is no number) and random projections of what is left
//     without the mean, image.p0 to image.p15, all of the numbers only; for texts
//     text.bytes, their mean length; and in front of these, where it varies, how many
//     there are, text.size.
//
// Without batches all of a tensor is one row; with them one that has none is left out.
// A Rows belongs to one goroutine at a time.
type Rows struct {
	signature *tensor.Signature
	parts     []part // of inputs, then of outputs
	width     int    // of a row
}

// part is what one tensor has in a row.
type part struct {
	batched bool  // the first dimension counts rows
	width   int   // of its columns, without the class; 0 when the tensor is left out
	class   bool  // and the class of these
	wide    *wide // nil when columns are elements
	labels  [][]byte
	rest    []byte // of the tensor's data, while rows are taken apart
}

// NewRows returns what takes apart the tensors of a model with this signature.
func NewRows(s *tensor.Signature) *Rows {
	parts, columns := takeApart(s)
	return &Rows{s, parts, len(columns)}
}

// takeApart returns the parts of a row, and the names of its columns.
func takeApart(s *tensor.Signature) (parts []part, columns []string) {
	for _, list := range [...]struct {
		specs  []tensor.Spec
		output bool
	}{{s.Inputs, false}, {s.Outputs, true}} {
		for i := range list.specs {
			p, names := newPart(&list.specs[i], s.MaxBatchSize > 0, list.output)
			parts, columns = append(parts, p), append(columns, names...)
		}
	}
	return parts, columns
}

// newPart returns that of a tensor, and the names of its columns.
func newPart(s *tensor.Spec, batches, output bool) (p part, columns []string) {
	p.batched = batches && s.BatchAxis == 0
	shape := s.Shape
	if p.batched {
		shape = shape[1:]
	}
	if p.batched == batches { // all inputs of a row must be there
		columns = p.columns(s, shape)
	}
	p.width = len(columns)
	p.class = output && p.wide == nil && p.width > 1 && s.Datatype != tensor.Bytes &&
		s.Datatype != tensor.Bool
	if p.class {
		columns = append(columns, s.Name+".class")
		for _, label := range s.Labels {
			p.labels = append(p.labels, []byte(label))
		}
	}
	return p, columns
}

// columns decides what there is of a tensor whose rows have this shape, and names it.
func (p *part) columns(s *tensor.Spec, shape []int64) (all []string) {
	n, err := tensor.Elements(shape)
	if err == nil && n <= maxWidth {
		for i := range int(n) {
			all = append(all, column(s, int(n), i))
		}
		return all
	}
	if p.wide = newWide(s.Datatype, shape); p.wide == nil {
		return nil
	}
	return p.wide.columns(s.Name)
}

// column names one element of a row.
func column(s *tensor.Spec, width, i int) string {
	switch {
	case i < len(s.Columns) && s.Columns[i].Name != "":
		return s.Columns[i].Name
	case width == 1:
		return s.Name
	case i < len(s.Labels):
		return s.Name + "." + s.Labels[i]
	}
	return fmt.Sprintf("%s.%d", s.Name, i)
}

// Columns returns the names of a row's columns.
func (r *Rows) Columns() []string {
	_, columns := takeApart(r.signature) // anew: they are many, and needed now and then
	return columns
}

// scratches are rows for Each: the many monitors of a process take turns.
var scratches = sync.Pool{New: func() any { return new([]sketch.Value) }}

// Each calls f with each row of a request and its answer, whose tensors are in the order
// of the signature. One that is not there, or does not fit, has missing values, which
// a monitor takes for drift: leave out requests that got no answer. The row is valid
// until f returns.
func (r *Rows) Each(inputs, outputs []tensor.Tensor, f func(row []sketch.Value) error) error {
	rows := 0
	for i := range r.parts {
		rows = max(rows, r.parts[i].begin(r.tensor(i, inputs, outputs)))
	}
	scratch := scratches.Get().(*[]sketch.Value)
	defer scratches.Put(scratch)
	*scratch = slices.Grow((*scratch)[:0], r.width)
	row := (*scratch)[:r.width]
	defer clear(row) // texts are the request's
	for range rows {
		next := row
		for i := range r.parts {
			p := &r.parts[i]
			d := tensor.Invalid
			if t := r.tensor(i, inputs, outputs); t != nil {
				d = t.Datatype
			}
			next = p.take(d, next)
		}
		if err := f(row); err != nil {
			return err
		}
	}
	return nil
}

// tensor returns that of part i, nil when there is none.
func (r *Rows) tensor(i int, inputs, outputs []tensor.Tensor) *tensor.Tensor {
	all := inputs
	if n := len(r.signature.Inputs); i >= n {
		i, all = i-n, outputs
	}
	if i >= len(all) {
		return nil
	}
	return &all[i]
}

// begin takes a request's tensor, nil when there is none, and returns how many rows it
// has, 0 when it does not fit.
func (p *part) begin(t *tensor.Tensor) (rows int) {
	p.rest = nil
	if p.wide != nil {
		p.wide.rows = 0
	}
	if t == nil || t.Datatype == tensor.Invalid || p.width == 0 || t.Check() != nil {
		return 0
	}
	n, err := tensor.Elements(t.Shape)
	switch {
	case err != nil:
		return 0
	case p.wide != nil:
		rows = p.wide.begin(t, n, p.batched)
	case p.batched && n%int64(p.width) == 0 || n == int64(p.width):
		rows = int(n) / p.width
	}
	if rows > 0 {
		p.rest = t.Data
	}
	return rows
}

// take fills in what the part has in one row, and returns what is left of it.
func (p *part) take(d tensor.Datatype, row []sketch.Value) []sketch.Value {
	if p.wide != nil {
		p.rest = p.wide.take(d, p.rest, row[:p.width])
		return row[p.width:]
	}
	greatest, class := math.Inf(-1), -1
	for i := range p.width {
		if row[i], p.rest = element(d, p.rest); row[i].Float() > greatest {
			greatest, class = row[i].Float(), i
		}
	}
	row = row[p.width:]
	if !p.class {
		return row
	}
	switch {
	case class < 0:
		row[0] = sketch.Missing()
	case class < len(p.labels):
		row[0] = sketch.Text(p.labels[class])
	default:
		row[0] = sketch.Integer(int64(class))
	}
	return row[1:]
}

// element reads one element; without data it is missing.
func element(d tensor.Datatype, data []byte) (sketch.Value, []byte) {
	if d == tensor.Bytes {
		b, rest, ok := tensor.NextElement(data)
		if !ok {
			return sketch.Missing(), nil
		}
		return sketch.Text(b), rest
	}
	n := d.Size()
	if n == 0 || len(data) < n {
		return sketch.Missing(), nil
	}
	var b [8]byte
	copy(b[:], data[:n])
	u := binary.LittleEndian.Uint64(b[:])
	rest := data[n:]
	switch d {
	case tensor.Bool:
		return sketch.Boolean(u != 0), rest
	case tensor.Uint64:
		if u > math.MaxInt64 {
			return sketch.Number(float64(u)), rest
		}
	case tensor.Int8:
		return sketch.Integer(int64(int8(u))), rest
	case tensor.Int16:
		return sketch.Integer(int64(int16(u))), rest
	case tensor.Int32:
		return sketch.Integer(int64(int32(u))), rest
	case tensor.FP16:
		return sketch.Number(float64(tensor.FP16ToFloat32(uint16(u)))), rest
	case tensor.BF16:
		return sketch.Number(float64(tensor.BF16ToFloat32(uint16(u)))), rest
	case tensor.FP32:
		return sketch.Number(float64(math.Float32frombits(uint32(u)))), rest
	case tensor.FP64:
		return sketch.Number(math.Float64frombits(u)), rest
	}
	return sketch.Integer(int64(u)), rest // unsigned, or 64 bits
}
