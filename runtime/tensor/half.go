package tensor

import "math"

// FP16FromFloat64 rounds to the nearest half-precision number, ties to even;
// what is too large becomes infinity.
func FP16FromFloat64(f float64) uint16 {
	return uint16(narrow(f, 5, 10))
}

// BF16FromFloat64 rounds to the nearest bfloat16, ties to even; what is too
// large becomes infinity.
func BF16FromFloat64(f float64) uint16 {
	return uint16(narrow(f, 8, 7))
}

// narrow rounds to a binary float of that many exponent and mantissa bits.
func narrow(f float64, exponentBits, mantissaBits int) uint32 {
	b := math.Float64bits(f)
	sign := uint32(b>>63) << (exponentBits + mantissaBits)
	inf := (uint32(1)<<exponentBits - 1) << mantissaBits
	switch {
	case f != f:
		return sign | inf | 1<<(mantissaBits-1)
	case f == 0:
		return sign
	case math.IsInf(f, 0):
		return sign | inf
	}
	bias := 1<<(exponentBits-1) - 1
	_, e := math.Frexp(math.Abs(f)) // |f| = m * 2^e, m in [0.5, 1)
	e = max(e-1, 1-bias)            // subnormals share the least exponent
	// Scaling by a power of two is exact here, so that one rounding is done.
	m := math.RoundToEven(math.Ldexp(math.Abs(f), mantissaBits-e))
	v := uint32(m)
	if v < 1<<mantissaBits {
		return sign | v
	}
	v += uint32(e+bias-1) << mantissaBits // the leading bit adds the last one
	return sign | min(v, inf)
}

// FP16ToFloat32 returns the value of a half-precision number, exactly.
func FP16ToFloat32(h uint16) float32 {
	sign := uint32(h>>15) << 31
	e, m := uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch e {
	case 0:
		f := float32(m) * 0x1p-24
		return math.Float32frombits(math.Float32bits(f) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | m<<13)
	}
	return math.Float32frombits(sign | (e+112)<<23 | m<<13)
}

// BF16ToFloat32 returns the value of a bfloat16, exactly.
func BF16ToFloat32(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }
