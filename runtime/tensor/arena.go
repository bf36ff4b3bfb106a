package tensor

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Arena hands out memory for the tensors of one request. The memory lies
// outside the Go heap, so that C may keep pointers into it, the collector
// never scans it, and large pieces go back to the system at once.
//
// An Arena has one owner at a time. What Alloc returned is valid until Reset.
type Arena struct {
	chunks [][]byte // chunks[0] is kept over Reset, up to keepBytes
	used   int      // bytes used of the last chunk
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
	if len(a.chunks) > 0 {
		last := a.chunks[len(a.chunks)-1]
		if n <= len(last)-a.used {
			b := last[a.used : a.used+n : a.used+n]
			a.used += roundUp(n, alignment)
			a.used = min(a.used, len(last))
			return b, nil
		}
	}
	if err := a.grow(n); err != nil {
		return nil, err
	}
	a.used = min(roundUp(n, alignment), len(a.chunks[len(a.chunks)-1]))
	return a.chunks[len(a.chunks)-1][:n:n], nil
}

// empty returns a slice of no bytes that still has an address.
func (a *Arena) empty() ([]byte, error) {
	if len(a.chunks) == 0 {
		if err := a.grow(1); err != nil {
			return nil, err
		}
	}
	last := a.chunks[len(a.chunks)-1]
	at := min(a.used, len(last)-1)
	return last[at:at:at], nil
}

func (a *Arena) grow(n int) error {
	size := firstChunk
	if len(a.chunks) > 0 {
		size = 2 * len(a.chunks[len(a.chunks)-1])
	}
	size = roundUp(max(size, n), 4096)
	b, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return fmt.Errorf("tensor: cannot get %d bytes of memory: %w", size, err)
	}
	a.chunks = append(a.chunks, b)
	a.used = 0
	return nil
}

// Size returns the bytes that the arena holds.
func (a *Arena) Size() int {
	n := 0
	for _, c := range a.chunks {
		n += len(c)
	}
	return n
}

// Reset takes all memory back for the next request. The largest chunk is kept
// when it has at most keepBytes, all others go back to the system.
func (a *Arena) Reset(keepBytes int) {
	if invariants {
		for _, c := range a.chunks {
			Ruin(c)
		}
	}
	a.used = 0
	if len(a.chunks) == 1 && len(a.chunks[0]) <= keepBytes {
		return
	}
	keep := -1
	for i, c := range a.chunks {
		if len(c) <= keepBytes {
			keep = i // chunks grow, so the last that fits is the largest
		}
	}
	for i, c := range a.chunks {
		if i != keep {
			_ = unix.Munmap(c) // fails only for memory that is not a mapping
		}
	}
	if keep < 0 {
		a.chunks = a.chunks[:0]
		return
	}
	a.chunks[0] = a.chunks[keep]
	a.chunks = a.chunks[:1]
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
