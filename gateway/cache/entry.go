package cache

import (
	"bytes"
	"slices"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// entry is a request and its answer. It is immutable once it is kept.
type entry struct {
	version string
	inputs  []tensor.Tensor
	request int64 // bytes of all above
	// Set when the flight lands.
	outputs []tensor.Tensor
	answer  int64 // bytes of outputs
	expires int64 // 0 for never
}

// Bytes that there are beside the elements of tensors, about what is allocated
// with Go 1.26 on 64-bit machines.
const (
	entryOverhead  = 288 // entry, its place in the order of use, and in the map
	tensorOverhead = 112 // tensor.Tensor, and what its elements are rounded up by
)

// answers says whether the entry is of an equal request.
func (e *entry) answers(version string, inputs []tensor.Tensor) bool {
	if e.version != version || len(e.inputs) != len(inputs) {
		return false
	}
	for i := range inputs {
		if !same(&e.inputs[i], &inputs[i]) {
			return false
		}
	}
	return true
}

func same(a, b *tensor.Tensor) bool {
	if a.Datatype != b.Datatype {
		return false
	}
	return a.Datatype == tensor.Invalid ||
		slices.Equal(a.Shape, b.Shape) && bytes.Equal(a.Data, b.Data)
}

// size returns the bytes that copies of tensors take.
func size(list []tensor.Tensor) int64 {
	n := int64(0)
	for i := range list {
		n += tensorOverhead + 8*int64(len(list[i].Shape)) + int64(roundUp(len(list[i].Data)))
	}
	return n
}

// clone copies tensors into three pieces of memory. It never returns nil. Names
// and class names are the version's and immutable already. The elements of each
// tensor are aligned for any datatype.
func clone(list []tensor.Tensor) []tensor.Tensor {
	dims, data := 0, 0
	for i := range list {
		dims += len(list[i].Shape)
		data += roundUp(len(list[i].Data))
	}
	copies := make([]tensor.Tensor, len(list))
	shapes, mem := make([]int64, 0, dims), make([]byte, data)
	for i := range list {
		t := list[i]
		at, n := len(shapes), copy(mem, t.Data)
		shapes = append(shapes, t.Shape...)
		t.Shape = shapes[at:len(shapes):len(shapes)]
		t.Data, mem = mem[:n:n], mem[roundUp(n):]
		copies[i] = t
	}
	return copies
}

func roundUp(n int) int { return (n + 7) &^ 7 }
