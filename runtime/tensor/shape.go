package tensor

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strconv"
)

// ErrShape is returned when a shape is not a possible one: a negative
// dimension, too many dimensions, or more elements than can be addressed.
var ErrShape = errors.New("tensor: impossible shape")

// MaxRank bounds the number of dimensions a tensor may have. ONNX models in
// use stay below ten; the bound keeps hostile shapes cheap to refuse.
const MaxRank = 32

// Elements returns the product of the dimensions, 1 for a scalar. It returns
// ErrShape when a dimension is negative or the product overflows.
func Elements(shape []int64) (int64, error) {
	if len(shape) > MaxRank {
		return 0, fmt.Errorf("%w: %d dimensions, at most %d are allowed", ErrShape, len(shape),
			MaxRank)
	}
	n := uint64(1)
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("%w: negative dimension %d", ErrShape, d)
		}
		hi, lo := bits.Mul64(n, uint64(d))
		if hi != 0 || lo > math.MaxInt64 {
			return 0, fmt.Errorf("%w: %s causes total element count to exceed maximum size of %d",
				ErrShape, FormatShape(shape), int64(math.MaxInt64))
		}
		n = lo
	}
	return int64(n), nil
}

// ByteSize returns the bytes that a tensor of this datatype and shape fills.
// BYTES tensors have no fixed size; for them it returns the least one, four
// bytes an element.
func ByteSize(d Datatype, shape []int64) (int64, error) {
	n, err := Elements(shape)
	if err != nil {
		return 0, err
	}
	size := int64(d.Size())
	if d == Bytes {
		size = 4
	}
	if size == 0 {
		return 0, fmt.Errorf("tensor: datatype %s has no size", d)
	}
	if n > math.MaxInt64/size {
		return 0, fmt.Errorf("%w: byte size overflows for %s of %s", ErrShape, FormatShape(shape),
			d)
	}
	return n * size, nil
}

// FormatShape writes a shape as Triton does: [-1,16].
func FormatShape(shape []int64) string {
	return string(AppendShape(nil, shape))
}

// AppendShape appends a shape as a JSON array and returns the extended buffer.
func AppendShape(dst []byte, shape []int64) []byte {
	dst = append(dst, '[')
	for i, d := range shape {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, d, 10)
	}
	return append(dst, ']')
}

// Fits says whether a concrete shape is one of those that want describes,
// where -1 stands for any dimension.
func Fits(shape, want []int64) bool {
	if len(shape) != len(want) {
		return false
	}
	for i, d := range shape {
		if want[i] != -1 && want[i] != d {
			return false
		}
	}
	return true
}
