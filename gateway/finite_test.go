package gateway

import (
	"encoding/binary"
	"math"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// TestNonFinite puts a number at each place of outputs of several lengths.
func TestNonFinite(t *testing.T) {
	f := func(d tensor.Datatype, bits uint64, want bool) {
		t.Helper()
		for length := 1; length <= 40; length++ {
			for at := range length {
				size := d.Size()
				data := make([]byte, length*size)
				for i := range data {
					data[i] = 0xbf // negative, and not too large, in each format
				}
				var number [8]byte
				binary.LittleEndian.PutUint64(number[:], bits)
				copy(data[at*size:], number[:size])
				if nonFinite([]tensor.Tensor{{Datatype: tensor.Bool, Data: []byte{1}},
					{Datatype: d, Data: data}}) != want {
					t.Fatalf("%s %x at %d of %d: want %v", d, bits, at, length, want)
				}
			}
		}
	}
	f32 := func(x float64) uint64 { return uint64(math.Float32bits(float32(x))) }
	f(tensor.FP32, f32(math.NaN()), true)
	f(tensor.FP32, f32(math.Inf(1)), true)
	f(tensor.FP32, f32(math.Inf(-1)), true)
	f(tensor.FP32, 0xff800001, true) // the smallest NaN
	f(tensor.FP32, f32(math.MaxFloat32), false)
	f(tensor.FP32, f32(-math.MaxFloat32), false)
	f(tensor.FP32, f32(0), false)
	f(tensor.FP64, math.Float64bits(math.NaN()), true)
	f(tensor.FP64, math.Float64bits(math.Inf(-1)), true)
	f(tensor.FP64, math.Float64bits(-math.MaxFloat64), false)
	f(tensor.FP64, 1, false)
	f(tensor.FP16, 0x7c00, true)
	f(tensor.FP16, 0xfe00, true)
	f(tensor.FP16, 0xfbff, false) // -65504, the largest
	f(tensor.FP16, 0x8000, false)
	f(tensor.BF16, 0x7f80, true)
	f(tensor.BF16, 0xffc0, true)
	f(tensor.BF16, 0xff7f, false)
	f(tensor.Int32, 0x7fffffff, false)
	f(tensor.Bytes, 0xffffffff, false)
	if nonFinite(nil) || nonFinite([]tensor.Tensor{{Datatype: tensor.FP32}}) {
		t.Error("nothing is not finite")
	}
}

// BenchmarkNonFinite reads 64 KiB.
func BenchmarkNonFinite(b *testing.B) {
	outputs := []tensor.Tensor{{Datatype: tensor.FP32, Data: make([]byte, 64<<10)}}
	b.SetBytes(64 << 10)
	for b.Loop() {
		nonFinite(outputs)
	}
}
