package wire

import (
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// dialect is one of those that name neither datatypes nor shapes.
type dialect uint8

const (
	dialectV1 dialect = iota
	dialectMLflow
	dialectPlain
)

// table gathers the inputs of a request that says neither datatypes nor shapes:
// whole tensors, or rows whose values go to inputs or to the columns of the
// only input, a matrix. It belongs to its Request.
type table struct {
	*scanner
	r       *Request
	sig     *tensor.Signature
	dialect dialect
	csv     bool // values are cells of CSV
	encoded bool // binary columns are base64

	sinks []sink // one an input
	// matrix says that values go to the columns of the only input. named says
	// that these have names, else they go by their order.
	matrix, named bool
	width         int      // columns of the matrix, 0 before they are counted
	inRows        bool     // rows are read, not whole tensors
	row           int      // the one being read, from 0
	given         int      // values of that row
	seen          []int32  // of each column: the row of its last value, from 1
	at            []int    // of each column: where its value or its list lies
	cols          []int32  // of a data frame: where its columns go, -1 is nowhere
	keys          [][]byte // of the first row, where columns go by their order
	rest          [][]byte // of the answer, for nesting
}

// sink takes the values of one input. What dims and rank say is known of the
// values so far; dims[0] of rows is their number, set at the end.
type sink struct {
	data
	dims  [tensor.MaxRank]int64
	known uint32 // a bit for each of dims
	rank  int    // -1 before the first value
	rows  int    // that gave a value
}

// keepColumns bounds what an idle table keeps for inputs and columns.
const keepColumns = 1024

// reset lets go of what belongs to the request that is over.
func (t *table) reset() {
	t.sig = nil
	clear(t.keys)
	t.keys = t.keys[:0]
	clear(t.rest)
	if max(cap(t.sinks), cap(t.seen), cap(t.at), cap(t.cols), cap(t.keys),
		cap(t.rest)) > keepColumns {
		*t = table{}
	}
}

// newTable makes the request ready for a body in a dialect.
func (r *Request) newTable(sig *tensor.Signature, d dialect, body []byte) *table {
	r.begin(sig)
	r.scan.buf = body
	t := &r.table
	t.scanner, t.r, t.sig, t.dialect = &r.scan, r, sig, d
	t.csv, t.encoded, t.matrix, t.named, t.inRows = false, false, false, false, false
	t.width, t.row, t.given = 0, 0, 0
	t.cols, t.seen = t.cols[:0], t.seen[:0]
	t.sinks = slices.Grow(t.sinks[:0], len(sig.Inputs))[:len(sig.Inputs)]
	for i := range t.sinks {
		d := &t.sinks[i]
		d.data = data{scanner: t.scanner, input: i, datatype: sig.Inputs[i].Datatype, r: r,
			table: t}
		if d.datatype == tensor.Bytes {
			d.n = math.MaxInt64
		}
		d.known, d.rank, d.rows = 0, -1, 0
	}
	return t
}

// end sees to it that nothing follows the request.
func (t *table) end() error {
	if t.next(); t.pos < len(t.buf) {
		return t.fail("unexpected %q after the request", t.buf[t.pos])
	}
	return nil
}

// leastElements is what the values of an input get room for at first.
const leastElements = 16

// grow makes room for more elements of an input. The first guess is a share of
// the body, so that all inputs together take no more than a multiple of it.
func (t *table) grow(d *data) error {
	n := 2 * d.n
	if n == 0 {
		n = max(int64(len(t.buf)-t.pos)/8/int64(len(t.sinks)), leastElements)
	}
	b, err := t.r.Mem.Alloc(int(n) * d.datatype.Size())
	if err != nil {
		return err
	}
	copy(b, d.dst)
	d.dst, d.n = b, n
	return nil
}

// place names the value that is being read.
func (t *table) place(d *data) string {
	name := t.sig.Inputs[d.input].Name
	switch {
	case t.matrix && t.width > 0:
		return fmt.Sprintf("column %s, row %d", t.column(int(d.got)%t.width), int(d.got)/t.width)
	case t.matrix:
		return fmt.Sprintf("column %d, row 0", d.got)
	case t.inRows:
		return fmt.Sprintf("input '%s', row %d", name, t.row)
	}
	return fmt.Sprintf("input '%s', element %d", name, d.got)
}

// column is the name of a column of the matrix, or its number.
func (t *table) column(i int) string {
	if t.named {
		return "'" + string(shorten([]byte(t.sig.Inputs[0].Columns[i].Name))) + "'"
	}
	return strconv.Itoa(i)
}

// nested reads one level of nested arrays; depth 0 is the tensor's first axis.
// All arrays of a level have equally many elements, and numbers lie equally deep.
func (d *sink) nested(depth int) error {
	if depth >= tensor.MaxRank {
		return d.errorf("arrays are nested deeper than %d", tensor.MaxRank)
	}
	if err := d.open('['); err != nil {
		return err
	}
	inner := d.next() != '['
	if d.rank >= 0 && inner != (d.rank == depth+1) {
		return d.errorf("arrays are nested to unequal depths")
	}
	n := int64(0)
	if inner {
		d.rank = depth + 1
		n = d.got
		if err := d.flat(); err != nil {
			return err
		}
		n = d.got - n
	} else {
		for {
			ok, err := d.more(']', n == 0)
			if err != nil {
				return err
			}
			if !ok {
				break
			}
			if d.next() != '[' && d.pos < len(d.buf) {
				return d.errorf("must be an array")
			}
			if err := d.nested(depth + 1); err != nil {
				return err
			}
			n++
		}
	}
	if bit := uint32(1) << depth; d.known&bit == 0 {
		d.known |= bit
		d.dims[depth] = n
	} else if d.dims[depth] != n {
		if w := int64(d.table.width); d.table.matrix && depth == 1 && w > 0 {
			d.table.row = int((d.got - n) / w)
			return d.table.rowErrorf("it has %d values, there are %d columns", n, w)
		}
		return d.errorf("arrays have unequal lengths, %d and %d", d.dims[depth], n)
	}
	return nil
}

// element reads one value where the scanner stands.
func (d *data) element() error {
	switch d.datatype {
	case tensor.FP32:
		return d.single()
	case tensor.Bytes:
		return d.str1()
	case tensor.Bool:
		return d.bool1()
	case tensor.FP64, tensor.FP16, tensor.BF16:
		return d.float1()
	}
	return d.int1()
}

// whole reads an input that is sent as one value, with all its rows.
func (t *table) whole(i int) error {
	d := &t.sinks[i]
	if t.r.Inputs[i].Datatype != tensor.Invalid {
		return fmt.Errorf("%w: input '%s' stands twice", ErrBadRequest, t.sig.Inputs[i].Name)
	}
	if t.next() == '[' {
		if err := d.nested(0); err != nil {
			return err
		}
		return t.set(i, fit(d.dims[:d.rank], &t.sig.Inputs[i]))
	}
	d.rank = 0
	if err := t.scalar(d, nil); err != nil {
		return err
	}
	shape := d.dims[:0]
	if len(t.sig.Inputs[i].Shape) > 0 {
		d.dims[0] = 1 // a row of one value
		shape = fit(d.dims[:1], &t.sig.Inputs[i])
	}
	return t.set(i, shape)
}

// fit makes values of their number a column where the input has rows of one
// value, and the other way round.
func fit(shape []int64, spec *tensor.Spec) []int64 {
	switch n := len(spec.Shape); {
	case n > 0 && len(shape) == n-1 && spec.Shape[n-1] == 1:
		return append(shape, 1)
	case len(shape) == n+1 && shape[n] == 1:
		return shape[:n]
	}
	return shape
}

// set makes an input of what its sink has got.
func (t *table) set(i int, shape []int64) (err error) {
	d, in := &t.sinks[i], &t.r.Inputs[i]
	values := d.dst
	if d.datatype != tensor.Bytes {
		n := int(d.got) * d.datatype.Size()
		values = values[:n:n]
	}
	if len(values) == 0 {
		if values, err = t.r.Mem.Alloc(0); err != nil {
			return err
		}
	}
	in.Datatype, in.Shape, in.Data = d.datatype, shape, values
	return nil
}
