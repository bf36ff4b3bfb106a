package proof

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
	"strconv"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// take returns the first n rows of a tensor, along its first axis, and takes them out of
// it. Both share their memory. The tensor has that many and has passed Check.
func take(t *tensor.Tensor, n int64) tensor.Tensor {
	rows := t.Shape[0]
	head := *t
	head.Shape = append([]int64{n}, t.Shape[1:]...)
	t.Shape = append([]int64{rows - n}, t.Shape[1:]...)
	size := 0
	if elements, _ := tensor.Elements(head.Shape); t.Datatype != tensor.Bytes {
		size = int(elements) * t.Datatype.Size()
	} else {
		for rest := t.Data; elements > 0; elements-- {
			_, rest, _ = tensor.NextElement(rest)
			size = len(t.Data) - len(rest)
		}
	}
	head.Data, t.Data = t.Data[:size:size], t.Data[size:]
	return head
}

// elements goes over the elements of a tensor that has passed Check: numbers of 64 bits,
// booleans and strings.
func elements(t *tensor.Tensor) iter.Seq2[int, any] {
	return func(yield func(int, any) bool) {
		rest := t.Data
		for i := 0; len(rest) > 0; i++ {
			var v any
			if t.Datatype == tensor.Bytes {
				element, tail, _ := tensor.NextElement(rest)
				v, rest = string(element), tail
			} else {
				v, rest = value(t.Datatype, rest), rest[t.Datatype.Size():]
			}
			if !yield(i, v) {
				return
			}
		}
	}
}

// value reads the element of a fixed size at the start of p.
func value(d tensor.Datatype, p []byte) any {
	le := binary.LittleEndian
	switch d {
	case tensor.Bool:
		return p[0] != 0
	case tensor.Uint8:
		return uint64(p[0])
	case tensor.Uint16:
		return uint64(le.Uint16(p))
	case tensor.Uint32:
		return uint64(le.Uint32(p))
	case tensor.Uint64:
		return le.Uint64(p)
	case tensor.Int8:
		return int64(int8(p[0]))
	case tensor.Int16:
		return int64(int16(le.Uint16(p)))
	case tensor.Int32:
		return int64(int32(le.Uint32(p)))
	case tensor.Int64:
		return int64(le.Uint64(p))
	case tensor.FP16:
		return float64(tensor.FP16ToFloat32(le.Uint16(p)))
	case tensor.BF16:
		return float64(tensor.BF16ToFloat32(le.Uint16(p)))
	case tensor.FP32:
		return float64(math.Float32frombits(le.Uint32(p)))
	}
	return math.Float64frombits(le.Uint64(p))
}

// number makes a number of an element that is none by itself only if it is a boolean.
func number(v any) (f float64, ok bool) {
	switch v := v.(type) {
	case float64:
		return v, true
	case int64:
		return float64(v), true
	case uint64:
		return float64(v), true
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// finite says whether an element is no NaN and no infinity.
func finite(v any) bool {
	f, ok := v.(float64)
	return !ok || f-f == 0
}

// text is an element for people.
func text(v any) string {
	const most = 60 // bytes of a string
	switch v := v.(type) {
	case float64:
		return strconv.FormatFloat(v, 'g', 7, 64)
	case string:
		if len(v) > most {
			return fmt.Sprintf("%q and %d more bytes", v[:most], len(v)-most)
		}
		return strconv.Quote(v)
	}
	return fmt.Sprint(v)
}

// at is where element i of a tensor lies, whose rows begin with that of number first.
func at(shape []int64, i int, first int64) string {
	where, rest := make([]int64, len(shape)), int64(i)
	for d := len(shape) - 1; d >= 0; d-- {
		where[d] = rest % shape[d]
		rest /= shape[d]
	}
	if len(where) > 0 {
		where[0] += first
	}
	return tensor.FormatShape(where)
}
