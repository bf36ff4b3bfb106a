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
	size, per := t.Datatype.Size(), 0
	if rows > 0 {
		per = len(t.Data) / size / rows
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
		v := t.Data[row*per*size:]
		for i := range order {
			order[i] = i
		}
		slices.SortStableFunc(order, func(a, b int) int {
			return compare(t.Datatype, v[b*size:], v[a*size:])
		})
		for _, i := range order[:n] {
			text := appendElement(nil, t.Datatype, v[i*size:], false)
			text = strconv.AppendInt(append(text, ':'), int64(i), 10)
			if i < len(labels) {
				text = append(append(text, ':'), labels[i]...)
			}
			c.Data = tensor.AppendElement(c.Data, text)
		}
	}
	return c, nil
}

// compare orders the elements at the start of a and b, NaN before all others.
func compare(d tensor.Datatype, a, b []byte) int {
	le := binary.LittleEndian
	switch d {
	case tensor.FP32:
		return cmp.Compare(math.Float32frombits(le.Uint32(a)), math.Float32frombits(le.Uint32(b)))
	case tensor.FP64:
		return cmp.Compare(math.Float64frombits(le.Uint64(a)), math.Float64frombits(le.Uint64(b)))
	case tensor.FP16:
		return cmp.Compare(tensor.FP16ToFloat32(le.Uint16(a)), tensor.FP16ToFloat32(le.Uint16(b)))
	case tensor.BF16:
		return cmp.Compare(tensor.BF16ToFloat32(le.Uint16(a)), tensor.BF16ToFloat32(le.Uint16(b)))
	case tensor.Int64:
		return cmp.Compare(int64(le.Uint64(a)), int64(le.Uint64(b)))
	case tensor.Int32:
		return cmp.Compare(int32(le.Uint32(a)), int32(le.Uint32(b)))
	case tensor.Int16:
		return cmp.Compare(int16(le.Uint16(a)), int16(le.Uint16(b)))
	case tensor.Int8:
		return cmp.Compare(int8(a[0]), int8(b[0]))
	case tensor.Uint64:
		return cmp.Compare(le.Uint64(a), le.Uint64(b))
	case tensor.Uint32:
		return cmp.Compare(le.Uint32(a), le.Uint32(b))
	case tensor.Uint16:
		return cmp.Compare(le.Uint16(a), le.Uint16(b))
	}
	return cmp.Compare(a[0], b[0])
}
