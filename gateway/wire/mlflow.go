package wire

import (
	"fmt"
	"slices"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// DecodeMLflow reads the JSON of MLflow's scoring protocol: an object with one
// of dataframe_split, dataframe_records, instances and inputs. Columns go by
// their names to inputs or to the columns of the only input; those that the
// model does not know are dropped. Columns of a matrix without names go by
// their order.
//
// Values must be of the type of their column, as the model's signature in
// MLflow has it: integers may widen to floats, a float must not lose its
// fraction to an integer, only floats may be missing. Numbers for a model that
// takes FP32 may have all digits of a double. Values of the type binary are
// base64 in the two forms of data frames, but not in the other two, which is
// MLflow's way. "params" are ignored.
func DecodeMLflow(r *Request, sig *tensor.Signature, body []byte) error {
	t := r.newTable(sig, dialectMLflow, body)
	if err := t.open('{'); err != nil {
		return err
	}
	var seen struct{ values, params bool }
	for first := true; ; first = false {
		key, ok, err := t.key(first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch string(key) {
		case "dataframe_split", "dataframe_records", "instances", "inputs":
			if seen.values {
				return t.form()
			}
			seen.values = true
			err = t.values(key)
		case "params":
			if err = t.once(&seen.params, key); err == nil && t.next() != '{' && t.next() != 'n' {
				err = t.fail("\"params\" must be an object")
			}
			if err == nil {
				err = t.skip()
			}
		case "signature_name":
			err = t.fail("\"signature_name\" is not supported")
		default:
			err = t.skip()
		}
		if err != nil {
			return err
		}
	}
	if !seen.values {
		return t.form()
	}
	return t.end()
}

func (t *table) form() error {
	return fmt.Errorf("%w: the input must be a JSON object with exactly one of dataframe_split, "+
		"dataframe_records, instances, inputs", ErrBadRequest)
}

// values reads the request in the form that key names.
func (t *table) values(key []byte) error {
	switch string(key) {
	case "dataframe_split":
		t.r.Frame, t.encoded = true, true
		return t.split()
	case "dataframe_records":
		t.r.Frame, t.encoded = true, true
		return t.records()
	case "instances":
		t.r.Frame = t.framed()
		return t.instances()
	}
	t.r.Frame = t.framed()
	return t.tensors()
}

// split reads a data frame: {"columns": [...], "index": [...], "data": [...]}.
func (t *table) split() error {
	if err := t.open('{'); err != nil {
		return err
	}
	var seen struct{ columns, data bool }
	at, depth := -1, t.depth
	for first := true; ; first = false {
		key, ok, err := t.key(first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch string(key) {
		case "columns":
			if err = t.once(&seen.columns, key); err == nil {
				err = t.header()
			}
		case "data":
			if err = t.once(&seen.data, key); err != nil {
				break
			}
			if seen.columns {
				err = t.frame()
				break
			}
			t.next()
			at = t.pos // the columns may be to come
			err = t.skip()
		default:
			err = t.skip()
		}
		if err != nil {
			return err
		}
	}
	if !seen.data {
		return fmt.Errorf("%w: dataframe_split has no \"data\"", ErrBadRequest)
	}
	if at < 0 {
		return nil
	}
	if !seen.columns {
		if err := t.noHeader(); err != nil {
			return err
		}
	}
	end, outer := t.pos, t.depth
	t.pos, t.depth = at, depth
	err := t.frame()
	t.pos, t.depth = end, outer
	return err
}

// header reads the names of a data frame's columns.
func (t *table) header() error {
	if err := t.open('['); err != nil {
		return err
	}
	for i := 0; ; i++ {
		ok, err := t.more(']', i == 0)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		var name []byte
		if t.next() == '"' {
			name, err = t.str()
		} else {
			name, err = t.number() // what pandas calls columns without names
		}
		if err != nil {
			return err
		}
		if err := t.addColumn(i, name); err != nil {
			return err
		}
	}
	return t.endHeader()
}

// addColumn notes where the i-th column of a data frame goes.
func (t *table) addColumn(i int, name []byte) error {
	if i == 0 {
		t.choose(name)
	}
	col := i
	if !t.matrix || t.named {
		if col = t.find(i, name); col >= 0 {
			if t.seen[col] != 0 {
				return fmt.Errorf("%w: %s stands twice in the columns", ErrBadRequest,
					t.target(col))
			}
			t.seen[col] = -1
		}
	}
	t.cols = append(t.cols, int32(col))
	return nil
}

// endHeader refuses a data frame that lacks a column.
func (t *table) endHeader() error {
	switch {
	case len(t.cols) == 0:
		return fmt.Errorf("%w: there are no columns; %s", ErrBadRequest, t.expected())
	case t.matrix && !t.named:
		t.width = len(t.cols)
		t.seen = slices.Grow(t.seen[:0], t.width)[:t.width]
		clear(t.seen)
		return nil
	case !t.matrix && len(t.sinks) == 1 && len(t.cols) == 1 && t.cols[0] < 0 &&
		t.sig.Inputs[0].Columns == nil:
		t.cols[0] = 0 // the only column goes to the only input, whatever its name
		return nil
	}
	for col := range t.seen {
		if t.seen[col] == 0 && !t.optional(col) {
			return t.lacks(func(i int) bool { return t.seen[i] == 0 })
		}
	}
	return nil
}

// noHeader takes the columns of a data frame without names in the model's order.
func (t *table) noHeader() error {
	if len(t.sinks) != 1 {
		return fmt.Errorf("%w: dataframe_split has no \"columns\"; %s", ErrBadRequest,
			t.expected())
	}
	t.choose(nil)
	for i := range t.width {
		t.cols = append(t.cols, int32(i))
	}
	if !t.matrix {
		t.cols = append(t.cols, 0)
	}
	return nil
}

// frame reads the rows of a data frame.
func (t *table) frame() error {
	if t.plainRows() {
		return t.block()
	}
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
		if err := t.line(); err != nil {
			return err
		}
	}
	return t.endRows()
}

// plainRows says whether the rows are those of the matrix as they are.
func (t *table) plainRows() bool {
	if !t.matrix || t.named && len(t.cols) != t.width {
		return false
	}
	if !t.named {
		return t.csv || !t.listOfLists()
	}
	columns := t.sig.Inputs[0].Columns
	for i, col := range t.cols {
		if int(col) != i || t.checked(&columns[i]) {
			return false
		}
	}
	return true
}

// listOfLists says whether the values of an only column are lists: then they
// are the rows of the input. The scanner stands at the data.
func (t *table) listOfLists() bool {
	if t.width != 1 {
		return false
	}
	pos, open := t.pos, 0
	for t.next() == '[' && open < 3 {
		t.pos++
		open++
	}
	t.pos = pos
	if open == 3 {
		t.matrix = false
	}
	return open == 3
}

// checked says whether the values of a column are held against its type, for
// the datatype of the input does not do that.
func (t *table) checked(c *tensor.Column) bool {
	switch c.Type {
	case "integer", "long", "boolean":
		return isFloat(t.sig.Inputs[0].Datatype)
	}
	return c.Type == "binary"
}

// block reads rows that lie as in the matrix.
func (t *table) block() error {
	d := &t.sinks[0]
	if t.width > 0 {
		d.dims[1], d.known = int64(t.width), 2
	}
	if err := d.nested(0); err != nil {
		return err
	}
	t.row = int(d.dims[0])
	if d.rank > 2 || d.rank < 2 && d.got > 0 && t.width != 1 {
		return fmt.Errorf("%w: each row must be a list of the values of its columns",
			ErrBadRequest)
	}
	if t.width == 0 && d.rank == 2 {
		t.width = int(d.dims[1])
	}
	return t.endRows()
}

// line reads one row of a data frame whose columns lie otherwise than the model's.
func (t *table) line() error {
	if len(t.cols) == 1 && t.next() != '[' && t.cols[0] >= 0 {
		if err := t.put(int(t.cols[0])); err != nil {
			return err
		}
		return t.endRow()
	}
	if err := t.open('['); err != nil {
		return err
	}
	n := 0
	for ; ; n++ {
		ok, err := t.more(']', n == 0)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch {
		case n >= len(t.cols):
			return t.rowErrorf("it has more values than the %d columns", len(t.cols))
		case t.cols[n] < 0:
			err = t.skip()
		default:
			err = t.put(int(t.cols[n]))
		}
		if err != nil {
			return err
		}
	}
	if n < len(t.cols) {
		return t.rowErrorf("it has %d values, there are %d columns", n, len(t.cols))
	}
	return t.endRow()
}

// typed reads a value whose column's type asks for more than the datatype of
// the input does.
func (t *table) typed(d *sink, c *tensor.Column) error {
	d.base64 = t.encoded && c.Type == "binary"
	switch {
	case !isFloat(d.datatype):
		return d.element()
	case c.Type == "boolean":
		f := 0.0
		if t.next() == 't' {
			f = 1
		} else if t.next() != 'f' {
			return d.errorf("must be true or false")
		}
		d.data.put(f)
		return t.skip()
	case c.Type == "integer" || c.Type == "long":
		return t.wholeNumber(d, c)
	}
	return d.element()
}

// wholeNumber reads an integer for an input of floats.
func (t *table) wholeNumber(d *sink, c *tensor.Column) error {
	if t.next() == 'n' {
		return t.missing(d, c)
	}
	at := t.pos
	v, neg, err := d.integer()
	if err == nil && !d.putWhole(v, neg, c) {
		t.pos, err = at, errRange
	}
	return err
}

// putWhole stores an integer of a column as a float, if it is in the range of
// the column's type.
func (d *sink) putWhole(v uint64, neg bool, c *tensor.Column) bool {
	limit := limits[tensor.Int64]
	if c.Type == "integer" {
		limit = limits[tensor.Int32]
	}
	f := float64(v)
	if neg {
		f = -f
	}
	return (v <= limit.max || neg && v <= limit.min) && d.data.put(f)
}

// framed says whether MLflow makes a data frame of instances and inputs too: the
// model's signature has columns, and not tensors.
func (t *table) framed() bool {
	for i := range t.sig.Inputs {
		if c := t.sig.Inputs[i].Columns; len(c) > 0 && c[0].Type != "" {
			return true
		}
	}
	return false
}

// AppendMLflow appends the answer to a request that DecodeMLflow or
// DecodeMLflowCSV has read, {"predictions": ...}, as MLflow's flavor for ONNX
// has it, with one output as with several. Of a data frame it is a list of
// records, the outputs by their names, where a row of one value is that value.
// Of tensors, and where the outputs do not have equally many rows, it is an
// object of the outputs as nested lists. Numbers are as Append writes them.
func AppendMLflow(dst []byte, r *Request, a *Answer, nullNaN bool) ([]byte, error) {
	n := newNesting(r, a, nullNaN)
	dst = append(dst, `{"predictions":`...)
	if r.Frame && n.rows >= 0 {
		n.flat = true
		dst = n.list(dst)
	} else {
		dst = n.object(dst)
	}
	return append(dst, '}'), nil
}

// AppendMLflowError appends the body of an error as MLflow writes it. code is
// one of its names, such as BAD_REQUEST.
func AppendMLflowError(dst []byte, code, text string) []byte {
	dst = append(dst, `{"error_code":`...)
	dst = appendString(dst, code)
	dst = append(dst, `,"message":`...)
	dst = appendString(dst, text)
	return append(dst, '}')
}
