package wire

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
	"unsafe"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// DecodeMLflowCSV reads a table as text, as pandas does for MLflow's scoring
// protocol: a line of names and then the rows, values apart by commas, in
// quotes where they have commas, quotes or line breaks. Lines may end in CR LF,
// empty lines are passed over. An empty value, and a word such as NaN, NA or
// null, is missing. Columns go where DecodeMLflow sends them.
func DecodeMLflowCSV(r *Request, sig *tensor.Signature, body []byte) error {
	t := r.newTable(sig, dialectMLflow, body)
	t.csv, r.Frame = true, true
	if !utf8.Valid(body) {
		return fmt.Errorf("%w: the text is not valid UTF-8", ErrBadRequest)
	}
	if bytes.HasPrefix(body, []byte("\ufeff")) {
		t.pos = len("\ufeff")
	}
	if !t.lineBegins() {
		return fmt.Errorf("%w: there is no line of names; %s", ErrBadRequest, t.expected())
	}
	for i, last := 0, false; !last; i++ {
		name, err := t.cell()
		if err == nil {
			err = t.addColumn(i, name)
		}
		if err == nil {
			last, err = t.separator()
		}
		if err != nil {
			return err
		}
	}
	if err := t.endHeader(); err != nil {
		return err
	}
	line := t.textLine
	if t.plainRows() && sig.Inputs[0].Datatype == tensor.FP32 {
		line = t.floatLine
	}
	for t.row = 0; t.lineBegins(); t.row++ {
		if err := line(); err != nil {
			return err
		}
	}
	return t.endRows()
}

// lineBegins passes over empty lines; it is false at the end.
func (t *table) lineBegins() bool {
	for t.pos < len(t.buf) && (t.buf[t.pos] == '\n' || t.buf[t.pos] == '\r') {
		t.pos++
	}
	return t.pos < len(t.buf)
}

// delimited says whether the scanner stands at the end of a value.
func (t *table) delimited() bool {
	if t.pos >= len(t.buf) {
		return true
	}
	c := t.buf[t.pos]
	return c == ',' || c == '\n' || c == '\r'
}

// separator passes over what ends a value; last says that it ends the line too.
func (t *table) separator() (last bool, err error) {
	if t.pos >= len(t.buf) {
		return true, nil
	}
	if !t.delimited() {
		return false, t.rowErrorf("expected ',' or the end of the line behind a value in quotes, "+
			"got %q", t.buf[t.pos])
	}
	t.pos++
	return t.buf[t.pos-1] != ',', nil
}

// floatLine reads a row that lies as in the matrix, of FP32.
func (t *table) floatLine() error {
	d := &t.sinks[0]
	width := int64(t.width)
	end := int64(t.row+1) * width
	for d.n < end {
		if err := d.room(); err != nil {
			return err
		}
	}
	for last := false; !last; {
		if d.got == end {
			return t.rowErrorf("it has more than the %d values of its columns", width)
		}
		if err := t.scalar(d, nil); err != nil {
			return err
		}
		n := int64(d.floats32(d.dst[4*d.got : 4*end]))
		d.got += n
		if n > 0 && !t.delimited() { // the number goes on: it is read again the slow way
			d.got--
			t.pos = bytes.LastIndexByte(t.buf[:t.pos], ',')
		}
		var err error
		if last, err = t.separator(); err != nil {
			return err
		}
	}
	if d.got < end {
		return t.rowErrorf("it has %d values, there are %d columns", d.got-end+width, width)
	}
	return nil
}

// textLine reads a row of any kind.
func (t *table) textLine() error {
	n := 0
	for last := false; !last; n++ {
		var err error
		switch {
		case n >= len(t.cols):
			return t.rowErrorf("it has more than the %d values of its columns", len(t.cols))
		case t.cols[n] < 0:
			_, err = t.cell()
		default:
			err = t.put(int(t.cols[n]))
		}
		if err == nil {
			last, err = t.separator()
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

// cell returns the text of a value, which is valid until the next one is read.
func (t *table) cell() ([]byte, error) {
	if t.pos < len(t.buf) && t.buf[t.pos] == '"' {
		return t.quoted()
	}
	from := t.pos
	for !t.delimited() {
		t.pos++
	}
	return t.buf[from:t.pos], nil
}

// quoted reads a value in quotes, in which two quotes stand for one.
func (t *table) quoted() ([]byte, error) {
	t.text = t.text[:0]
	from := t.pos + 1
	for {
		n := bytes.IndexByte(t.buf[from:], '"')
		if n < 0 {
			return nil, t.rowErrorf("a value in quotes has no end")
		}
		t.pos = from + n + 1
		if t.pos == len(t.buf) || t.buf[t.pos] != '"' {
			if len(t.text) == 0 {
				return t.buf[from : from+n], nil
			}
			t.text = append(t.text, t.buf[from:from+n]...)
			return t.text, nil
		}
		t.text = append(t.text, t.buf[from:t.pos]...)
		from = t.pos + 1
	}
}

// field reads a value into a sink.
func (t *table) field(d *sink, c *tensor.Column) error {
	if !t.delimited() && d.datatype != tensor.Bytes && d.datatype != tensor.Bool {
		if b := t.buf[t.pos]; b == '-' || b-'0' <= 9 {
			at := t.pos
			err := t.number1(d, c)
			if err == errRange || err == errFraction || err == nil && t.delimited() {
				return err
			}
			t.pos = at
		}
	}
	at := t.pos
	text, err := t.cell()
	if err != nil {
		return err
	}
	if d.datatype != tensor.Bytes {
		text = bytes.TrimSpace(text)
	}
	if isMissing(text) {
		if !isFloat(d.datatype) || c != nil && t.checked(c) {
			return t.missing(d, c)
		}
		d.data.put(math.NaN())
		return nil
	}
	if err := t.parseText(d, c, text); err != nil {
		return d.errorf("%q %v", shorten(t.buf[at:t.pos]), err)
	}
	return nil
}

// number1 reads a number that stands there as in JSON.
func (t *table) number1(d *sink, c *tensor.Column) error {
	if c != nil {
		return t.typed(d, c)
	}
	return d.element()
}

// isMissing says whether pandas takes a text for a value that is missing.
func isMissing(text []byte) bool {
	if len(text) > len("-1.#QNAN") {
		return false
	}
	switch string(text) {
	case "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
		"<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null":
		return true
	}
	return false
}

// isTrue says which boolean a text is.
func isTrue(text []byte) (value, ok bool) {
	switch string(text) {
	case "True", "TRUE", "true":
		return true, true
	case "False", "FALSE", "false":
		return false, true
	}
	return false, false
}

var (
	errNumber  = errors.New("is not a number")
	errBoolean = errors.New("must be true or false")
	errBase64  = errors.New("is not base64")
)

// parseText stores the value of a text.
func (t *table) parseText(d *sink, c *tensor.Column, text []byte) error {
	kind := ""
	if c != nil {
		kind = c.Type
	}
	switch {
	case d.datatype == tensor.Bytes:
		return t.parseString(d, kind, text)
	case d.datatype == tensor.Bool || kind == "boolean":
		return parseBool(d, text)
	case isFloat(d.datatype) && kind != "integer" && kind != "long":
		return parseFloat(d, text)
	}
	s := scanner{buf: text}
	v, neg, err := s.integer()
	switch {
	case err != nil && err != errRange && err != errFraction || err == nil && s.pos < len(text):
		return errNumber
	case err != nil:
		return err
	case isFloat(d.datatype) && !d.putWhole(v, neg, c) ||
		!isFloat(d.datatype) && !d.putInt(v, neg):
		return errRange
	}
	return nil
}

func (t *table) parseString(d *sink, kind string, text []byte) (err error) {
	if kind == "binary" {
		n := len(t.text)
		if t.text, err = base64.StdEncoding.AppendDecode(t.text, text); err != nil {
			return errBase64
		}
		text = t.text[n:]
	}
	if d.dst, err = t.r.grow(d.dst, 4+len(text)); err != nil {
		return err
	}
	d.dst = tensor.AppendElement(d.dst, text)
	return nil
}

func parseBool(d *sink, text []byte) error {
	v, ok := isTrue(text)
	switch {
	case !ok:
		return errBoolean
	case d.datatype != tensor.Bool && v:
		d.data.put(1)
	case d.datatype != tensor.Bool:
		d.data.put(0)
	case v:
		d.dst[d.got] = 1
	default:
		d.dst[d.got] = 0
	}
	return nil
}

// parseFloat reads forms that JSON has not: a plus sign, a point without
// digits on one side, and infinities by other names. text is not empty.
func parseFloat(d *sink, text []byte) error {
	if bytes.ContainsAny(text, "xXpP_") {
		return errNumber // Go's own forms
	}
	bits := 64
	if d.datatype == tensor.FP32 {
		bits = 32
	}
	f, err := strconv.ParseFloat(unsafe.String(&text[0], len(text)), bits)
	switch {
	case errors.Is(err, strconv.ErrRange):
		return errRange
	case err != nil:
		return errNumber
	case !d.data.put(f):
		return errRange
	}
	return nil
}
