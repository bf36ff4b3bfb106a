package drift

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/millrace-ml/millrace/drift/sketch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// maxWidth bounds the features that one tensor is taken for. What has more, such as an
// image, is left out.
const maxWidth = 1024

// Rows takes requests and answers apart into rows. The columns are, in the order of
// the signature:
//
//   - for an input with one element a row its own name, for one with more those of the
//     signature's columns, or the name with a number: x.0, x.1;
//   - for an output likewise, with the labels of its classes: probabilities.cat; and
//     if it has several numbers a row the class with the greatest: probabilities.class.
//
// Tensors of variable or great width have none. A Rows belongs to one goroutine at a
// time.
type Rows struct {
	parts   []part // of inputs, then of outputs
	inputs  int
	columns []string
	row     []sketch.Value
}

// part is what one tensor has in a row.
type part struct {
	batched bool // the first dimension counts rows
	width   int  // 0 when the tensor is left out
	class   bool // and the class of these
	labels  [][]byte
	rest    []byte // of the tensor's data, while rows are taken apart
}

// NewRows returns what takes apart the tensors of a model with this signature.
func NewRows(s *tensor.Signature) *Rows {
	r := &Rows{inputs: len(s.Inputs)}
	for i := range s.Inputs {
		r.add(&s.Inputs[i], s.MaxBatchSize > 0, false)
	}
	for i := range s.Outputs {
		r.add(&s.Outputs[i], s.MaxBatchSize > 0, true)
	}
	r.row = make([]sketch.Value, len(r.columns))
	return r
}

func (r *Rows) add(s *tensor.Spec, batches, output bool) {
	p := part{batched: batches && s.BatchAxis == 0}
	shape := s.Shape
	if p.batched {
		shape = shape[1:]
	}
	// Only the batch is of variable size; and all inputs of a row must be there.
	if n, err := tensor.Elements(shape); err == nil && n > 0 && n <= maxWidth &&
		p.batched == batches {
		p.width = int(n)
		p.class = output && n > 1 && s.Datatype != tensor.Bytes && s.Datatype != tensor.Bool
		for _, label := range s.Labels {
			p.labels = append(p.labels, []byte(label))
		}
	}
	for i := range p.width {
		r.columns = append(r.columns, column(s, p.width, i))
	}
	if p.class {
		r.columns = append(r.columns, s.Name+".class")
	}
	r.parts = append(r.parts, p)
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
func (r *Rows) Columns() []string { return slices.Clone(r.columns) }

// Each calls f with each row of a request and its answer, whose tensors are in the order
// of the signature. One that is not there, or does not fit, has missing values, which
// a monitor takes for drift: leave out requests that got no answer. The row is valid
// until f returns.
func (r *Rows) Each(inputs, outputs []tensor.Tensor, f func(row []sketch.Value) error) error {
	rows := 0
	for i := range r.parts {
		t := r.tensor(i, inputs, outputs)
		p := &r.parts[i]
		p.rest = nil
		if t == nil || p.width == 0 || t.Check() != nil {
			continue
		}
		n, err := tensor.Elements(t.Shape)
		if err != nil || n%int64(p.width) != 0 || !p.batched && n != int64(p.width) {
			continue
		}
		p.rest = t.Data
		rows = max(rows, int(n)/p.width)
	}
	for range rows {
		next := r.row
		for i := range r.parts {
			p := &r.parts[i]
			d := tensor.Invalid
			if t := r.tensor(i, inputs, outputs); t != nil {
				d = t.Datatype
			}
			next = p.take(d, next)
		}
		if err := f(r.row); err != nil {
			return err
		}
	}
	return nil
}

// tensor returns that of part i, nil when there is none.
func (r *Rows) tensor(i int, inputs, outputs []tensor.Tensor) *tensor.Tensor {
	all := inputs
	if i >= r.inputs {
		i, all = i-r.inputs, outputs
	}
	if i >= len(all) {
		return nil
	}
	return &all[i]
}

// take fills in what the part has in one row, and returns what is left of it.
func (p *part) take(d tensor.Datatype, row []sketch.Value) []sketch.Value {
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
