package tensor

import (
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arena hands out memory for the tensors of one request. The memory lies
// outside the Go heap, so that C may keep pointers into it, the collector
// never scans it, and large pieces go back to the system at once.
//
// An Arena has one owner at a time. What Alloc returned is valid until Reset,
// and no longer than the Arena itself is referred to: an Arena that the
// collector takes, as sync.Pool lets it, gives its memory back.
//
// An Arena must not be copied once it is in use.
type Arena struct {
	*chunks
	used int // bytes used of the last chunk
}

// chunks are mappings of memory. They lie apart from the Arena, so that they
// can be given back after it.
type chunks struct {
	all [][]byte // all[0] is kept over Reset, up to keepBytes
}

// free gives all but one chunk back to the system; -1 keeps none.
func (c *chunks) free(keep int) {
	for i, b := range c.all {
		if i != keep {
			_ = unix.Munmap(b) // fails only for memory that is not a mapping
		}
	}
	if keep >= 0 {
		c.all[0] = c.all[keep]
	}
	c.all = c.all[:min(keep+1, 1)]
}

const (
	firstChunk = 16 << 10 // holds small tabular requests; a multiple of the page size
	alignment  = 64       // a cache line, and what AVX-512 loads like best
)

// Alloc returns n bytes, aligned to 64. Their content is undefined.
func (a *Arena) Alloc(n int) ([]byte, error) {
	if n == 0 {
		return a.empty()
	}
	if last := a.last(); n <= len(last)-a.used {
		b := last[a.used : a.used+n : a.used+n]
		a.used = min(a.used+roundUp(n, alignment), len(last))
		return b, nil
	}
	if err := a.grow(n); err != nil {
		return nil, err
	}
	last := a.last()
	a.used = min(roundUp(n, alignment), len(last))
	return last[:n:n], nil
}

// last returns the chunk that memory is handed out of, nil where there is none.
func (a *Arena) last() []byte {
	if a.chunks == nil || len(a.all) == 0 {
		return nil
	}
	return a.all[len(a.all)-1]
}

// empty returns a slice of no bytes that still has an address.
func (a *Arena) empty() ([]byte, error) {
	if a.last() == nil {
		if err := a.grow(1); err != nil {
			return nil, err
		}
	}
	last := a.last()
	at := min(a.used, len(last)-1)
	return last[at:at:at], nil
}

func (a *Arena) grow(n int) error {
	size := roundUp(max(firstChunk, 2*len(a.last()), n), 4096)
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("tensor: cannot get %d bytes of memory: %w", size, err)
	}
	if a.chunks == nil {
		a.chunks = new(chunks)
		runtime.AddCleanup(a, func(c *chunks) { c.free(-1) }, a.chunks)
	}
	a.all = append(a.all, b)
	a.used = 0
	return nil
}

// AllocEnd returns n bytes of which the end is aligned to 64. Their content is undefined.
func (a *Arena) AllocEnd(n int) ([]byte, error) {
	whole := roundUp(n, alignment)
	b, err := a.Alloc(whole)
	if err != nil {
		return nil, err
	}
	return b[whole-n:], nil
}

// Holds says whether b is some of the arena's bytes.
func (a *Arena) Holds(b []byte) bool {
	if a.chunks == nil || len(b) == 0 {
		return false
	}
	for _, c := range a.all {
		if address(b)-address(c) < uintptr(len(c)) {
			return true
		}
	}
	return false
}

// Aligned says whether data begins where an element of the datatype may.
func Aligned(data []byte, d Datatype) bool {
	size := d.Size()
	return size <= 1 || address(data)%uintptr(size) == 0
}

func address(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }

// Size returns the bytes that the arena has.
func (a *Arena) Size() int {
	if a.chunks == nil {
		return 0
	}
	n := 0
	for _, b := range a.all {
		n += len(b)
	}
	return n
}

// Reset takes all memory back for the next request. The largest chunk is kept
// when it has at most keepBytes, all others go back to the system.
func (a *Arena) Reset(keepBytes int) {
	if invariants && a.chunks != nil {
		for _, b := range a.all {
			Ruin(b)
		}
	}
	a.used = 0
	if a.chunks == nil || len(a.all) == 1 && len(a.all[0]) <= keepBytes {
		return
	}
	keep := -1
	for i, b := range a.all {
		if len(b) <= keepBytes {
			keep = i // chunks grow, so the last that fits is the largest
		}
	}
	a.free(keep)
}

// Free gives all memory back to the system.
func (a *Arena) Free() { a.Reset(-1) }

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// Ruin overwrites memory that nobody may look at any more, so that who does is
// found out. It is for builds with the tag invariants.
func Ruin(b []byte) {
	for i := range b {
		b[i] = 0xdb
	}
}
