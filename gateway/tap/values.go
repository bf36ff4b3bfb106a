package tap

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"strconv"

	"github.com/millrace-ml/millrace/gateway/wire/decimals"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// integer returns an element of a signed type, or of an unsigned one or BOOL
// but UINT64, whose bits it returns.
func integer(d tensor.Datatype, p []byte) int64 {
	le := binary.LittleEndian
	switch d {
	case tensor.Int64, tensor.Uint64:
		return int64(le.Uint64(p))
	case tensor.Int32:
		return int64(int32(le.Uint32(p)))
	case tensor.Int16:
		return int64(int16(le.Uint16(p)))
	case tensor.Int8:
		return int64(int8(p[0]))
	case tensor.Uint32:
		return int64(le.Uint32(p))
	case tensor.Uint16:
		return int64(le.Uint16(p))
	}
	return int64(p[0])
}

// single returns an element of FP32, FP16 or BF16; all fit a float32.
func single(d tensor.Datatype, p []byte) float32 {
	switch d {
	case tensor.FP16:
		return tensor.FP16ToFloat32(binary.LittleEndian.Uint16(p))
	case tensor.BF16:
		return tensor.BF16ToFloat32(binary.LittleEndian.Uint16(p))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(p))
}

func double(p []byte) float64 { return math.Float64frombits(binary.LittleEndian.Uint64(p)) }

// elements calls f with each element of t.
func elements(t *tensor.Tensor, f func(element []byte)) {
	data := t.Data
	if t.Datatype == tensor.Bytes {
		for len(data) > 0 {
			element, rest, ok := tensor.NextElement(data)
			if !ok {
				return
			}
			f(element)
			data = rest
		}
		return
	}
	for size := t.Datatype.Size(); len(data) >= size && size > 0; data = data[size:] {
		f(data[:size])
	}
}

// appendValues appends the elements of t as a JSON array, BYTES in base64 if
// they are binary.
func appendValues(dst []byte, t *tensor.Tensor, binary bool) []byte {
	dst = append(dst, '[')
	from := len(dst)
	elements(t, func(element []byte) {
		if len(dst) > from {
			dst = append(dst, ',')
		}
		dst = appendValue(dst, t.Datatype, element, binary)
	})
	return append(dst, ']')
}

func appendValue(dst []byte, d tensor.Datatype, p []byte, binary bool) []byte {
	switch d {
	case tensor.Bool:
		return strconv.AppendBool(dst, p[0] != 0)
	case tensor.FP32, tensor.FP16, tensor.BF16:
		return appendSingle(dst, single(d, p))
	case tensor.FP64:
		return appendDouble(dst, double(p))
	case tensor.Uint64:
		return strconv.AppendUint(dst, uint64(integer(d, p)), 10)
	case tensor.Bytes:
		if binary {
			dst = base64.StdEncoding.AppendEncode(append(dst, '"'), p)
			return append(dst, '"')
		}
		return appendText(dst, p)
	}
	return strconv.AppendInt(dst, integer(d, p), 10)
}

// appendSingle appends the shortest number that reads back as f, with a point or
// an exponent, so that readers that guess types take it for a float. JSON has
// no NaN and no infinities: they become null.
func appendSingle(dst []byte, f float32) []byte {
	if f-f != 0 {
		return append(dst, "null"...)
	}
	return pointed(decimals.Append(dst, f), len(dst))
}

// appendDouble is appendSingle with double precision.
func appendDouble(dst []byte, f float64) []byte {
	if f-f != 0 {
		return append(dst, "null"...)
	}
	return pointed(strconv.AppendFloat(dst, f, 'g', -1, 64), len(dst))
}

// pointed gives the number from there to the end a point if it has neither that nor an exponent.
func pointed(dst []byte, from int) []byte {
	for _, c := range dst[from:] {
		if c == '.' || c == 'e' {
			return dst
		}
	}
	return append(dst, ".0"...)
}

// appendText appends a JSON string; what is not UTF-8 becomes U+FFFD.
func appendText[S string | []byte](dst []byte, s S) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= 0x7f {
			text, _ := json.Marshal(string(s)) // strings always marshal
			return append(dst, text...)
		}
	}
	dst = append(append(dst, '"'), s...)
	return append(dst, '"')
}
