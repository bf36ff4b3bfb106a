package gateway

import (
	"encoding/binary"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// nonFinite says whether there is a NaN or an infinity among the outputs.
func nonFinite(outputs []tensor.Tensor) bool {
	for i := range outputs {
		switch o := &outputs[i]; o.Datatype {
		case tensor.FP32:
			if fullExponent(o.Data, 0x7f800000_7f800000, 0x00800000_00800000) {
				return true
			}
		case tensor.FP64:
			if fullExponent(o.Data, 0x7ff00000_00000000, 0x00100000_00000000) {
				return true
			}
		case tensor.FP16:
			if fullExponent(o.Data, 0x7c007c00_7c007c00, 0x04000400_04000400) {
				return true
			}
		case tensor.BF16:
			if fullExponent(o.Data, 0x7f807f80_7f807f80, 0x00800080_00800080) {
				return true
			}
		}
	}
	return false
}

// fullExponent says whether all bits of the exponent are set in one of the floating
// point numbers in data, of which a word of 64 bits holds some: those are the NaNs
// and the infinities. exponents are these bits of a word, and ones the lowest of
// each: to add it carries into the sign where all are set, and never further.
func fullExponent(data []byte, exponents, ones uint64) bool {
	var sums uint64
	for ; len(data) >= 32; data = data[32:] { // by four, which takes half the time
		sums |= (binary.LittleEndian.Uint64(data)&exponents + ones) |
			(binary.LittleEndian.Uint64(data[8:])&exponents + ones) |
			(binary.LittleEndian.Uint64(data[16:])&exponents + ones) |
			(binary.LittleEndian.Uint64(data[24:])&exponents + ones)
	}
	var rest [32]byte
	copy(rest[:], data)
	for at := 0; at < len(rest); at += 8 {
		sums |= binary.LittleEndian.Uint64(rest[at:])&exponents + ones
	}
	return sums&(exponents+ones) != 0
}
