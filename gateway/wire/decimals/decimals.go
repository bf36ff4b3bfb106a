// Package decimals writes numbers of single precision in decimals, which answers in
// JSON are made of for the most part.
package decimals

import (
	"encoding/binary"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"strconv"
)

// Numbers from Least up to, but not with, Most are written without an exponent.
const Least, Most = 1e-6, 1e21

// Append appends the shortest decimal that reads back as f, which is neither NaN nor an
// infinity; of several the one next to f, and of two next to it the even one. It has an
// exponent where f is below Least, or from Most on.
func Append(dst []byte, f float32) []byte {
	size := math.Abs(float64(f))
	if size < Least && size > 0 || size >= Most {
		return strconv.AppendFloat(dst, float64(f), 'e', -1, 32)
	}
	if math.Signbit(float64(f)) {
		dst = append(dst, '-')
	}
	digits, exponent := shortest(math.Float32bits(f) &^ (1 << 31))
	if exponent >= 0 {
		dst = strconv.AppendUint(dst, uint64(digits), 10)
		return append(dst, "0000000000000000000000"[:exponent]...)
	}
	return appendFraction(dst, digits, exponent)
}

// appendFraction appends digits * 10^exponent, which has up to nine digits, some of them
// behind the point, and is not below Least.
func appendFraction(dst []byte, digits uint32, exponent int) []byte {
	// Up to eight digits are in text, the first in the lowest byte; of nine the last is apart.
	first := digits / 1e8
	rest := eight(digits - 1e8*first)
	length := 9
	text, ninth := (rest+zeros)<<8|uint64('0'+first), byte('0'+rest>>56)
	if first == 0 {
		skip := bits.TrailingZeros64(rest) / 8
		length = 8 - skip
		text = (rest + zeros) >> (8 * skip)
	}
	whole := length + exponent              // digits before the point
	length -= bits.LeadingZeros64(rest) / 8 // without zeros at the end
	dst = slices.Grow(dst, room)
	out := (*[room]byte)(dst[len(dst) : len(dst)+room])
	word := binary.LittleEndian.PutUint64
	if whole <= 0 {
		word(out[:], zeros-('0'-'.')<<8)
		word(out[2-whole:], text)
		out[10-whole] = ninth
		return dst[:len(dst)+2-whole+length]
	}
	word(out[:], text)
	out[whole] = '.'
	word(out[whole+1:], text>>(8*whole)|uint64(ninth)<<(64-8*whole))
	return dst[:len(dst)+length+1]
}

// room is what appendFraction writes to at most: "0.00000" and nine digits.
const room = 17

const zeros = 0x3030303030303030 // '0' in each byte

// eight returns the digits of n < 10^8 in a byte each, the first in the lowest: fours are
// split in twos, twos in digits.
func eight(n uint32) uint64 {
	x := uint64(n/10000) | uint64(n%10000)<<32
	high := x * 10486 >> 20 & 0x7f_0000007f
	x = high | (x-100*high)<<16
	high = x * 103 >> 10 & 0x000f000f_000f000f
	return high | (x-10*high)<<8
}

// shortest returns the decimal digits * 10^exponent that is the shortest to read back as
// the positive number with those bits, but that zeros may be at its end. It is the
// method of R. Giulietti, "The Schubfach way to render doubles" (2020): between the
// middles to the two neighbours there is at most one multiple of the next larger power
// of ten, or else at most a few of this one.
func shortest(b uint32) (digits uint32, exponent int) {
	c, q := b&(1<<23-1), int(b>>23) // the number is c * 2^q
	closer := c == 0 && q > 1       // the neighbour below is half as far
	if b == 0 {
		return 0, 0
	}
	if q == 0 {
		q = 1
	} else {
		c |= 1 << 23
	}
	q -= 127 + 23
	if q <= 0 && q > -24 && c&(1<<-q-1) == 0 {
		return c >> -q, 0
	}
	// exponent is that of the largest power of ten that is not over the width of
	// what reads back as the number, 2^q, or 3/4 of it.
	low := 2 // quarters of 2^q down to the middle
	exponent = q * 1262611 >> 22
	if closer {
		low = 1
		exponent = (q*1262611 - 524031) >> 22
	}
	power := &powers[-exponent-leastPower]
	shift := q + power.log2 + 1
	lower := scaled(power.digits, (4*c-uint32(low))<<shift)
	value := scaled(power.digits, 4*c<<shift)
	upper := scaled(power.digits, (4*c+2)<<shift)
	odd := c & 1 // the middles read back as the number only when it is even
	lower += odd
	upper -= odd
	// All three are in quarters of 10^exponent.
	s := value / 4
	if s >= 10 {
		tens := s / 10
		below, above := lower <= 40*tens, 40*tens+40 <= upper
		if below != above {
			if above {
				tens++
			}
			return tens, exponent + 1
		}
	}
	below, above := lower <= 4*s, 4*s+4 <= upper
	if below != above {
		if above {
			s++
		}
		return s, exponent
	}
	if middle := 4*s + 2; value > middle || value == middle && s&1 == 1 {
		s++
	}
	return s, exponent
}

// scaled returns the upper half of power * n, odd where the rest is not as good as 0:
// so it compares as the exact product would.
func scaled(power uint64, n uint32) uint32 {
	hi, lo := bits.Mul64(power, uint64(n))
	if lo>>32 > 1 {
		return uint32(hi) | 1
	}
	return uint32(hi)
}

// leastPower is the exponent of the first of powers, the others follow.
const leastPower = -31

// powers are powers of ten: 64 digits of each, rounded up, and the exponent of 2 that
// stands for the first of them.
var powers = func() (p [77]struct {
	digits uint64
	log2   int
}) {
	for i := range p {
		e := int64(i + leastPower)
		v := new(big.Rat).SetInt(new(big.Int).Exp(big.NewInt(10), big.NewInt(max(e, -e)), nil))
		if e < 0 {
			v.Inv(v)
		}
		log2 := v.Num().BitLen() - v.Denom().BitLen()
		if v.Cmp(power2(log2)) < 0 {
			log2--
		}
		v.Mul(v, power2(63-log2))
		up := new(big.Int).Sub(v.Denom(), big.NewInt(1))
		p[i].digits = up.Div(up.Add(up, v.Num()), v.Denom()).Uint64()
		p[i].log2 = log2
	}
	return p
}()

func power2(e int) *big.Rat {
	v := new(big.Rat).SetInt(new(big.Int).Lsh(big.NewInt(1), uint(max(e, -e))))
	if e < 0 {
		v.Inv(v)
	}
	return v
}
