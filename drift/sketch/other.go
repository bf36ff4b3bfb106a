package sketch

import (
	"math"
	"math/bits"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// other remembers a value that has no bin of its own.
func (s *Sketch) other(v Value) {
	var b [32]byte
	if v.kind != text {
		v = Text(v.AppendText(b[:0]))
	}
	s.registers().add(xxhash.Sum64String(v.text))
	s.remember(v.text[:min(len(v.text), maxName)], 1)
}

// remember counts a name, which may be overwritten afterwards.
func (s *Sketch) remember(name string, n uint64) {
	if known := s.names[name]; known != nil {
		*known = min(*known+n, maxCount)
		return
	}
	if len(s.names) >= maxNames {
		return
	}
	if s.names == nil {
		s.names = make(map[string]*uint64)
	}
	first := n // n itself must not move to the heap for those that are known
	s.names[strings.Clone(name)] = &first
}

func (s *Sketch) registers() *registers {
	if s.distinct == nil {
		s.distinct = new(registers)
	}
	return s.distinct
}

// precision is p of the HyperLogLog: 2^p registers of a byte, with a standard
// error of 1.04/sqrt(2^p).
const precision = 11

// registers are a HyperLogLog (Flajolet et al. 2007): each holds the greatest
// number of leading zeros, plus one, of the hashes that chose it.
type registers [1 << precision]uint8

func (r *registers) add(hash uint64) {
	at := hash >> (64 - precision)
	zeros := bits.LeadingZeros64(hash<<precision | 1<<(precision-1))
	r[at] = max(r[at], uint8(zeros)+1)
}

func (r *registers) merge(o *registers) {
	for i, n := range o {
		r[i] = max(r[i], n)
	}
}

// estimate is a m^2 / sum 2^-r, and the count of empty registers' while that is
// the better one: m ln(m/empty). Hashes of 64 bits need no correction above.
func (r *registers) estimate() float64 {
	const m = float64(len(r))
	sum, empty := 0.0, 0.0
	for _, n := range r {
		sum += math.Ldexp(1, -int(n))
		if n == 0 {
			empty++
		}
	}
	e := 0.7213 / (1 + 1.079/m) * m * m / sum
	if e <= 2.5*m && empty > 0 {
		return m * math.Log(m/empty)
	}
	return e
}
