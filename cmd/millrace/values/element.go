// Package values makes tensors of what people have: lists on the command line,
// JSON, CSV, NumPy files, images; and text of tensors.
//
// Each function takes the description of the model's input ([tensor.Spec]) and
// converts to its datatype; a value that does not fit is an error that names
// the value. All are pure and may be called concurrently.
package values

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// ErrValue is returned for a value that an input cannot take.
var ErrValue = errors.New("values: does not fit the input")

// AppendElement appends the value that text stands for, in the layout of package tensor.
func AppendElement(dst []byte, d tensor.Datatype, text string) ([]byte, error) {
	switch d {
	case tensor.Bytes:
		return tensor.AppendElement(dst, text), nil
	case tensor.Bool:
		b, err := strconv.ParseBool(strings.TrimSpace(text))
		if err != nil {
			return dst, fmt.Errorf("%w: %q is neither true nor false", ErrValue, text)
		}
		if b {
			return append(dst, 1), nil
		}
		return append(dst, 0), nil
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		return appendFloat(dst, d, strings.TrimSpace(text))
	}
	return appendInteger(dst, d, strings.TrimSpace(text))
}

func appendFloat(dst []byte, d tensor.Datatype, text string) ([]byte, error) {
	bits := 64 // the half floats are rounded once, from all digits
	if d == tensor.FP32 {
		bits = 32
	}
	f, err := strconv.ParseFloat(text, bits)
	held := f
	switch d {
	case tensor.FP16:
		half := tensor.FP16FromFloat64(f)
		held = float64(tensor.FP16ToFloat32(half))
		dst = binary.LittleEndian.AppendUint16(dst, half)
	case tensor.BF16:
		half := tensor.BF16FromFloat64(f)
		held = float64(tensor.BF16ToFloat32(half))
		dst = binary.LittleEndian.AppendUint16(dst, half)
	case tensor.FP32:
		dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(float32(f)))
	default:
		dst = binary.LittleEndian.AppendUint64(dst, math.Float64bits(f))
	}
	if err != nil || math.IsInf(held, 0) && !math.IsInf(f, 0) {
		return dst, fmt.Errorf("%w: %q is not a number that %s can hold", ErrValue, text, d)
	}
	return dst, nil
}

func signed(d tensor.Datatype) bool {
	return d == tensor.Int8 || d == tensor.Int16 || d == tensor.Int32 || d == tensor.Int64
}

// exact is up to where each whole number is a float64 of its own.
const exact = 1 << 53

// appendInteger takes "3" and also "3.0" and "3e0", as tables often have it.
func appendInteger(dst []byte, d tensor.Datatype, text string) ([]byte, error) {
	if strings.ContainsAny(text, ".eE") {
		f, err := strconv.ParseFloat(text, 64)
		if err == nil && f == math.Trunc(f) && math.Abs(f) <= exact {
			text = strconv.FormatInt(int64(f), 10)
		}
	}
	var v uint64
	var err error
	if signed(d) {
		var i int64
		i, err = strconv.ParseInt(text, 10, 8*d.Size())
		v = uint64(i)
	} else {
		v, err = strconv.ParseUint(text, 10, 8*d.Size())
	}
	if err != nil {
		return dst, fmt.Errorf("%w: %q is not a whole number that %s can hold", ErrValue, text, d)
	}
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], v)
	return append(dst, b[:d.Size()]...), nil
}

// Texts returns each element of t as text: numbers in the shortest form that
// reads back, BYTES as they are.
func Texts(t *tensor.Tensor) []string {
	var texts []string
	rest := t.Data
	for len(rest) > 0 {
		if t.Datatype == tensor.Bytes {
			element, next, ok := tensor.NextElement(rest)
			if !ok {
				break
			}
			texts, rest = append(texts, string(element)), next
			continue
		}
		n := t.Datatype.Size()
		texts = append(texts, text(t.Datatype, rest[:n]))
		rest = rest[n:]
	}
	return texts
}

// text returns one element that is not BYTES.
func text(d tensor.Datatype, data []byte) string {
	var b [8]byte
	copy(b[:], data)
	v := binary.LittleEndian.Uint64(b[:])
	switch d {
	case tensor.Bool:
		return strconv.FormatBool(v != 0)
	case tensor.FP16:
		return floatText(float64(tensor.FP16ToFloat32(uint16(v))), 32)
	case tensor.BF16:
		return floatText(float64(tensor.BF16ToFloat32(uint16(v))), 32)
	case tensor.FP32:
		return floatText(float64(math.Float32frombits(uint32(v))), 32)
	case tensor.FP64:
		return floatText(math.Float64frombits(v), 64)
	}
	if !signed(d) {
		return strconv.FormatUint(v, 10)
	}
	shift := 64 - 8*d.Size()
	return strconv.FormatInt(int64(v<<shift)>>shift, 10)
}

func floatText(f float64, bits int) string { return strconv.FormatFloat(f, 'g', -1, bits) }

// JSON returns one element's text as JSON: NaN and the infinities are null,
// bytes that are not UTF-8 become U+FFFD.
func JSON(d tensor.Datatype, text string) string {
	switch d {
	case tensor.Bytes:
		return quote(text)
	case tensor.FP16, tensor.BF16, tensor.FP32, tensor.FP64:
		switch text {
		case "NaN", "+Inf", "-Inf":
			return "null"
		}
	}
	return text
}

func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ':
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r) // utf8.RuneError for broken bytes
		}
	}
	b.WriteByte('"')
	return b.String()
}

// Printable returns text for a terminal: what is not UTF-8, and control
// characters, which could steer the terminal, are escaped.
func Printable(text string) string {
	if utf8.ValidString(text) &&
		!strings.ContainsFunc(text, func(r rune) bool { return !strconv.IsPrint(r) }) {
		return text
	}
	return strconv.Quote(text)
}
