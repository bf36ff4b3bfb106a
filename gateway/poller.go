package gateway

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/runtime/model"
)

// poller is one goroutine of the lane.
type poller struct {
	lane    *lane
	events  [maxEvents]unix.EpollEvent
	buf     []byte           // memory for what is read of a connection
	touched []*model.Version // have got requests in this round
}

const (
	// maxEvents bounds the requests that are read before they are run.
	maxEvents = 64
	// readBytes is the size of a poller's buffer; larger bodies are read in place.
	readBytes = 64 << 10
)

// spawn starts one more poller, which the caller has counted in polling.
func (l *lane) spawn() {
	l.pollers.Go(func() {
		p := &poller{lane: l, buf: make([]byte, max(readBytes, l.cfg.HeaderBytes))}
		for !l.stopped.Load() && p.round() {
		}
		l.wake() // let the next one see that the lane has stopped
	})
}

// round serves what has come. It returns false when there are pollers enough.
func (p *poller) round() bool {
	l := p.lane
	for i := range p.wait() {
		ev := &p.events[i]
		if ev.Fd == wakeSlot {
			for _, c := range l.takeReady() {
				c.more = true // what came while it was owned is not known
				c.serve(p)
			}
			continue
		}
		c := l.slots[ev.Fd].Load()
		if c != nil && c.own() {
			c.more = c.more || ev.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
			c.serve(p)
		}
	}
	return p.drive()
}

// wait returns the number of events that have come.
func (p *poller) wait() int {
	if n := p.epollWait(false); n > 0 {
		return n
	}
	return p.epollWait(true)
}

func (p *poller) epollWait(block bool) int {
	var n uintptr
	var errno unix.Errno
	if block {
		n, _, errno = unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.lane.epoll),
			uintptr(unsafe.Pointer(&p.events[0])), maxEvents, ^uintptr(0), 0, 0)
	} else {
		n, _, errno = unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(p.lane.epoll),
			uintptr(unsafe.Pointer(&p.events[0])), maxEvents, 0, 0, 0)
	}
	if errno != 0 {
		return 0 // interrupted
	}
	return int(n)
}

// touch notes that a version has got a request.
func (p *poller) touch(v *model.Version) {
	for _, t := range p.touched {
		if t == v {
			return
		}
	}
	p.touched = append(p.touched, v)
}

// drive runs what has been submitted in this round. While it does, this
// poller takes nothing in: when it may take long, another one must. It returns
// false when there are pollers enough without this one.
func (p *poller) drive() bool {
	var slow *model.Version
	for _, v := range p.touched {
		switch {
		case !v.Slow():
			v.Drive()
		case slow != nil:
			go v.Drive()
		default:
			slow = v
		}
	}
	clear(p.touched)
	p.touched = p.touched[:0]
	if slow == nil {
		return true
	}
	l := p.lane
	if l.polling.Add(-1) == 0 {
		l.polling.Add(1)
		l.spawn()
	}
	slow.Drive()
	if l.polling.Add(1) > int32(l.cfg.Pollers) {
		l.polling.Add(-1)
		return false
	}
	return true
}
