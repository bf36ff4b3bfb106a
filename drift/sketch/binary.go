package sketch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
)

// ErrData is returned for bytes that are no sketch.
var ErrData = errors.New("sketch: data is damaged")

// The binary form is: version; the layout's digest, 8 bytes; the count of each bin
// as a varint; sum and squares as float64; the number of names, each with its
// length, bytes and count; 1 and the registers, or 0. Fixed sizes are
// little-endian. What was written once must be read by all later versions.
const version = 1

// AppendBinary appends the sketch's binary form, without its layout.
func (s *Sketch) AppendBinary(b []byte) ([]byte, error) {
	b = append(b, version)
	b = binary.LittleEndian.AppendUint64(b, s.layout.digest)
	for _, n := range s.counts {
		b = binary.AppendUvarint(b, n)
	}
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.sum))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(s.squares))
	b = binary.AppendUvarint(b, uint64(len(s.names)))
	for _, name := range slices.Sorted(maps.Keys(s.names)) {
		b = binary.AppendUvarint(b, uint64(len(name)))
		b = append(b, name...)
		b = binary.AppendUvarint(b, *s.names[name])
	}
	if s.distinct == nil {
		return append(b, 0), nil
	}
	b = append(b, 1)
	return append(b, s.distinct[:]...), nil
}

// Decode reads a sketch of this layout from its binary form.
func Decode(l *Layout, data []byte) (*Sketch, error) {
	r := reader{rest: data}
	if v := r.bytes(1); r.failed || v[0] != version {
		return nil, fmt.Errorf("%w: it has no version that is known here", ErrData)
	}
	if digest := r.fixed(); !r.failed && digest != l.digest {
		return nil, ErrMismatch
	}
	s := New(l)
	for i := range s.counts {
		s.counts[i] = r.count()
	}
	s.sum, s.squares = math.Float64frombits(r.fixed()), math.Float64frombits(r.fixed())
	last := ""
	for i := range r.count() {
		name := r.bytes(r.count())
		n := r.count()
		if r.failed || i >= maxNames || len(name) > maxName || i > 0 && string(name) <= last {
			return nil, fmt.Errorf("%w: its names are not in order", ErrData)
		}
		last = string(name)
		s.remember(last, n)
	}
	if flag := r.bytes(1); !r.failed && flag[0] == 1 {
		copy(s.registers()[:], r.bytes(uint64(len(registers{}))))
	} else if !r.failed && flag[0] != 0 {
		return nil, fmt.Errorf("%w: unknown registers", ErrData)
	}
	if r.failed || len(r.rest) > 0 || !s.plausible() {
		return nil, fmt.Errorf("%w: it has %d bytes, which is not what they say", ErrData,
			len(data))
	}
	return s, nil
}

// plausible says whether the parts of a sketch can belong together.
func (s *Sketch) plausible() bool {
	if s.distinct != nil {
		for _, n := range s.distinct {
			if n > 64-precision+1 {
				return false
			}
		}
	}
	most := s.numbers() * maxSpreads * maxSpreads * (1 + 1e-6)
	return math.Abs(s.sum) <= most && s.squares >= 0 && s.squares <= most &&
		(s.layout.IsNumeric() || s.distinct != nil || len(s.names) == 0) &&
		(!s.layout.IsNumeric() || s.distinct == nil && len(s.names) == 0)
}

// reader takes data apart; once something does not fit it yields zeros.
type reader struct {
	rest   []byte
	failed bool
}

func (r *reader) bytes(n uint64) []byte {
	if n > uint64(len(r.rest)) {
		r.failed = true
		r.rest = nil
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) fixed() uint64 {
	if b := r.bytes(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *reader) count() uint64 {
	v, n := binary.Uvarint(r.rest)
	// The shortest form only, so that equal sketches have equal bytes.
	if n <= 0 || v > maxCount || n > 1 && v < 1<<(7*(n-1)) {
		r.failed = true
		return 0
	}
	r.rest = r.rest[n:]
	return v
}
