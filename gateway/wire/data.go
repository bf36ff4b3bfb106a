package wire

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// data reads the elements of input i, a flat or nested array, into dst, which
// has room for n elements; BYTES are appended to dst instead.
type data struct {
	*scanner
	input    int
	datatype tensor.Datatype
	dst      []byte
	n        int64 // elements that are due, or that there is room for with a table
	got      int64
	base64   bool
	r        *Request // whose memory BYTES grow in
	table    *table   // whose inputs grow, and whose rules hold; nil with OIP
}

func (d *data) errorf(format string, args ...any) error {
	return placed{fmt.Errorf("%w: %s: %s", ErrBadRequest, d.place(), fmt.Sprintf(format, args...))}
}

// placed is an error that names its place.
type placed struct{ error }

// Unwrap returns the error.
func (p placed) Unwrap() error { return p.error }

// place names the element that is being read.
func (d *data) place() string {
	if d.table != nil {
		return d.table.place(d)
	}
	return fmt.Sprintf("inputs[%d].data[%d]", d.input, d.got)
}

// room is called when there is none for another element.
func (d *data) room() error {
	if d.table == nil {
		return d.errorf("more than the %d elements of the shape", d.n)
	}
	return d.table.grow(d)
}

// array reads one level of the array. All elements of a level are of one kind,
// and all arrays of a level have equally many elements.
func (d *data) array() error {
	if d.next() != '[' {
		return d.errorf("must be an array")
	}
	if err := d.open('['); err != nil {
		return err
	}
	if c := d.next(); c != '[' {
		return d.flat()
	}
	each := int64(-1)
	for first := true; ; first = false {
		if ok, err := d.more(']', first); !ok {
			return err
		}
		before := d.got
		if err := d.array(); err != nil {
			return err
		}
		if n := d.got - before; each < 0 {
			each = n
		} else if n != each {
			return d.errorf("nested arrays have unequal lengths, %d and %d elements", each, n)
		}
	}
}

// flat reads the elements of an innermost array.
func (d *data) flat() error {
	switch d.datatype {
	case tensor.FP32:
		return d.singles()
	case tensor.Bytes:
		return d.each(d.str1)
	case tensor.Bool:
		return d.each(d.bool1)
	case tensor.FP64, tensor.FP16, tensor.BF16:
		return d.each(d.float1)
	}
	return d.each(d.int1)
}

func (d *data) each(element func() error) error {
	for first := true; ; first = false {
		if ok, err := d.more(']', first); !ok {
			return err
		}
		if d.got >= d.n {
			if err := d.room(); err != nil {
				return err
			}
		}
		if err := element(); err != nil {
			return d.wrap(err)
		}
		d.got++
	}
}

// singles is each for the datatype of most requests: the usual numbers are
// read in one loop, the others one at a time.
func (d *data) singles() error {
	for first := true; ; first = false {
		if !first {
			d.got += int64(d.floats32(d.dst[4*d.got:]))
		}
		if ok, err := d.more(']', first); !ok {
			return err
		}
		if d.got >= d.n {
			if err := d.room(); err != nil {
				return err
			}
		}
		if err := d.single(); err != nil {
			return d.wrap(err)
		}
		d.got++
	}
}

func (d *data) single() error {
	f, err := d.real(true)
	if err == nil {
		binary.LittleEndian.PutUint32(d.dst[4*d.got:], math.Float32bits(float32(f)))
	}
	return err
}

// real is float where the dialects beside OIP have null for NaN.
func (d *data) real(single bool) (float64, error) {
	if d.table != nil && d.next() == 'n' {
		return math.NaN(), d.word("null")
	}
	return d.float(single)
}

// wrap gives an element's error its place.
func (d *data) wrap(err error) error {
	if errors.As(err, new(placed)) {
		return err
	}
	if errors.Is(err, errRange) || errors.Is(err, errFraction) {
		text, _ := d.number()
		return d.errorf("%s %v for %s", shorten(text), err, d.datatype)
	}
	return fmt.Errorf("%w (%s, %s)", err, d.place(), d.datatype)
}

func shorten(text []byte) []byte {
	if len(text) > 40 {
		return text[:40]
	}
	return text
}

func (d *data) float1() error {
	at := d.pos
	f, err := d.real(false)
	if err == nil && !d.put(f) {
		d.pos, err = at, errRange
	}
	return err
}

// put stores a number as an element of a float datatype, if it is in range.
func (d *data) put(f float64) bool {
	switch d.datatype {
	case tensor.FP32:
		binary.LittleEndian.PutUint32(d.dst[4*d.got:], math.Float32bits(float32(f)))
		return math.Abs(f) <= math.MaxFloat32 || f-f != 0
	case tensor.FP64:
		binary.LittleEndian.PutUint64(d.dst[8*d.got:], math.Float64bits(f))
	case tensor.FP16:
		h := tensor.FP16FromFloat64(f)
		binary.LittleEndian.PutUint16(d.dst[2*d.got:], h)
		return h&0x7fff != 0x7c00 || math.IsInf(f, 0)
	default:
		h := tensor.BF16FromFloat64(f)
		binary.LittleEndian.PutUint16(d.dst[2*d.got:], h)
		return h&0x7fff != 0x7f80 || math.IsInf(f, 0)
	}
	return true
}

// limits of the integers: the largest value, and the largest after a minus sign.
var limits = [...]struct{ max, min uint64 }{
	tensor.Uint8: {math.MaxUint8, 0}, tensor.Uint16: {math.MaxUint16, 0},
	tensor.Uint32: {math.MaxUint32, 0}, tensor.Uint64: {math.MaxUint64, 0},
	tensor.Int8: {math.MaxInt8, 1 << 7}, tensor.Int16: {math.MaxInt16, 1 << 15},
	tensor.Int32: {math.MaxInt32, 1 << 31}, tensor.Int64: {math.MaxInt64, 1 << 63},
}

func (d *data) int1() error {
	at := d.pos
	v, neg, err := d.integer()
	if err != nil {
		return err
	}
	if !d.putInt(v, neg) {
		d.pos = at
		return errRange
	}
	return nil
}

// putInt stores an integer as an element of an integer datatype, if it is in range.
func (d *data) putInt(v uint64, neg bool) bool {
	l := limits[d.datatype]
	if neg && v > l.min || !neg && v > l.max {
		return false
	}
	if neg {
		v = -v
	}
	switch d.datatype.Size() {
	case 1:
		d.dst[d.got] = byte(v)
	case 2:
		binary.LittleEndian.PutUint16(d.dst[2*d.got:], uint16(v))
	case 4:
		binary.LittleEndian.PutUint32(d.dst[4*d.got:], uint32(v))
	default:
		binary.LittleEndian.PutUint64(d.dst[8*d.got:], v)
	}
	return true
}

func (d *data) bool1() error {
	switch d.next() {
	case 't':
		d.dst[d.got] = 1
		return d.word("true")
	case 'f':
		d.dst[d.got] = 0
		return d.word("false")
	}
	if d.table != nil && d.table.dialect == dialectMLflow {
		return d.errorf("must be true or false")
	}
	v, neg, err := d.integer()
	if err == nil && (neg || v > 1) {
		return d.errorf("must be true or false")
	}
	d.dst[d.got] = byte(v)
	return err
}

func (d *data) str1() error {
	if d.table != nil && d.table.dialect == dialectV1 && d.next() == '{' {
		return d.wrapped()
	}
	text := len(d.text)
	s, err := d.str()
	if err != nil {
		return err
	}
	if d.base64 {
		at := len(d.text)
		d.text, err = base64.StdEncoding.AppendDecode(d.text, s)
		if err != nil {
			return d.errorf("is not base64")
		}
		s = d.text[at:]
	}
	if d.dst, err = d.r.grow(d.dst, 4+len(s)); err != nil {
		return err
	}
	d.dst = tensor.AppendElement(d.dst, s)
	d.text = d.text[:text]
	return nil
}

// wrapped reads a string that the V1 protocol writes as {"b64": "..."}.
func (d *data) wrapped() error {
	if err := d.open('{'); err != nil {
		return err
	}
	key, ok, err := d.key(true)
	if err != nil {
		return err
	}
	if !ok || string(key) != "b64" {
		return d.errorf("an object must be {\"b64\": \"...\"}")
	}
	if d.next() != '"' {
		return d.unexpected("a string")
	}
	encoded := d.base64
	d.base64 = true
	err = d.str1()
	d.base64 = encoded
	if err != nil {
		return err
	}
	if _, ok, err = d.key(false); ok {
		return d.errorf("an object must be {\"b64\": \"...\"}")
	}
	return err
}
