package wire

import (
	"fmt"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// tensors reads the column form: the value of the only input, or an object of
// all by their names, with lists for the columns of a matrix.
func (t *table) tensors() error {
	first := t.peekKey()
	if t.next() != '{' || t.single(first) {
		if len(t.sig.Inputs) != 1 {
			return t.fail("expected an object, for %s", t.expected())
		}
		return t.whole(0)
	}
	t.choose(first)
	t.inRows = false
	if t.matrix && !t.named { // without names there is nothing to go by
		t.matrix, t.width = false, 0
	}
	if t.usualLists() {
		return t.endRows()
	}
	if err := t.open('{'); err != nil {
		return err
	}
	for i := 0; ; i++ {
		key, ok, err := t.key(i == 0)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		if col := t.find(i, key); col < 0 {
			if t.dialect != dialectMLflow {
				return t.unknown(key)
			}
			err = t.skip()
		} else if t.matrix {
			err = t.later(col)
		} else {
			err = t.whole(col)
		}
		if err != nil {
			return err
		}
	}
	if t.matrix {
		return t.side()
	}
	return t.allInputs()
}

// peekKey returns the first key of the object at which the scanner stands, nil
// where there is none.
func (t *table) peekKey() []byte {
	pos, depth := t.pos, t.depth
	key := []byte(nil)
	if t.next() == '{' {
		t.pos++
		key, _, _ = t.scanner.key(true) // whoever reads the object says what is wrong
	}
	t.pos, t.depth = pos, depth
	return key
}

// single says whether an object with that first key is a string of the V1
// protocol, {"b64": "..."}, for the only input.
func (t *table) single(key []byte) bool {
	return t.dialect == dialectV1 && string(key) == "b64" && len(t.sig.Inputs) == 1 &&
		t.sig.Input(key) < 0 && t.sig.Column(key) < 0
}

// allInputs refuses a request that lacks an input.
func (t *table) allInputs() error {
	for i := range t.sinks {
		if t.r.Inputs[i].Datatype == 0 && !t.sig.Inputs[i].Optional {
			return t.lacks(func(i int) bool { return t.r.Inputs[i].Datatype == 0 })
		}
	}
	return nil
}

// usualLists reads a list for each column of an FP32 matrix, one after the
// other. It is false for whatever else there is, be it right or wrong, and has
// read nothing then.
func (t *table) usualLists() bool {
	if !t.matrix || t.sinks[0].datatype != tensor.FP32 {
		return false
	}
	d := &t.sinks[0]
	pos, depth := t.pos, t.depth
	if t.open('{') == nil && t.lists(d) {
		return true
	}
	t.pos, t.depth, t.row, d.got = pos, depth, 0, 0
	clear(t.seen)
	return false
}

// lists is usualLists within the object. It stops where the values of all
// columns would need more bytes than the body has: no memory is taken for more.
func (t *table) lists(d *sink) bool {
	columns := t.sig.Inputs[0].Columns
	most := len(t.buf) / 2 / t.width
	for i := 0; ; i++ {
		col := i
		if !t.due(i) {
			key, ok, err := t.key(i == 0)
			if err != nil {
				return false
			}
			if !ok {
				d.got = int64(t.row) * int64(t.width)
				return i == t.width
			}
			col = t.find(i, key)
		}
		if col < 0 || t.seen[col] != 0 || t.strict(&columns[col]) || t.open('[') != nil {
			return false
		}
		t.seen[col] = 1
		rows, ok := t.list(d, col, most)
		if !ok || i > 0 && rows != t.row {
			return false
		}
		t.row = rows
	}
}

// list reads the values of a column and returns how many there are.
func (t *table) list(d *sink, col, most int) (rows int, ok bool) {
	var ahead [32 * 4]byte
	for ; ; rows++ {
		if more, err := t.more(']', rows == 0); err != nil || !more {
			return rows, err == nil
		}
		if rows >= most {
			return rows, false
		}
		d.got = int64(rows*t.width + col)
		if t.scalar(d, nil) != nil {
			return rows, false
		}
		n := t.floats32(ahead[:4*min(len(ahead)/4, most-1-rows)])
		for int64(rows+n)*int64(t.width)+int64(col) >= d.n {
			if d.room() != nil {
				return rows, false
			}
		}
		for i := range n {
			rows++
			copy(d.dst[4*(rows*t.width+col):], ahead[4*i:4*i+4])
		}
	}
}

// later notes where the values of a column of the matrix lie.
func (t *table) later(col int) error {
	if t.seen[col] != 0 {
		return fmt.Errorf("%w: column %s stands twice", ErrBadRequest, t.column(col))
	}
	t.seen[col] = 1
	t.next()
	t.at[col] = t.pos
	return t.skip()
}

// side puts the columns that later noted side by side: it reads the first
// value of each, then the second of each.
func (t *table) side() error {
	columns := t.sig.Inputs[0].Columns
	lead := -1 // the first column that is there
	for col := range columns {
		if t.seen[col] != 0 && lead < 0 {
			lead = col
		}
		if t.seen[col] == 0 && !columns[col].Optional {
			return t.lacks(func(i int) bool { return t.seen[i] == 0 })
		}
	}
	if lead < 0 {
		return fmt.Errorf("%w: there are no values; %s", ErrBadRequest, t.expected())
	}
	clear(t.seen)
	lists := t.buf[t.at[lead]] == '['
	for col, at := range t.at {
		if at != 0 && (t.buf[at] == '[') != lists {
			return fmt.Errorf("%w: column %s is a list, column %s is not", ErrBadRequest,
				t.column(lead), t.column(col))
		}
		if at != 0 && lists {
			t.at[col]++
		}
	}
	t.inRows = true
	end, depth := t.pos, t.depth
	for t.row = 0; lists || t.row == 0; t.row++ {
		if ok, err := t.across(lead, lists); err != nil {
			return err
		} else if !ok {
			break
		}
	}
	t.pos, t.depth = end, depth
	return t.endRows()
}

// across reads a row, the next value of each column from the first one that is
// there; ok is false at their end.
func (t *table) across(lead int, lists bool) (ok bool, err error) {
	d, columns := &t.sinks[0], t.sig.Inputs[0].Columns
	for col := lead; col < len(columns); col++ {
		if t.at[col] == 0 {
			continue
		}
		t.pos = t.at[col]
		more := true
		if lists {
			if more, err = t.more(']', t.row == 0); err != nil {
				return false, err
			}
		}
		if col == lead {
			ok = more
		} else if more != ok {
			return false, fmt.Errorf("%w: columns %s and %s have unequal lengths", ErrBadRequest,
				t.column(lead), t.column(col))
		}
		if !more {
			continue
		}
		t.seen[col] = int32(t.row + 1)
		t.given++
		d.got = int64(t.row)*int64(t.width) + int64(col)
		if err = t.scalar(d, &columns[col]); err != nil {
			return false, err
		}
		t.at[col] = t.pos
	}
	if ok && t.given < t.width {
		err = t.absentColumns(d)
	}
	if t.given = 0; ok {
		d.got = int64(t.row+1) * int64(t.width)
	} else {
		d.got = int64(t.row) * int64(t.width)
	}
	return ok, err
}
