package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"unsafe"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// choose decides by the first name whether values go to the columns of the
// only input or to inputs.
func (t *table) choose(name []byte) {
	t.inRows = true
	n := len(t.sig.Inputs)
	if n == 1 && len(t.sig.Inputs[0].Shape) == 2 {
		spec := &t.sig.Inputs[0]
		named, own := len(spec.Columns) > 0, spec.Name == string(name)
		t.matrix = t.sig.Column(name) >= 0 || !own && (named || t.dialect == dialectMLflow)
		if t.named = named && t.matrix; t.named {
			n = len(spec.Columns)
			t.width = n
		}
	}
	t.seen = slices.Grow(t.seen[:0], n)[:n]
	t.at = slices.Grow(t.at[:0], n)[:n]
	clear(t.seen)
	clear(t.at)
}

// find returns where the values of that name go, -1 for nowhere. Names mostly
// come in the order of the signature: the i-th is looked at first.
func (t *table) find(i int, name []byte) int {
	if t.matrix {
		columns := t.sig.Inputs[0].Columns
		if i < len(columns) && columns[i].Name == string(name) {
			return i
		}
		return t.sig.Column(name)
	}
	if i < len(t.sig.Inputs) && t.sig.Inputs[i].Name == string(name) {
		return i
	}
	return t.sig.Input(name)
}

// records reads a list of objects, each a row.
func (t *table) records() error {
	if err := t.open('['); err != nil {
		return err
	}
	for t.row = 0; ; t.row++ {
		ok, err := t.more(']', t.row == 0)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if t.next() != '{' && t.pos < len(t.buf) {
			return t.rowErrorf("must be an object, as the first is")
		}
		if err := t.record(); err != nil {
			return err
		}
	}
	return t.endRows()
}

func (t *table) rowErrorf(format string, args ...any) error {
	return fmt.Errorf("%w: row %d: %s", ErrBadRequest, t.row, fmt.Sprintf(format, args...))
}

// record reads one row, an object.
func (t *table) record() error {
	if err := t.open('{'); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if t.due(i) {
			if err := t.put(i); err != nil {
				return err
			}
			continue
		}
		key, ok, err := t.key(i == 0)
		if err != nil {
			return err
		}
		if i == 0 && t.row == 0 {
			t.choose(key)
		}
		if !ok {
			break
		}
		if t.matrix && !t.named {
			err = t.ordered(i, key)
		} else if col := t.find(i, key); col >= 0 {
			err = t.put(col)
		} else if t.dialect == dialectMLflow {
			err = t.skip()
		} else {
			err = t.unknown(key)
		}
		if err != nil {
			return err
		}
	}
	return t.endRow()
}

// due passes over the i-th key of a row and its colon, if that is the name which
// the signature has there, written as it is.
func (t *table) due(i int) bool {
	if i == 0 && t.row == 0 || t.matrix && !t.named {
		return false
	}
	name := ""
	if !t.matrix && i < len(t.sig.Inputs) {
		name = t.sig.Inputs[i].Name
	} else if t.matrix && i < t.width {
		name = t.sig.Inputs[0].Columns[i].Name
	}
	rest := t.buf[t.pos:]
	if i > 0 {
		if len(rest) == 0 || rest[0] != ',' {
			return false
		}
		rest = rest[1:]
	}
	if len(rest) > 0 && rest[0] == ' ' {
		rest = rest[1:]
	}
	n := len(name)
	if n == 0 || len(rest) < n+3 || rest[0] != '"' || string(rest[1:1+n]) != name ||
		rest[1+n] != '"' || rest[2+n] != ':' || strings.IndexByte(name, '\\') >= 0 ||
		strings.IndexByte(name, '"') >= 0 {
		return false
	}
	t.pos = len(t.buf) - len(rest) + n + 3
	return true
}

// ordered reads the next value of a matrix whose columns have no names. Those
// of the first row hold for the others.
func (t *table) ordered(i int, key []byte) error {
	d := &t.sinks[0]
	if t.row == 0 {
		if n := t.sig.Inputs[0].Shape[1]; n >= 0 && i >= int(n) {
			return t.rowErrorf("it has more than the %d columns of input '%s'", n,
				t.sig.Inputs[0].Name)
		}
		t.keys = append(t.keys, key)
	} else if i >= len(t.keys) || string(t.keys[i]) != string(key) {
		return t.rowErrorf("unexpected %q: the model's columns have no names, all rows must have "+
			"those of the first in the same order", shorten(key))
	}
	t.given++
	return t.scalar(d, nil)
}

// put reads a value of the row for a column.
func (t *table) put(col int) error {
	if t.seen[col] == int32(t.row+1) {
		return t.rowErrorf("%s stands twice", t.target(col))
	}
	t.seen[col] = int32(t.row + 1)
	t.given++
	if !t.matrix {
		return t.item(col)
	}
	d := &t.sinks[0]
	if d.datatype == tensor.Bytes && t.named {
		if !t.csv {
			t.next()
		}
		t.at[col] = t.pos // strings lie one behind the other: they wait for the row's end
		return t.pass()
	}
	if !t.named {
		return t.scalar(d, nil)
	}
	d.got = int64(t.row)*int64(t.width) + int64(col)
	return t.scalar(d, &t.sig.Inputs[0].Columns[col])
}

// pass passes over a value.
func (t *table) pass() error {
	if t.csv {
		_, err := t.cell()
		return err
	}
	return t.skip()
}

// target names a column or an input.
func (t *table) target(col int) string {
	if t.matrix {
		return "column " + t.column(col)
	}
	return "input '" + t.sig.Inputs[col].Name + "'"
}

// item reads the value of an input in a row.
func (t *table) item(i int) error {
	d := &t.sinks[i]
	if d.rows != t.row {
		return t.rowErrorf("input '%s' is missing in row %d", t.sig.Inputs[i].Name, d.rows)
	}
	d.rows++
	if !t.csv && t.next() == '[' {
		return d.nested(1)
	}
	if d.rank != 1 && d.rank >= 0 && t.pos < len(t.buf) {
		return d.errorf("must be an array, as in the rows before")
	}
	d.rank = 1
	var c *tensor.Column
	if columns := t.sig.Inputs[i].Columns; len(columns) == 1 {
		c = &columns[0]
	}
	return t.scalar(d, c)
}

// scalar reads one value, of the column c where that is known.
func (t *table) scalar(d *sink, c *tensor.Column) error {
	for d.got >= d.n {
		if err := d.room(); err != nil {
			return err
		}
	}
	var err error
	if t.csv {
		err = t.field(d, c)
	} else if d.datatype == tensor.FP32 && !t.strict(c) && t.usual(d) {
		return nil
	} else {
		if t.next() == 'n' && !isFloat(d.datatype) {
			return t.missing(d, c)
		}
		if t.dialect == dialectMLflow && c != nil {
			err = t.typed(d, c)
		} else {
			err = d.element()
		}
	}
	switch {
	case err == nil:
		d.got++
		return nil
	case t.csv && err != errRange && err != errFraction:
		return err // it names its place
	}
	return d.wrap(err)
}

// strict says whether a float is held against the type of its column.
func (t *table) strict(c *tensor.Column) bool {
	return t.dialect == dialectMLflow && c != nil && t.checked(c)
}

// usual reads a number of FP32, if it is one that usual32 takes.
func (t *table) usual(d *sink) bool {
	if t.next(); len(t.buf)-t.pos < fastRoom {
		return false
	}
	v, length := usual32(unsafe.Pointer(unsafe.SliceData(t.buf[t.pos:])))
	if length == 0 {
		return false
	}
	binary.LittleEndian.PutUint32(d.dst[4*d.got:], v)
	d.got++
	t.pos += length
	return true
}

func isFloat(d tensor.Datatype) bool {
	return d == tensor.FP32 || d == tensor.FP64 || d == tensor.FP16 || d == tensor.BF16
}

// missing refuses a value that is missing.
func (t *table) missing(d *sink, c *tensor.Column) error {
	kind := d.datatype.String()
	if c != nil && c.Type != "" {
		kind = c.Type
	}
	return d.errorf("the value is missing; only floats may be, and this is %s", kind)
}

// endRow looks after the values that a row has not given.
func (t *table) endRow() error {
	given := t.given
	t.given = 0
	if !t.matrix {
		if given < len(t.sinks) {
			return t.absentInputs()
		}
		return nil
	}
	d := &t.sinks[0]
	if !t.named {
		if t.width == 0 {
			t.width = given
		} else if given != t.width {
			return t.rowErrorf("it has %d values, there are %d columns", given, t.width)
		}
		return nil
	}
	if given < t.width {
		if err := t.absentColumns(d); err != nil {
			return err
		}
	}
	if d.datatype == tensor.Bytes {
		return t.strings(d)
	}
	d.got = int64(t.row+1) * int64(t.width)
	return nil
}

// strings reads the strings of a row in the order of the columns.
func (t *table) strings(d *sink) error {
	end := t.pos
	for col := range t.at {
		t.pos = t.at[col]
		if err := t.scalar(d, &t.sig.Inputs[0].Columns[col]); err != nil {
			return err
		}
	}
	t.pos = end
	return nil
}

// absentInputs lets only those inputs be missing that may be.
func (t *table) absentInputs() error {
	for i := range t.sinks {
		if t.seen[i] == int32(t.row+1) {
			continue
		}
		if !t.sig.Inputs[i].Optional || t.sinks[i].rows > 0 {
			return t.lacks(func(i int) bool { return t.seen[i] != int32(t.row+1) })
		}
	}
	return nil
}

// absentColumns fills in the values of columns that may be missing. The body
// does not pay for them, so that there may be no more rows than a batch has.
func (t *table) absentColumns(d *sink) error {
	columns := t.sig.Inputs[0].Columns
	for col := range columns {
		switch c := &columns[col]; {
		case t.seen[col] == int32(t.row+1):
			continue
		case !c.Optional:
			return t.lacks(func(i int) bool { return t.seen[i] != int32(t.row+1) })
		case !isFloat(d.datatype) || c.Type == "integer" || c.Type == "long":
			d.got = int64(t.row)*int64(t.width) + int64(col)
			return t.missing(d, c)
		case t.row >= max(1, t.sig.MaxBatchSize):
			return fmt.Errorf("%w: inference request batch-size must be <= %d for '%s'",
				ErrBadRequest, max(1, t.sig.MaxBatchSize), t.sig.Model)
		}
		d.got = int64(t.row)*int64(t.width) + int64(col)
		for d.got >= d.n {
			if err := d.room(); err != nil {
				return err
			}
		}
		d.data.put(math.NaN())
	}
	return nil
}

// endRows makes inputs of the rows that were read.
func (t *table) endRows() error {
	t.r.Rows = t.row
	if t.row == 0 {
		return fmt.Errorf("%w: there are no rows", ErrBadRequest)
	}
	for i := range t.sinks {
		d := &t.sinks[i]
		if t.matrix {
			d.rank, d.dims[1] = 2, int64(t.width)
		} else if d.rows == 0 {
			continue // it may be left out
		} else if d.rows < t.row {
			return fmt.Errorf("%w: input '%s' is missing in row %d", ErrBadRequest,
				t.sig.Inputs[i].Name, d.rows)
		}
		d.dims[0] = int64(t.row)
		if err := t.place1(i); err != nil {
			return err
		}
	}
	return nil
}

// place1 sets an input to its rows, along the axis that the model has them on.
func (t *table) place1(i int) error {
	d, spec := &t.sinks[i], &t.sig.Inputs[i]
	shape := d.dims[:d.rank]
	switch {
	case t.sig.MaxBatchSize == 0 && t.r.Single && d.rank-1 == len(spec.Shape):
		t.r.Rows = 0
		return t.set(i, shape[1:]) // the model knows no rows: it was all of the tensor
	case t.sig.MaxBatchSize == 0 || spec.BatchAxis == 0:
		return t.set(i, fit(shape, spec))
	case t.row > 1:
		return fmt.Errorf("%w: rows of input '%s' cannot be put together, for its batch axis is "+
			"not the first; send one row", ErrBadRequest, spec.Name)
	case spec.BatchAxis < 0:
		return t.set(i, fit(shape[1:], spec))
	}
	if axis := min(spec.BatchAxis, d.rank-1); axis > 0 {
		copy(shape, shape[1:axis+1])
		shape[axis] = 1
	}
	return t.set(i, shape)
}
