package gateway

import (
	"runtime"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
)

// poller is one goroutine of the lane. While runs are short at most one waits
// for events at a time and the others are parked: a core that has nothing to do
// stays with the clients' and the model's threads. More pollers work when one is
// not enough: see busyFor. While runs are long all of them wait for events, so
// that one goes on when another is in a run: see heavyFrom.
type poller struct {
	lane    *lane
	number  int // from 0 on
	events  [maxEvents]unix.EpollEvent
	buf     []byte           // memory for what is read of a connection
	ready   []*conn          // memory for what is taken of lane.ready
	help    []*model.Version // memory for what is taken of lane.drive
	later   []*session       // memory for what is taken of lane.later
	touched []*model.Version // have got requests in this round, or have some left
	misses  int              // looks in a row that found nothing; see look
	busy    spell
	yielded int64       // when it last went through Go's scheduler, as batch.Now
	usage   unix.Rusage // memory for preemptions
}

// spell is a time of work without a pause.
type spell struct {
	since    int64 // as batch.Now; 0 for none
	switches int64 // the thread's involuntary ones at its last look, -1 before
	over     bool  // the poller is one too many
}

const (
	// maxEvents bounds the requests that are read before they are run.
	maxEvents = 64
	// readBytes is the size of a poller's buffer; larger bodies are read in place.
	readBytes = 64 << 10
	// manyConnections is with more than how many open there are two pollers at least: while one is
	// in a run the next requests come. One alone left a tenth of two cores idle that it shared with
	// 64 clients.
	manyConnections = 16
	// busyFor is how long a poller works without a pause before it asks itself
	// whether another one should help, or whether it is one too many.
	busyFor = 300 * time.Microsecond
	// After a poller was one too many none helps for a time, which doubles from
	// the one to the other.
	firstRest, lastRest = 10 * time.Millisecond, time.Second
)

// spawn starts one more poller, of that number.
func (l *lane) spawn(number int) {
	l.working.Add(1)
	l.pollers.Go(func() {
		// When other goroutines work too, as shadows do, the scheduler would move it from thread
		// to thread, and the system each of them from core to core.
		runtime.LockOSThread()
		p := &poller{lane: l, number: number,
			buf: make([]byte, max(readBytes, l.cfg.HeaderBytes))}
		for !l.stopped.Load() {
			n := p.wait()
			p.serve(n)
			l.driving.Add(1)
			p.drive(n)
			l.driving.Add(-1)
			p.flushLater()
		}
		l.wake() // let the next one see that the lane has stopped
	})
}

// recruit lets a parked poller work, if one is.
func (l *lane) recruit() {
	select {
	case l.recruits <- struct{}{}:
	default:
	}
}

// wait returns the number of events that have come; none when as many pollers as are needed
// wait for them already.
func (p *poller) wait() int {
	l := p.lane
	heavy := l.heavy.Load()
	if p.busy.over && !heavy && len(p.touched) == 0 && l.spare() {
		p.busy = spell{}
		l.park()
		return 0
	}
	if n := p.epollWait(false); n > 0 {
		if !heavy {
			p.work()
		}
		return n
	}
	p.busy = spell{}
	switch {
	case len(p.touched) > 0:
		return 0
	case heavy:
		return p.sleep()
	}
	if l.watchers.Add(1) > l.atLeast() {
		l.watchers.Add(-1)
		if l.spare() {
			l.park()
		}
		return 0
	}
	n := p.look()
	if n == 0 {
		n = p.sleep()
	}
	l.watchers.Add(-1)
	return n
}

// atLeast is how many pollers work and wait for events, however little there is to do.
func (l *lane) atLeast() int32 {
	if l.open.Load() > manyConnections && l.cfg.Pollers > 1 {
		return 2
	}
	return 1
}

// spare takes a poller out of those that work, unless there are no more than there are to be.
func (l *lane) spare() bool {
	for {
		n := l.working.Load()
		if n <= l.atLeast() {
			return false
		}
		if l.working.CompareAndSwap(n, n-1) {
			return true
		}
	}
}

// park waits until a poller that has left is needed again.
func (l *lane) park() {
	select {
	case <-l.recruits:
	case <-l.done:
	}
	l.working.Add(1)
}

// work is called when there is more to do. A poller that is busy all the time
// gets help while there are cores for it: when the system takes the core away
// from pollers, something else needs it, and fewer of them do more.
func (p *poller) work() {
	now := batch.Now()
	if p.busy.since == 0 {
		p.busy = spell{since: now, switches: -1}
	}
	if now-p.busy.since < int64(busyFor) {
		return
	}
	before := p.busy.switches
	p.busy.since, p.busy.switches = now, p.preemptions()
	l := p.lane
	switch {
	case before < 0:
	case before == p.busy.switches:
		if now > l.restUntil.Load() && l.watchers.Load() == 0 {
			l.recruit()
		}
	case l.working.Load() > l.atLeast():
		p.busy.over = true
		rest := min(max(2*l.rest.Load(), int64(firstRest)), int64(lastRest))
		if now-l.restUntil.Load() > int64(10*lastRest) {
			rest = int64(firstRest)
		}
		l.rest.Store(rest)
		l.restUntil.Store(now + rest)
	}
}

// preemptions returns how often the system has taken the core away from this
// thread.
func (p *poller) preemptions() int64 {
	_ = unix.Getrusage(unix.RUSAGE_THREAD, &p.usage) // fails only for a wrong argument
	return p.usage.Nivcsw
}

const (
	// lookFor is how long a poller looks for events before it sleeps. A client that was just
	// answered often sends again within this time, its own waking up included, and to be woken
	// takes a good part of it. Among many connections the next request comes anyway.
	lookFor         = 60 * time.Microsecond
	lookConnections = 4
	// Looks that found nothing are paid for by nobody: after so many in a row
	// only one sleep in lookAgain begins with another.
	maxMisses = 4
	lookAgain = 64
)

// look returns the number of events that come within a short while.
func (p *poller) look() int {
	if p.lane.open.Load() > lookConnections {
		return 0
	}
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

// sleep returns the number of events when some have come; none when it was interrupted.
func (p *poller) sleep() int {
	if batch.Aside() >= runtime.NumCPU() {
		return p.doze()
	}
	return p.epollWait(true)
}

// doze is a sleep while long runs have all cores; it takes some memory.
func (p *poller) doze() (n int) {
	p.lane.doze.wait(func() bool {
		n = p.epollWait(false)
		return n > 0
	})
	return n
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
			p.ready, p.help = l.takeReady(p.ready, p.help)
			for _, c := range p.ready {
				c.more = true // what came while it was owned is not known
				c.serve(p)
			}
			for _, v := range p.help {
				p.touch(v)
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

// touch notes that a version has requests that wait.
func (p *poller) touch(v *model.Version) {
	if slices.Contains(p.touched, v) {
		return
	}
	p.touched = append(p.touched, v)
	if p.lane.asked.Load() != v {
		p.lane.turn(v)
	}
}

// turn is called when another version is asked for than before: once when
// clients move on to it, again and again when there are clients of both.
func (l *lane) turn(v *model.Version) {
	now := batch.Now()
	l.asked.Store(v)
	if now-l.turnedAt.Swap(now) < int64(sharedFor) {
		l.sharedUntil.Store(now + int64(sharedFor))
	}
}

const (
	// A run that holds a poller up holds up the requests for other models that
	// wait to be read. When there have been some within sharedFor, a run may
	// take longestShared; a model that is alone may let its own requests wait.
	// Longer runs are on goroutines of their own.
	longestShared = 500 * time.Microsecond
	longestAlone  = 3 * time.Millisecond
	sharedFor     = time.Second
	// heavyFrom is how long a request takes to run when to be woken costs little
	// beside it. A few may take as long because of other work on the cores.
	heavyFrom, aFew = 50 * time.Microsecond, 3
)

// yieldWithin is the longest that a poller does not go through Go's scheduler, if the next round
// takes no more than twice what the last took. The monitor takes the place of a goroutine that has
// not done so for 10 ms as soon as it finds it in a run, and wakes up thousands of times a second
// to see whether there is more to take. More often costs, too: two other threads are woken each
// time.
const yieldWithin = 9 * time.Millisecond

// drive runs what has been submitted in this round of n events, or lets others
// run it.
func (p *poller) drive(n int) {
	if len(p.touched) == 0 {
		return
	}
	l, began := p.lane, batch.Now()
	longest := longestAlone
	if began < l.sharedUntil.Load() {
		longest = longestShared
	}
	p.touched = slices.DeleteFunc(p.touched, func(v *model.Version) bool {
		return !v.Drive(longest)
	})
	ended := batch.Now()
	heavy := ended-began > int64(heavyFrom)*int64(max(n, aFew))
	if l.heavy.Load() != heavy {
		l.heavy.Store(heavy)
	}
	if has := l.working.Load(); has < l.atLeast() || heavy && int(has) < l.cfg.Pollers {
		l.recruit()
	}
	if ended-p.yielded+2*(ended-began) > int64(yieldWithin) {
		p.yielded = ended
		runtime.Gosched()
	}
}
