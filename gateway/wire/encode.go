package wire

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"

	"github.com/millrace-ml/millrace/gateway/wire/decimals"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Answer is what a request is answered with.
type Answer struct {
	Model, Version string
	Sig            *tensor.Signature
	Outputs        []tensor.Tensor // in the order of the signature
	// How unusual its rows are: the greatest score of theirs, and whether that makes an outlier.
	// Without Scored nobody knows.
	Score           float64
	Scored, Outlier bool
}

// Parameters of an answer that is scored.
const (
	paramScore   = "outlier_score"
	paramOutlier = "outlier"
)

// Append appends the answer to r and returns the extended buffer, with the
// length of its JSON part when binary tensors follow it, else -1.
//
// Floats are in the shortest form that reads back as the same value. NaN and
// the infinities are bare tokens, as Triton writes them, or null with nullNaN.
// Bytes of a BYTES element that are not UTF-8 become U+FFFD in JSON.
//
// The request's binary_data_output holds also for an output that is asked for
// by name without binary_data, as the specification says; Triton sends those as JSON.
func Append(dst []byte, r *Request, a *Answer, nullNaN bool) (out []byte, jsonLen int, err error) {
	from := len(dst)
	dst = append(dst, `{"model_name":`...)
	dst = appendString(dst, a.Model)
	dst = append(dst, `,"model_version":`...)
	dst = appendString(dst, a.Version)
	if len(r.ID) > 0 {
		dst = append(dst, `,"id":`...)
		dst = appendString(dst, r.ID)
	}
	if a.Scored {
		dst = append(dst, `,"parameters":{"`+paramScore+`":`...)
		dst = appendDouble(dst, a.Score, nullNaN)
		dst = append(dst, `,"`+paramOutlier+`":`...)
		dst = append(strconv.AppendBool(dst, a.Outlier), '}')
	}
	dst = append(dst, `,"outputs":[`...)
	e := encoder{r: r, a: a, nullNaN: nullNaN}
	if dst, err = e.outputs(dst); err != nil {
		return dst, -1, err
	}
	dst = append(dst, "]}"...)
	if !e.binary {
		return dst, -1, nil
	}
	jsonLen = len(dst) - from
	return e.blobs(dst), jsonLen, nil
}

// encoder is one answer under way.
type encoder struct {
	r       *Request
	a       *Answer
	nullNaN bool
	binary  bool
	classes []tensor.Tensor // of classified outputs, in the order of the answer
}

// each calls f with every output that the answer has.
func (e *encoder) each(f func(o Output)) {
	if len(e.r.Outputs) == 0 {
		for i := range e.a.Outputs {
			f(Output{Index: i, Binary: e.r.BinaryOutput})
		}
		return
	}
	for _, o := range e.r.Outputs {
		if !o.BinarySet {
			o.Binary = e.r.BinaryOutput
		}
		f(o)
	}
}

func (e *encoder) outputs(dst []byte) ([]byte, error) {
	var err error
	first := true
	e.each(func(o Output) {
		t := &e.a.Outputs[o.Index]
		if err != nil || t.Datatype == tensor.Invalid {
			return
		}
		if o.Classes > 0 {
			var c tensor.Tensor
			if c, err = Classify(t, o.Classes, e.a.Sig, o.Index); err != nil {
				return
			}
			e.classes = append(e.classes, c)
			t = &c
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = e.output(dst, t, o.Binary)
	})
	return dst, err
}

func (e *encoder) output(dst []byte, t *tensor.Tensor, binary bool) []byte {
	dst = append(dst, `{"name":`...)
	dst = appendString(dst, t.Name)
	dst = append(dst, `,"datatype":"`...)
	dst = append(dst, t.Datatype.String()...)
	dst = append(dst, `","shape":`...)
	dst = tensor.AppendShape(dst, t.Shape)
	if binary || t.ClassNames != nil {
		dst = append(dst, `,"parameters":{`...)
		if binary {
			e.binary = true
			dst = append(dst, `"binary_data_size":`...)
			dst = strconv.AppendInt(dst, int64(len(t.Data)), 10)
		}
		if t.ClassNames != nil {
			if binary {
				dst = append(dst, ',')
			}
			dst = append(dst, `"class_names":`...)
			dst = appendString(dst, ClassNames(t.ClassNames))
		}
		dst = append(dst, '}')
	}
	if !binary {
		dst = append(dst, `,"data":[`...)
		dst = appendData(dst, t, e.nullNaN)
		dst = append(dst, ']')
	}
	return append(dst, '}')
}

func (e *encoder) blobs(dst []byte) []byte {
	classes := e.classes
	e.each(func(o Output) {
		t := &e.a.Outputs[o.Index]
		if t.Datatype == tensor.Invalid {
			return
		}
		if o.Classes > 0 {
			t, classes = &classes[0], classes[1:]
		}
		if o.Binary {
			dst = append(dst, t.Data...)
		}
	})
	return dst
}

// ClassNames writes names as a JSON array. Parameters hold only strings,
// numbers and booleans, so that the array is sent inside a string.
func ClassNames(names []string) string {
	text, err := json.Marshal(names)
	if err != nil {
		return "[]" // strings always marshal
	}
	return string(text)
}

// AppendError appends the body of an error.
func AppendError(dst []byte, text string) []byte {
	dst = append(dst, `{"error":`...)
	dst = appendString(dst, text)
	return append(dst, '}')
}

const hexDigits = "0123456789abcdef"

// appendString appends s as a JSON string.
func appendString[S string | []byte](dst []byte, s S) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune([]byte(s[i:min(len(s), i+utf8.UTFMax)]))
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			dst = append(dst, s[from:i]...)
			dst = append(dst, "\ufffd"...)
		} else {
			dst = append(dst, s[from:i]...)
			dst = appendEscape(dst, c)
		}
		i++
		from = i
	}
	dst = append(dst, s[from:]...)
	return append(dst, '"')
}

func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	}
	return append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
}

// appendData appends the elements of t, with commas between them.
func appendData(dst []byte, t *tensor.Tensor, nullNaN bool) []byte {
	if len(t.Data) == 0 {
		return dst
	}
	data := t.Data
	if t.Datatype == tensor.Bytes {
		for len(data) > 0 {
			element, rest, ok := tensor.NextElement(data)
			if !ok {
				break
			}
			dst = appendString(dst, element)
			dst = append(dst, ',')
			data = rest
		}
		return dst[:len(dst)-1]
	}
	size := t.Datatype.Size()
	for ; len(data) >= size; data = data[size:] {
		dst = appendElement(dst, t.Datatype, data, nullNaN)
		dst = append(dst, ',')
	}
	return dst[:len(dst)-1]
}

func appendElement(dst []byte, d tensor.Datatype, p []byte, nullNaN bool) []byte {
	le := binary.LittleEndian
	switch d {
	case tensor.FP32:
		return appendSingle(dst, math.Float32frombits(le.Uint32(p)), nullNaN)
	case tensor.FP64:
		return appendDouble(dst, math.Float64frombits(le.Uint64(p)), nullNaN)
	case tensor.FP16:
		return appendSingle(dst, tensor.FP16ToFloat32(le.Uint16(p)), nullNaN)
	case tensor.BF16:
		return appendSingle(dst, tensor.BF16ToFloat32(le.Uint16(p)), nullNaN)
	case tensor.Int64:
		return strconv.AppendInt(dst, int64(le.Uint64(p)), 10)
	case tensor.Int32:
		return strconv.AppendInt(dst, int64(int32(le.Uint32(p))), 10)
	case tensor.Int16:
		return strconv.AppendInt(dst, int64(int16(le.Uint16(p))), 10)
	case tensor.Int8:
		return strconv.AppendInt(dst, int64(int8(p[0])), 10)
	case tensor.Uint64:
		return strconv.AppendUint(dst, le.Uint64(p), 10)
	case tensor.Uint32:
		return strconv.AppendUint(dst, uint64(le.Uint32(p)), 10)
	case tensor.Uint16:
		return strconv.AppendUint(dst, uint64(le.Uint16(p)), 10)
	case tensor.Uint8:
		return strconv.AppendUint(dst, uint64(p[0]), 10)
	case tensor.Bool:
		return strconv.AppendBool(dst, p[0] != 0)
	}
	panic(fmt.Sprintf("wire: datatype %v has no elements", d))
}

func appendSingle(dst []byte, f float32, nullNaN bool) []byte {
	if f-f != 0 { // NaN or an infinity
		return appendSpecial(dst, float64(f), nullNaN)
	}
	return decimals.Append(dst, f)
}

func appendDouble(dst []byte, f float64, nullNaN bool) []byte {
	if f-f != 0 {
		return appendSpecial(dst, f, nullNaN)
	}
	format := byte('f')
	if a := math.Abs(f); a != 0 && (a < decimals.Least || a >= decimals.Most) {
		format = 'e'
	}
	return strconv.AppendFloat(dst, f, format, -1, 64)
}

// appendSpecial appends NaN or an infinity.
func appendSpecial(dst []byte, f float64, nullNaN bool) []byte {
	switch {
	case nullNaN:
		return append(dst, "null"...)
	case f > 0:
		return append(dst, "Infinity"...)
	case f < 0:
		return append(dst, "-Infinity"...)
	}
	return append(dst, "NaN"...)
}
