package wire

import (
	"encoding/binary"
	"errors"
	"math"
	"math/bits"
	"strconv"
	"unsafe"
)

var (
	errRange    = errors.New("is out of range")
	errFraction = errors.New("is not an integer")
)

// pow10 are the powers of ten that float64 holds exactly.
var pow10 = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// tens are the powers of ten that shift a mantissa by less than eight digits.
var tens = [8]uint64{1, 10, 100, 1000, 10000, 100000, 1000000, 10000000}

// Eight characters at a time: a word holds the first in its lowest byte.
const (
	zeros    = 0x3030303030303030 // '0' in each byte
	topBits  = 0x8080808080808080
	overNine = 0x7676767676767676 // lifts a byte above 9 over the top bit
)

// ends marks with a top bit the first byte of w that is not a digit, where w
// has zeros taken off by xor. Bytes behind it may be marked wrongly.
func ends(w uint64) uint64 { return (w + overNine | w) & topBits }

// eight returns the number that eight digits make, first digit in the lowest byte:
// neighbours are put together to pairs, pairs to fours, fours to the whole.
func eight(w uint64) uint64 {
	w = w * (1 + 10<<8) >> 8 & 0x00ff00ff00ff00ff
	w = w * (1 + 100<<16) >> 16 & 0x0000ffff0000ffff
	return w * (1 + 10000<<32) >> 32
}

// digits appends the digits at buf[i:] to man and returns the place behind them.
// With more than 19 digits man means nothing.
func digits(buf []byte, i int, man uint64) (uint64, int) {
	for len(buf)-i >= 8 {
		w := binary.LittleEndian.Uint64(buf[i:]) ^ zeros
		e := ends(w)
		if e != 0 {
			n := bits.TrailingZeros64(e) / 8
			return man*tens[n&7] + eight(w<<(64-8*n)), i + n
		}
		man = man*100000000 + eight(w)
		i += 8
	}
	for i < len(buf) && buf[i]-'0' <= 9 {
		man = man*10 + uint64(buf[i]-'0')
		i++
	}
	return man, i
}

// decimal is a number as it is written: man * 10^exp, behind a minus sign or not.
type decimal struct {
	man   uint64
	exp   int
	neg   bool
	exact bool // man has all digits
	plain bool // without fraction and exponent
	end   int  // in the buffer
}

// decimal reads the number at s.pos without passing over it; ok is false where
// there is none, or one of the tokens for NaN and the infinities.
func (s *scanner) decimal() (d decimal, ok bool) {
	buf, i := s.buf, s.pos
	d.exact, d.plain = true, true
	if i < len(buf) && buf[i] == '-' {
		d.neg = true
		i++
	}
	from := i
	d.man, i = digits(buf, i, 0)
	n := i - from
	if n == 0 || buf[from] == '0' && n > 1 {
		return d, false
	}
	if i < len(buf) && buf[i] == '.' {
		at := i + 1
		d.man, i = digits(buf, at, d.man)
		if i == at {
			return d, false
		}
		d.exp, d.plain = at-i, false
		n += i - at
	}
	if n > 19 {
		d.exact = significant(buf[from:i]) <= 19
	}
	if i < len(buf) && buf[i]|0x20 == 'e' {
		d.plain = false
		if i = d.exponent(buf, i+1); i < 0 {
			return d, false
		}
	}
	d.end = i
	return d, true
}

// significant counts the digits of text from the first that is not zero.
func significant(text []byte) int {
	n := 0
	for _, c := range text {
		if c != '.' && (c != '0' || n > 0) {
			n++
		}
	}
	return n
}

// exponent reads what follows an 'e' at buf[i:] and returns the place behind
// it, -1 where that is no exponent.
func (d *decimal) exponent(buf []byte, i int) int {
	neg := false
	if i < len(buf) && (buf[i] == '-' || buf[i] == '+') {
		neg = buf[i] == '-'
		i++
	}
	for i+1 < len(buf) && buf[i] == '0' && buf[i+1]-'0' <= 9 {
		i++
	}
	e, end := digits(buf, i, 0)
	if end == i {
		return -1
	}
	if end-i > 9 {
		e = 1 << 30 // such a value is 0 or infinite
	}
	if neg {
		d.exp -= int(e)
	} else {
		d.exp += int(e)
	}
	return end
}

// float reads a number as float64, correctly rounded. single asks for a value
// that is right after rounding to float32 instead, and within its range.
//
// The fast path multiplies or divides once by a power of ten that is exact in
// float64. Up to 53 bits of digits the result is correctly rounded. With 64
// bits it is off by two units in the last place at most, which tells the
// nearest float32 wherever it is not that close to the middle between two.
func (s *scanner) float(single bool) (float64, error) {
	s.next()
	d, ok := s.decimal()
	if !ok {
		return s.token()
	}
	if !d.exact || d.exp < -22 || d.exp > 22 || !single && d.man >= 1<<53 {
		return s.parse(d.end, single)
	}
	f := float64(d.man)
	if d.exp < 0 {
		f /= pow10[-d.exp]
	} else {
		f *= pow10[d.exp]
	}
	if single && (d.exp != 0 || d.man >= 1<<53) && d.man != 0 &&
		(nearMiddle(f) || f < 0x1p-126 || f > math.MaxFloat32) {
		return s.parse(d.end, single)
	}
	if d.neg {
		f = -f
	}
	s.pos = d.end
	return f, nil
}

// nearMiddle says whether f is within four units in the last place of the
// middle between two neighbouring float32.
func nearMiddle(f float64) bool {
	return math.Float64bits(f)&(1<<29-1)-(1<<28-4) <= 8
}

// token reads NaN or an infinity.
func (s *scanner) token() (float64, error) {
	text, err := s.number()
	switch {
	case err != nil:
		return 0, err
	case text[0] == 'N':
		return math.NaN(), nil
	case text[0] == '-':
		return math.Inf(-1), nil
	}
	return math.Inf(1), nil
}

// parse reads the number that ends before end, whatever its size.
func (s *scanner) parse(end int, single bool) (float64, error) {
	size := 64
	if single {
		size = 32
	}
	text := s.buf[s.pos:end]
	f, err := strconv.ParseFloat(unsafe.String(&text[0], len(text)), size)
	if err != nil {
		return 0, errRange // the form is valid, nothing else can be wrong
	}
	s.pos = end
	return f, nil
}

// integer reads a number that must be integral: the digits as they are, or a
// form such as 1.0 and 1e3 whose value is. neg tells the sign. With an error
// the number is not passed over.
func (s *scanner) integer() (value uint64, neg bool, err error) {
	s.next()
	d, ok := s.decimal()
	if !ok {
		at := s.pos
		if _, err = s.token(); err == nil {
			s.pos, err = at, errFraction
		}
		return 0, false, err
	}
	if value = d.man; !d.plain || !d.exact {
		if value, err = d.integer(s.buf[s.pos:d.end]); err != nil {
			return 0, false, err
		}
	}
	s.pos = d.end
	return value, d.neg && value != 0, nil
}

// integer returns the absolute value of the number that text is, if that is an integer.
func (d *decimal) integer(text []byte) (uint64, error) {
	// The digits up to the last that is not zero make man; the others, and the
	// point, are a matter of the exponent.
	man, exp, over := uint64(0), d.exp, uint64(0)
	trailing := 0
	for _, c := range text {
		if c|0x20 == 'e' {
			break
		}
		if c < '0' { // the sign or the point
			continue
		}
		if trailing++; c == '0' {
			continue
		}
		for ; trailing > 0 && over == 0; trailing-- {
			over, man = bits.Mul64(man, 10)
		}
		var carry uint64
		man, carry = bits.Add64(man, uint64(c-'0'), 0)
		over |= carry
		trailing = 0
	}
	exp += trailing
	switch {
	case man == 0 && over == 0:
		return 0, nil
	case exp < 0:
		return 0, errFraction
	}
	for ; exp > 0 && over == 0; exp-- {
		over, man = bits.Mul64(man, 10)
	}
	if over != 0 {
		return 0, errRange
	}
	return man, nil
}
