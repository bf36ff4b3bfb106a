package wire

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strconv"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Classify answers the classification extension: the n highest values of each
// row of an output, as BYTES "value:index" or "value:index:label". Rows are
// along the batch axis; a model without one has a single row.
func Classify(t *tensor.Tensor, n int, sig *tensor.Signature, output int) (tensor.Tensor, error) {
	if t.Datatype == tensor.Bytes || t.Datatype == tensor.Bool {
		return tensor.Tensor{}, fmt.Errorf("%w: output '%s' is %s, which cannot be classified",
			ErrBadRequest, t.Name, t.Datatype)
	}
	rows := 1
	if sig.MaxBatchSize > 0 && len(t.Shape) > 0 {
		rows = int(t.Shape[0])
	}
	values := numbers(t)
	per := 0
	if rows > 0 {
		per = len(values) / rows
	}
	n = min(n, per)
	labels := sig.Outputs[output].Labels
	if labels == nil {
		labels = t.ClassNames
	}
	c := tensor.Tensor{Name: t.Name, Datatype: tensor.Bytes, Shape: []int64{int64(n)}}
	if sig.MaxBatchSize > 0 {
		c.Shape = []int64{int64(rows), int64(n)}
	}
	order := make([]int, per)
	for row := range rows {
		v := values[row*per : (row+1)*per]
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(v[b], v[a]) })
		for _, i := range order[:n] {
			text := appendFloat(nil, v[i], floatBits(t.Datatype), false)
			text = strconv.AppendInt(append(text, ':'), int64(i), 10)
			if i < len(labels) {
				text = append(append(text, ':'), labels[i]...)
			}
			c.Data = tensor.AppendElement(c.Data, text)
		}
	}
	return c, nil
}

func floatBits(d tensor.Datatype) int {
	if d == tensor.FP64 {
		return 64
	}
	return 32
}

// numbers returns the elements of t as float64.
func numbers(t *tensor.Tensor) []float64 {
	le := binary.LittleEndian
	size := t.Datatype.Size()
	out := make([]float64, 0, len(t.Data)/size)
	for p := t.Data; len(p) >= size; p = p[size:] {
		var f float64
		switch t.Datatype {
		case tensor.FP32:
			f = float64(math.Float32frombits(le.Uint32(p)))
		case tensor.FP64:
			f = math.Float64frombits(le.Uint64(p))
		case tensor.FP16:
			f = float64(tensor.FP16ToFloat32(le.Uint16(p)))
		case tensor.BF16:
			f = float64(tensor.BF16ToFloat32(le.Uint16(p)))
		case tensor.Int64:
			f = float64(int64(le.Uint64(p)))
		case tensor.Int32:
			f = float64(int32(le.Uint32(p)))
		case tensor.Int16:
			f = float64(int16(le.Uint16(p)))
		case tensor.Int8:
			f = float64(int8(p[0]))
		case tensor.Uint64:
			f = float64(le.Uint64(p))
		case tensor.Uint32:
			f = float64(le.Uint32(p))
		case tensor.Uint16:
			f = float64(le.Uint16(p))
		default:
			f = float64(p[0])
		}
		out = append(out, f)
	}
	return out
}
