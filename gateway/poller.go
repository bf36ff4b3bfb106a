package gateway

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
)

// poller is one goroutine of the lane. At most one waits for events at a time,
// the others are parked: a core that has nothing to do stays with the clients'
// and the model's threads. More pollers work when one is not enough: see
// busyFor, and attend for slow models.
type poller struct {
	lane    *lane
	events  [maxEvents]unix.EpollEvent
	buf     []byte           // memory for what is read of a connection
	ready   []*conn          // memory for what is taken of lane.ready
	touched []*model.Version // have got requests in this round
	since   int64            // when the work without a pause began, as batch.Now; 0 for none
	misses  int              // looks in a row that found nothing; see look
}

const (
	// maxEvents bounds the requests that are read before they are run.
	maxEvents = 64
	// readBytes is the size of a poller's buffer; larger bodies are read in place.
	readBytes = 64 << 10
	// busyFor is how long a poller works without a pause before another one helps.
	busyFor = 300 * time.Microsecond
)

// spawn starts one more poller.
func (l *lane) spawn() {
	l.pollers.Go(func() {
		p := &poller{lane: l, buf: make([]byte, max(readBytes, l.cfg.HeaderBytes))}
		for !l.stopped.Load() {
			n, ok := p.wait()
			if !ok {
				break
			}
			p.serve(n)
			p.drive()
		}
		l.wake() // let the next one see that the lane has stopped
	})
}

// recruit lets a parked poller work. It returns false when none is parked.
func (l *lane) recruit() bool {
	select {
	case l.recruits <- struct{}{}:
		return true
	default:
		return false
	}
}

// attend sees to it that requests are taken in while the caller does not.
func (l *lane) attend() {
	if !l.watched.Load() && !l.recruit() {
		l.spawn()
	}
}

// park waits until the poller is needed. It returns false when it is one too many.
func (l *lane) park() bool {
	if l.parked.Add(1) > int32(l.cfg.Pollers) {
		l.parked.Add(-1)
		return false
	}
	select {
	case <-l.recruits:
	case <-l.done:
	}
	l.parked.Add(-1)
	return true
}

// wait returns the number of events that have come. ok is false when there are
// pollers enough without this one.
func (p *poller) wait() (n int, ok bool) {
	l := p.lane
	if n = p.epollWait(false); n > 0 {
		now := batch.Now()
		switch {
		case p.since == 0:
			p.since = now
		case now-p.since > int64(busyFor) && !l.watched.Load():
			l.recruit()
			p.since = now
		}
		return n, true
	}
	p.since = 0
	if !l.watched.CompareAndSwap(false, true) {
		return 0, l.park()
	}
	if n = p.look(); n == 0 {
		n = p.epollWait(true)
	}
	l.watched.Store(false)
	return n, true
}

const (
	// lookFor is how long a poller looks for events before it sleeps. A client
	// that was just answered often sends again within this time, and to be
	// woken takes as long.
	lookFor = 30 * time.Microsecond
	// Looks that found nothing are paid for by nobody: after so many in a row
	// only one sleep in lookAgain begins with another.
	maxMisses = 4
	lookAgain = 64
)

// look returns the number of events that come within a short while.
func (p *poller) look() int {
	if p.misses++; p.misses > maxMisses && p.misses%lookAgain != 0 {
		return 0
	}
	for end := batch.Now() + int64(lookFor); batch.Now() < end; {
		if n := p.epollWait(false); n > 0 {
			p.misses = 0
			return n
		}
	}
	return 0
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

// serve does what the first n events ask for.
func (p *poller) serve(n int) {
	l := p.lane
	for i := range n {
		ev := &p.events[i]
		if ev.Fd == wakeSlot {
			p.ready = l.takeReady(p.ready)
			for _, c := range p.ready {
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
// poller takes nothing in: when it may take long, another one must.
func (p *poller) drive() {
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
	if slow != nil {
		p.lane.attend()
		slow.Drive()
	}
}
