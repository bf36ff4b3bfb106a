package model

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/millrace-ml/millrace/runtime/ort"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// sizes are tried for the variable dimensions of a model that says nothing of
// them: the first with which it runs is used.
var sizes = []int64{16, 32, 64, 128, 256, 512}

// probe runs a model on made-up inputs, to see that it runs and whether the
// candidates for its batch axes are such.
type probe struct {
	call *ort.Call
	sig  *tensor.Signature
	mem  tensor.Arena
	rand *rand.Rand
	// rough says that products may be rounded as on a GPU, to TF32, and in another way for
	// another number of rows.
	rough bool
}

// batches says whether two rows in one run give what they give in two runs:
// then axes are the batch axes of the outputs, else nil. ran is false when the
// model could not be run on any made-up input. It is an error when that was for
// want of memory.
func (p *probe) batches() (ran bool, axes []int, err error) {
	for _, size := range sizes {
		p.mem.Reset(1 << 20)
		two, err := p.inputs(2, size)
		if err != nil {
			return false, nil, err
		}
		one, errA := p.run(p.row(two, 0))
		other, errB := p.run(p.row(two, 1))
		if errA != nil && outOfMemory.MatchString(errA.Error()) {
			return false, nil, errA
		}
		if errA != nil || errB != nil {
			continue
		}
		both, err := p.run(two)
		if err != nil {
			return true, nil, nil
		}
		return true, p.axes(both, one, other), nil
	}
	return false, nil, nil
}

// run returns copies of the outputs.
func (p *probe) run(in []tensor.Tensor) ([]tensor.Tensor, error) {
	out, err := p.call.Run(in, 0)
	if err != nil {
		return nil, err
	}
	copies := make([]tensor.Tensor, len(out))
	for i, t := range out {
		t.Shape = append([]int64(nil), t.Shape...)
		t.Data = append([]byte(nil), t.Data...)
		copies[i] = t
	}
	return copies, nil
}

// inputs makes random inputs of that many rows: fractions, zeros and ones,
// short strings of digits.
func (p *probe) inputs(rows, size int64) ([]tensor.Tensor, error) {
	in := make([]tensor.Tensor, len(p.sig.Inputs))
	for i := range in {
		spec := &p.sig.Inputs[i]
		t := tensor.Tensor{Name: spec.Name, Datatype: spec.Datatype}
		for d, n := range spec.Shape {
			switch {
			case d == spec.BatchAxis:
				n = rows
			case n < 0:
				n = size
			}
			t.Shape = append(t.Shape, n)
		}
		n, err := tensor.Elements(t.Shape)
		if err != nil {
			return nil, err
		}
		if n > 1<<26 {
			return nil, fmt.Errorf("input %q of shape %s is too large to try", spec.Name,
				tensor.FormatShape(t.Shape))
		}
		var data []byte
		for range n {
			data = tensor.AppendRandom(data, spec.Datatype, p.rand.Float64(), p.rand)
		}
		if t.Data, err = p.mem.Alloc(len(data)); err != nil {
			return nil, err
		}
		copy(t.Data, data)
		in[i] = t
	}
	return in, nil
}

// row returns row i of two-row inputs.
func (p *probe) row(two []tensor.Tensor, i int) []tensor.Tensor {
	one := append([]tensor.Tensor(nil), two...)
	for k := range one {
		axis := p.sig.Inputs[k].BatchAxis
		if axis < 0 {
			continue
		}
		shape := append([]int64(nil), one[k].Shape...)
		shape[axis] = 1
		data, err := p.mem.Alloc(len(one[k].Data))
		if err != nil {
			continue
		}
		one[k].Data = append(data[:0], rowOf(&one[k], axis, i)...)
		one[k].Shape = shape
	}
	return one
}

// rowOf returns row i of 2 along axis.
func rowOf(t *tensor.Tensor, axis, i int) []byte {
	outer, inner := 1, 1
	for d, n := range t.Shape {
		if d < axis {
			outer *= int(n)
		}
		if d > axis {
			inner *= int(n)
		}
	}
	var row []byte
	if t.Datatype == tensor.Bytes {
		rest := t.Data
		for at := 0; len(rest) > 0; at++ {
			element, tail, ok := tensor.NextElement(rest)
			if !ok {
				break
			}
			if at/inner%2 == i {
				row = tensor.AppendElement(row, element)
			}
			rest = tail
		}
		return row
	}
	inner *= t.Datatype.Size()
	for o := range outer {
		row = append(row, t.Data[(2*o+i)*inner:(2*o+i+1)*inner]...)
	}
	return row
}

// axes returns the axis of each output along which the two-row run has what
// the single runs gave, nil when an output has none.
func (p *probe) axes(both, one, other []tensor.Tensor) []int {
	axes := make([]int, len(both))
	for k := range both {
		axis := grown(one[k].Shape, both[k].Shape)
		if axis < 0 ||
			!p.alike(both[k].Datatype, rowOf(&both[k], axis, 0), one[k].Data) ||
			!p.alike(both[k].Datatype, rowOf(&both[k], axis, 1), other[k].Data) {
			return nil
		}
		axes[k] = axis
	}
	return axes
}

// grown returns the only axis that differs between the shapes of one row and
// of two, -1 when there is no such axis.
func grown(one, two []int64) int {
	if len(one) != len(two) {
		return -1
	}
	axis := -1
	for d := range one {
		switch {
		case one[d] == two[d]:
		case one[d] == 1 && two[d] == 2 && axis < 0:
			axis = d
		default:
			return -1
		}
	}
	return axis
}

// alike compares values: floats with room for another order of additions, and where products are
// rough for as much of the largest one as halves are good for.
func (p *probe) alike(d tensor.Datatype, a, b []byte) bool {
	if len(a) != len(b) {
		return false
	}
	size, tolerance := d.Size(), 1e-4
	switch d {
	default:
		return string(a) == string(b)
	case tensor.FP16, tensor.BF16:
		tolerance = halves
	case tensor.FP32, tensor.FP64:
	}
	var largest float64
	for i := 0; p.rough && i+size <= len(a); i += size {
		if x := math.Abs(float(d, a[i:])); x > largest && !math.IsInf(x, 0) {
			largest = x
		}
	}
	for i := 0; i+size <= len(a); i += size {
		x, y := float(d, a[i:]), float(d, b[i:])
		room := max(tolerance*(1+math.Abs(x)), halves*largest)
		switch {
		case x == y, math.IsNaN(x) && math.IsNaN(y):
		case math.IsInf(x, 0) || !(math.Abs(x-y) <= room):
			return false
		}
	}
	return true
}

// halves is how far answers are off that were computed with 10 bits and their like.
const halves = 2e-2

func float(d tensor.Datatype, p []byte) float64 {
	switch d {
	case tensor.FP32:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(p)))
	case tensor.FP64:
		return math.Float64frombits(binary.LittleEndian.Uint64(p))
	case tensor.FP16:
		return float64(tensor.FP16ToFloat32(binary.LittleEndian.Uint16(p)))
	}
	return float64(tensor.BF16ToFloat32(binary.LittleEndian.Uint16(p)))
}
