package wire

import (
	"encoding/binary"
	"math"
	"math/bits"
	"unsafe"
)

// fastRoom is how far the loops below may look ahead: a comma, a space, a
// sign, seven digits, a point, and three words.
const fastRoom = 1 + 1 + 1 + 7 + 1 + 3*8

// floats32 reads numbers that stand behind commas into dst, four bytes each,
// and returns how many. It takes the usual ones only and stops before the comma
// of the first other one, near the end of the JSON, or when dst is full.
//
// Finding the end of a number is what limits the speed, for the next one
// cannot begin before. So digits are counted in words and not by branches,
// which random values would make unpredictable.
func (s *scanner) floats32(dst []byte) int {
	n := s.short32(dst)
	return n + s.long32(dst[4*n:])
}

// short32 is floats32 for numbers with one digit before the point and up to
// seven behind it, such as -0.123456, which is what tensors are mostly made of.
func (s *scanner) short32(dst []byte) int {
	last := len(s.buf) - fastRoom
	if s.pos > last || s.buf[s.pos] != ',' {
		return 0
	}
	// No place below is fastRoom or more behind i, which is at most last: this
	// spares the checks of each, and the registers that they take.
	base := unsafe.Pointer(unsafe.SliceData(s.buf))
	i, n := s.pos, 0
	for 4*n+4 <= len(dst) && i <= last {
		p := unsafe.Add(base, i+1)
		if byteAt(p, 0) == ' ' {
			p = unsafe.Add(p, 1)
		}
		neg := 0
		if byteAt(p, 0) == '-' {
			neg = 1
		}
		p = unsafe.Add(p, neg)
		one := uint(byteAt(p, 0)) | uint(byteAt(p, 1))<<8
		one -= '0' | '.'<<8
		w := wordAt(p, 2) ^ zeros
		e := ends(w)
		if one > 9 || e == 0 {
			break
		}
		end := bits.TrailingZeros64(e) // 7 and eight times the digits
		k := end / 8
		man := uint64(one)*tens[k&7] + eight(w<<(63&^end)<<8)
		f := float64(int64(man)) / pow10[k&7]
		v := math.Float32bits(float32(f)) | uint32(neg)<<31
		binary.LittleEndian.PutUint32(dst[4*n:], v)
		if k == 0 || nearMiddle(f) {
			break
		}
		if behind := byteAt(p, 2+k); behind != ',' {
			if behind|0x20 != 'e' {
				i = int(uintptr(p)-uintptr(base)) + 2 + k
				n++
			}
			break
		}
		i = int(uintptr(p)-uintptr(base)) + 2 + k
		n++
	}
	s.pos = i
	return n
}

// long32 is floats32 for the numbers that usual32 takes.
func (s *scanner) long32(dst []byte) int {
	buf, i, n := s.buf, s.pos, 0
	for 4*n+4 <= len(dst) && i+fastRoom <= len(buf) && buf[i] == ',' {
		at := 1
		if buf[i+at] == ' ' {
			at++
		}
		v, length := usual32(unsafe.Pointer(unsafe.SliceData(buf[i+at:])))
		if length == 0 {
			break
		}
		binary.LittleEndian.PutUint32(dst[4*n:], v)
		i += at + length
		n++
	}
	s.pos = i
	return n
}

// usual32 reads a number with up to seven digits before the point, up to 19
// together, or an integer. It returns the bits of the FP32 and how long the
// number is, 0 for another one. At p there is the room that short32 has.
func usual32(p unsafe.Pointer) (v uint32, length int) {
	neg := 0
	if byteAt(p, 0) == '-' {
		neg = 1
	}
	at := neg
	man, whole := uint64(byteAt(p, at)-'0'), 1
	if man > 9 {
		return 0, 0
	}
	if byteAt(p, at+1) != '.' { // more digits, or an integer
		w := wordAt(p, at) ^ zeros
		whole = bits.TrailingZeros64(ends(w)) / 8
		if whole == 8 || man == 0 && whole > 1 {
			return 0, 0
		}
		man = eight(w << (64 - 8*whole))
	}
	at += whole
	places := 0
	if byteAt(p, at) == '.' {
		at++
		w := wordAt(p, at) ^ zeros
		e := ends(w)
		for e == 0 && places < 16 {
			man = man*100000000 + eight(w)
			places += 8
			at += 8
			w = wordAt(p, at) ^ zeros
			e = ends(w)
		}
		k := bits.TrailingZeros64(e) / 8
		man = man*tens[k&7] + eight(w<<(64-8*k))
		places += k
		at += k
		if places == 0 || k == 8 || whole+places > 19 {
			return 0, 0
		}
	}
	f := float64(man) / pow10[places]
	if byteAt(p, at)|0x20 == 'e' || places > 0 && nearMiddle(f) {
		return 0, 0
	}
	return math.Float32bits(float32(f)) | uint32(neg)<<31, at
}

func byteAt(p unsafe.Pointer, i int) byte { return *(*byte)(unsafe.Add(p, i)) }

func wordAt(p unsafe.Pointer, i int) uint64 {
	return binary.LittleEndian.Uint64((*[8]byte)(unsafe.Add(p, i))[:])
}
