package tensor_test

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

func alloc(t *testing.T, a *tensor.Arena, n int) []byte {
	t.Helper()
	b, err := a.Alloc(n)
	if err != nil {
		t.Fatal(err)
	}
	if len(b) != n || cap(b) != n {
		t.Fatalf("Alloc(%d) gives %d bytes, capacity %d", n, len(b), cap(b))
	}
	if p := unsafe.SliceData(b); p == nil || n > 0 && uintptr(unsafe.Pointer(p))%64 != 0 {
		t.Fatalf("Alloc(%d) lies at %p", n, p)
	}
	return b
}

// Pieces must neither overlap nor move, whatever their sizes.
func TestArenaPieces(t *testing.T) {
	var a tensor.Arena
	defer a.Free()
	sizes := []int{0, 1, 63, 64, 65, 0, 4000, 16 << 10, 1, 1 << 20, 3, 16<<10 - 1, 0, 7}
	for round := range 3 {
		var pieces [][]byte
		for i, n := range sizes {
			b := alloc(t, &a, n)
			for j := range b {
				b[j] = byte(i + round)
			}
			pieces = append(pieces, b)
		}
		for i, b := range pieces {
			if n := bytes.Count(b, []byte{byte(i + round)}); n != len(b) {
				t.Errorf("round %d: piece %d was overwritten: %d of %d bytes", round, i, n, len(b))
			}
		}
		a.Reset(2 << 20)
	}
}

// TestArenaEnds looks where pieces end, and which bytes are the arena's.
func TestArenaEnds(t *testing.T) {
	var a, other tensor.Arena
	defer a.Free()
	defer other.Free()
	if a.Holds([]byte{1}) {
		t.Error("an empty arena holds something")
	}
	for _, n := range []int{0, 1, 4, 63, 64, 65, 40 << 10, 1} {
		b, err := a.AllocEnd(n)
		if err != nil || len(b) != n {
			t.Fatalf("AllocEnd(%d) gives %d bytes, %v", n, len(b), err)
		}
		if n == 0 {
			continue
		}
		end := uintptr(unsafe.Pointer(&b[0])) + uintptr(n)
		if end%64 != 0 || !a.Holds(b) || !a.Holds(b[n-1:]) || other.Holds(b) {
			t.Errorf("AllocEnd(%d) ends at %#x; held %v, by another %v", n, end, a.Holds(b),
				other.Holds(b))
		}
	}
	if b := make([]byte, 64); a.Holds(b) || a.Holds(nil) {
		t.Error("the arena holds what is not its own")
	}
	b := alloc(t, &a, 64)
	if !tensor.Aligned(b[8:], tensor.FP64) || tensor.Aligned(b[4:], tensor.FP64) ||
		!tensor.Aligned(b[4:], tensor.FP32) || !tensor.Aligned(b[1:], tensor.Bytes) {
		t.Error("Aligned is wrong")
	}
}

// What an idle arena keeps is bounded, and the largest chunk within the bound.
func TestArenaKeeps(t *testing.T) {
	f := func(keep, want int, sizes ...int) {
		t.Helper()
		var a tensor.Arena
		for _, n := range sizes {
			alloc(t, &a, n)
		}
		a.Reset(keep)
		if got := a.Size(); got != want {
			t.Errorf("after %v, Reset(%d) keeps %d bytes, want %d", sizes, keep, got, want)
		}
		alloc(t, &a, 10)
		a.Free()
		if got := a.Size(); got != 0 {
			t.Errorf("Free keeps %d bytes", got)
		}
	}
	f(1<<20, 0)
	f(1<<20, 16<<10, 1)
	f(1<<20, 32<<10, 1, 16<<10)
	f(16<<10, 16<<10, 1, 16<<10)
	f(1<<20, 16<<10, 1, 2<<20)
	f(1<<20, 0, 2<<20)
	f(0, 0, 1)
}

// Memory that is taken and given back does not pass through the Go heap.
func TestArenaDoesNotAllocate(t *testing.T) {
	var a tensor.Arena
	defer a.Free()
	if n := testing.AllocsPerRun(100, func() {
		alloc(t, &a, 1000)
		alloc(t, &a, 0)
		a.Reset(1 << 20)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// mapped returns how much memory the process has mapped, in bytes.
func mapped(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skipf("the system does not tell the size of the process: %v", err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(text))[0])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// Pools drop what they hold from time to time; the memory must go with it.
func TestArenaIsCollected(t *testing.T) {
	const size, n = 64 << 20, 100
	before := mapped(t)
	for range n {
		type owner struct {
			_   int // the arena does not stand at the beginning
			mem tensor.Arena
		}
		o := new(owner)
		alloc(t, &o.mem, size)
		runtime.KeepAlive(o)
	}
	deadline := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for mapped(t)-before > n*size/4 {
		runtime.GC()
		select {
		case <-deadline:
			t.Fatalf("%d MB are still mapped", (mapped(t)-before)>>20)
		case <-tick.C:
		}
	}
}
