package gateway

import (
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// doze is where a poller waits for events while long runs have all cores: in Go's own poller, as a
// goroutine that is parked. Of a goroutine that waits in a system call Go's monitor takes the
// processor after a while, and then wakes up every 20 us to look for more to take, with an object
// detector 2,400 times a second, each time in place of a run. To be woken out of a doze takes some
// microseconds more.
//
// One poller waits at a time. The others are parked behind it, and the next one takes its place
// when it has got events.
type doze struct {
	epoll int      // what is waited for
	outer int      // an epoll instance that Go's poller watches; it watches epoll while one waits
	file  *os.File // of outer
	raw   syscall.RawConn
}

func newDoze(epoll int) (*doze, error) {
	outer, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, err
	}
	if err := unix.SetNonblock(outer, true); err != nil { // else Go's poller would not watch it
		_ = unix.Close(outer)
		return nil, err
	}
	d := &doze{epoll: epoll, outer: outer, file: os.NewFile(uintptr(outer), "epoll")}
	if d.raw, err = d.file.SyscallConn(); err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// wait returns when some says that there are events. It returns early when it cannot wait.
func (d *doze) wait(some func() bool) {
	watched := unix.EpollEvent{Events: unix.EPOLLIN}
	var err error
	waits := false
	_ = d.raw.Read(func(uintptr) bool {
		if !waits {
			waits = true
			err = unix.EpollCtl(d.outer, unix.EPOLL_CTL_ADD, d.epoll, &watched)
		}
		if !some() && err == nil {
			return false
		}
		_ = unix.EpollCtl(d.outer, unix.EPOLL_CTL_DEL, d.epoll, nil)
		return true
	})
}

func (d *doze) close() { _ = d.file.Close() }
