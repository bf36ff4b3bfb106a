package wire

import (
	"errors"
	"math"
	"strconv"
	"unsafe"
)

// float reads a number as float64, correctly rounded, at s.pos; the fast path
// takes numbers of up to 19 digits whose value is exact in float64 arithmetic
// (Clinger: at most 53 bits of digits, and a power of ten up to 22).
// single asks for a value that is right after rounding to float32 as well.
func (s *scanner) float(single bool) (float64, error) {
	c := s.next()
	buf, i := s.buf, s.pos
	neg := c == '-'
	if neg {
		i++
	}
	from := i
	var man uint64
	for i < len(buf) && buf[i]-'0' <= 9 {
		man = man*10 + uint64(buf[i]-'0')
		i++
	}
	digits := i - from
	if digits == 0 || buf[from] == '0' && digits > 1 {
		return s.slowFloat(single)
	}
	exp := 0
	if i < len(buf) && buf[i] == '.' {
		i++
		at := i
		for i < len(buf) && buf[i]-'0' <= 9 {
			man = man*10 + uint64(buf[i]-'0')
			i++
		}
		exp = at - i
		digits += i - at
		if i == at {
			return s.slowFloat(single)
		}
	}
	if digits > 19 || man >= 1<<53 || exp < -22 || i < len(buf) && buf[i]|0x20 == 'e' {
		return s.slowFloat(single)
	}
	f := float64(man)
	if exp < 0 {
		f /= pow10[-exp]
	}
	if neg {
		f = -f
	}
	// Rounding twice, to float64 and to float32, is wrong only where the first
	// result lies exactly between two float32, or outside their normal range.
	if single && exp < 0 {
		b := math.Float64bits(f)
		if b&(1<<29-1) == 1<<28 || man != 0 &&
			(math.Abs(f) < 0x1p-126 || math.Abs(f) > 0x1.fffffep127) {
			return s.slowFloat(single)
		}
	}
	s.pos = i
	return f, nil
}

var pow10 = [...]float64{
	1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11,
	1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19, 1e20, 1e21, 1e22,
}

// slowFloat reads any number.
func (s *scanner) slowFloat(single bool) (float64, error) {
	text, err := s.number()
	if err != nil {
		return 0, err
	}
	switch text[len(text)-1] {
	case 'N':
		return math.NaN(), nil
	case 'y':
		if text[0] == '-' {
			return math.Inf(-1), nil
		}
		return math.Inf(1), nil
	}
	size := 64
	if single {
		size = 32
	}
	f, err := strconv.ParseFloat(unsafe.String(&text[0], len(text)), size)
	if errors.Is(err, strconv.ErrRange) {
		s.pos -= len(text)
		return 0, errRange
	}
	return f, err
}

var (
	errRange    = errors.New("is out of range")
	errFraction = errors.New("is not an integer")
)

// integer reads a number that must be integral: the digits as they are, or a
// form such as 1.0 and 1e3 whose value is. neg tells the sign.
func (s *scanner) integer() (value uint64, neg bool, err error) {
	c := s.next()
	buf, i := s.buf, s.pos
	neg = c == '-'
	if neg {
		i++
	}
	from := i
	for i < len(buf) && buf[i]-'0' <= 9 {
		value = value*10 + uint64(buf[i]-'0')
		i++
	}
	digits := i - from
	plain := i >= len(buf) || buf[i] != '.' && buf[i]|0x20 != 'e'
	if digits > 0 && digits < 20 && plain && (buf[from] != '0' || digits == 1) {
		s.pos = i
		return value, neg, nil
	}
	text, err := s.number()
	if err != nil {
		return 0, false, err
	}
	back := func(err error) (uint64, bool, error) {
		s.pos -= len(text)
		return 0, false, err
	}
	if plain && digits >= 20 {
		value, err := strconv.ParseUint(string(text[from-(s.pos-len(text)):]), 10, 64)
		if err != nil {
			return back(errRange)
		}
		return value, neg, nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	switch {
	case err != nil && errors.Is(err, strconv.ErrRange):
		return back(errRange)
	case err != nil, f != math.Trunc(f), math.IsInf(f, 0):
		return back(errFraction)
	case math.Abs(f) >= 1<<63:
		return back(errRange)
	}
	return uint64(math.Abs(f)), f < 0, nil
}
