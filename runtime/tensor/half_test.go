package tensor_test

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// half is one of the two 16-bit formats.
type half struct {
	name       string
	narrow     func(float64) uint16
	widen      func(uint16) float32
	infinity   uint16
	exponent   int // bits
	mantissa   int
	overflowAt float64 // the least value that rounds to infinity
}

var halves = []half{
	{"FP16", tensor.FP16FromFloat64, tensor.FP16ToFloat32, 0x7c00, 5, 10, 65520},
	{"BF16", tensor.BF16FromFloat64, tensor.BF16ToFloat32, 0x7f80, 8, 7, 0x1.ffp127},
}

// value computes what a bit pattern stands for, by the definition of the format.
func (h half) value(b uint16) float64 {
	e := int(b&0x7fff) >> h.mantissa
	m := float64(b & (1<<h.mantissa - 1))
	bias := 1<<(h.exponent-1) - 1
	sign := 1.0
	if b>>15 == 1 {
		sign = -1
	}
	switch {
	case e == 1<<h.exponent-1 && m == 0:
		return math.Inf(int(sign))
	case e == 1<<h.exponent-1:
		return math.NaN()
	case e == 0:
		return math.Copysign(math.Ldexp(m, 1-bias-h.mantissa), sign)
	}
	return sign * math.Ldexp(m+math.Ldexp(1, h.mantissa), e-bias-h.mantissa)
}

// Each of the 65536 patterns has its value and comes back from it.
func TestHalfPatterns(t *testing.T) {
	for _, h := range halves {
		for i := range 1 << 16 {
			b := uint16(i)
			want, got := h.value(b), float64(h.widen(b))
			if math.Float64bits(want) != math.Float64bits(got) && want == want {
				t.Fatalf("%s %#04x is %v, want %v", h.name, b, got, want)
			}
			back := h.narrow(got)
			if want != want {
				if got == got || back&^0x8000 <= h.infinity {
					t.Fatalf("%s %#04x is a NaN, got %v and back %#04x", h.name, b, got, back)
				}
			} else if back != b {
				t.Fatalf("%s %#04x is %v, which becomes %#04x", h.name, b, got, back)
			}
		}
	}
}

// Between two neighbours the nearer wins, and in the middle the even one.
func TestHalfRounding(t *testing.T) {
	for _, h := range halves {
		for b := uint16(0); b < h.infinity-1; b++ {
			low, high := h.value(b), h.value(b+1)
			middle := (low + high) / 2
			even := b + b&1
			for _, c := range []struct {
				v    float64
				want uint16
			}{
				{middle, even},
				{math.Nextafter(middle, 0), b},
				{math.Nextafter(middle, 1e300), b + 1},
			} {
				if got := h.narrow(c.v); got != c.want {
					t.Fatalf("%s: %v becomes %#04x, want %#04x", h.name, c.v, got, c.want)
				}
				if got := h.narrow(-c.v); got != c.want|0x8000 {
					t.Fatalf("%s: %v becomes %#04x, want %#04x", h.name, -c.v, got,
						c.want|0x8000)
				}
			}
		}
		f := func(v float64, want uint16) {
			t.Helper()
			if got := h.narrow(v); got != want {
				t.Errorf("%s: %v becomes %#04x, want %#04x", h.name, v, got, want)
			}
		}
		f(h.overflowAt, h.infinity)
		f(math.Nextafter(h.overflowAt, 0), h.infinity-1)
		f(math.MaxFloat64, h.infinity)
		f(-math.MaxFloat64, h.infinity|0x8000)
		f(math.Inf(1), h.infinity)
		f(math.Inf(-1), h.infinity|0x8000)
		f(math.SmallestNonzeroFloat64, 0)
		f(math.Copysign(0, -1), 0x8000)
	}
}

// BF16 is the upper half of a float32, so that its rounding is easy to do with integers.
func TestBF16AgainstBits(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for range 200_000 {
		bits := rng.Uint32()
		v := math.Float32frombits(bits)
		if v != v {
			continue
		}
		want := uint16((bits + 0x7fff + bits>>16&1) >> 16)
		if got := tensor.BF16FromFloat64(float64(v)); got != want {
			t.Fatalf("%v becomes %#04x, want %#04x", v, got, want)
		}
	}
}
