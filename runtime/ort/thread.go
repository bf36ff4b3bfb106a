package ort

// #include "api.h"
import "C"

import (
	"os"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// longRun is how long a run is expected to take that is made on a thread of C. Go's scheduler takes
// a long call into C for a system call that blocks: its monitor takes the processor from it, and
// looks again every 20 us, which costs a text recogniser a tenth of its runs. The goroutine of a
// run on a thread of C is parked. The gateway's pollers, which should not be, leave runs to
// others whose mean is above this.
const longRun = 3 * time.Millisecond

// thread is a thread of C that makes one run at a time.
type thread struct {
	c    *C.mr_thread
	over *os.File // of its eventfd
	word [8]byte  // read from over
}

// threads are those that wait for a run, the last one used at the end. There are as many as there
// were long runs at once.
var threads struct {
	sync.Mutex
	idle []*thread
}

// takeThread returns a thread that waits, or a new one; nil where the system has none left.
func takeThread() *thread {
	threads.Lock()
	defer threads.Unlock()
	if n := len(threads.idle); n > 0 {
		t := threads.idle[n-1]
		threads.idle = threads.idle[:n-1]
		return t
	}
	c := C.mr_thread_new()
	if c == nil {
		return nil
	}
	return &thread{c: c, over: os.NewFile(uintptr(c.over), "run")}
}

// run makes the call's run and returns what mr_run does.
func (t *thread) run(c *Call) C.int {
	t.c.call = c.c
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(t.c.begin), uintptr(unsafe.Pointer(&one)), 8)
	for n := 0; n == 0; { // whatever happens, the run uses the call until it is over
		n, _ = t.over.Read(t.word[:])
	}
	failed := t.c.failed
	threads.Lock()
	threads.idle = append(threads.idle, t)
	threads.Unlock()
	return failed
}
