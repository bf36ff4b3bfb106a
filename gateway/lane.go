package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
)

// lane answers plain inference requests on an event loop of its own: a few
// goroutines wait on one epoll instance, read what has come on many
// connections, submit it, run the batch that has gathered, and write the
// answers. No goroutine is woken for a single request, and requests that lie
// ready are in one batch without anybody waiting for them.
//
// A request that is not plain goes to fasthttp, with its connection, and the
// connection comes back when it is answered.
type lane struct {
	core    *Core
	grpc    *GRPC // whose connections these are; nil for HTTP's
	log     *slog.Logger
	cfg     HTTPConfig
	epoll   int // file descriptor
	event   int // file descriptor of an eventfd: something is in ready
	doze    *doze
	slots   []atomic.Pointer[conn]
	open    atomic.Int64  // connections, those with fasthttp included
	clock   atomic.Int64  // as batch.Now, renewed at every sweep
	closing atomic.Bool   // each answer is its connection's last
	ending  atomic.Bool   // connections close when they have nothing to do
	stopped atomic.Bool   // pollers end
	done    chan struct{} // closed to end the sweeper and parked pollers
	other   handovers

	pollers  sync.WaitGroup
	driving  atomic.Int32  // pollers that are in a run
	laters   atomic.Int32  // the length of later
	watchers atomic.Int32  // pollers that wait for events
	heavy    atomic.Bool   // runs are so long that every poller waits for events itself
	working  atomic.Int32  // pollers that are not parked
	recruits chan struct{} // wakes a parked poller
	// No poller is recruited before restUntil, as batch.Now; rest is how long that was.
	restUntil, rest atomic.Int64
	// The version that had the last request, when another one had before it, and
	// until when the pollers count as shared between versions; both as batch.Now.
	asked                 atomic.Pointer[model.Version]
	turnedAt, sharedUntil atomic.Int64

	mu        sync.Mutex
	listeners []net.Listener       // Guarded by mu, as all below.
	free      []int32              // slots that are not in use
	ready     []*conn              // owned, to be served by the next poller
	drive     []*model.Version     // to be driven by the next poller
	later     []*session           // have answers to be written after the runs under way
	away      map[*handed]struct{} // with fasthttp
}

// wakeSlot marks events of the eventfd.
const wakeSlot = -1

// newLane starts the pollers.
func newLane(core *Core, cfg HTTPConfig, log *slog.Logger) (*lane, error) {
	l := &lane{
		core: core, cfg: cfg, log: log, epoll: -1, event: -1,
		slots: make([]atomic.Pointer[conn], cfg.Connections),
		done:  make(chan struct{}), recruits: make(chan struct{}),
		other: handovers{conns: make(chan net.Conn), done: make(chan struct{})},
		away:  make(map[*handed]struct{}),
	}
	for slot := cfg.Connections - 1; slot >= 0; slot-- {
		l.free = append(l.free, int32(slot))
	}
	var err error
	if l.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err == nil {
		l.event, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err == nil {
		ev := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: wakeSlot}
		err = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, l.event, &ev)
	}
	if err == nil {
		l.doze, err = newDoze(l.epoll)
	}
	if err != nil {
		l.closeFiles()
		return nil, fmt.Errorf("cannot start the event loop: %w", err)
	}
	l.clock.Store(batch.Now())
	for number := range cfg.Pollers {
		l.spawn(number)
	}
	go l.sweep()
	return l, nil
}

func (l *lane) closeFiles() {
	for _, fd := range [...]int{l.epoll, l.event} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
	if l.doze != nil {
		l.doze.close()
	}
}

// serve takes connections in until the lane closes; after it ln is only closed.
func (l *lane) serve(ln net.Listener) error {
	l.mu.Lock()
	l.listeners = append(l.listeners, ln)
	if l.closing.Load() {
		_ = ln.Close()
	}
	l.mu.Unlock()
	return l.accept(ln)
}

// refuse stops listening: each answer is its connection's last. It returns false when
// that has been so before.
func (l *lane) refuse() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing.Swap(true) {
		return false
	}
	for _, ln := range l.listeners {
		_ = ln.Close()
	}
	return true
}

// accept takes connections in until ln is closed.
func (l *lane) accept(ln net.Listener) error {
	for delay := time.Duration(0); ; {
		c, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
		case l.closing.Load():
			return nil
		case errors.Is(err, syscall.EMFILE), errors.Is(err, syscall.ENFILE),
			errors.Is(err, syscall.ENOBUFS), errors.Is(err, syscall.ENOMEM),
			errors.Is(err, syscall.ECONNABORTED):
			delay = min(max(2*delay, 5*time.Millisecond), time.Second)
			l.log.Warn("cannot accept a connection; trying again", "error", err, "in", delay)
			time.Sleep(delay)
			continue
		default:
			return err
		}
		if l.open.Add(1) > int64(l.cfg.Connections) {
			l.open.Add(-1)
			l.turnAway(c)
			continue
		}
		if _, ok := c.(syscall.Conn); !ok && l.grpc == nil { // not a socket of the system's
			h := &handed{Conn: c, lane: l, stays: true}
			h.idle.Store(true)
			l.give(h)
			continue
		}
		l.adopt(c, false)
		_ = c.Close()
	}
}

// turnAway answers a connection that is one too many.
func (l *lane) turnAway(c net.Conn) {
	if l.grpc != nil {
		_ = c.Close()
		return
	}
	l.core.metrics.refuse(503)
	_ = c.SetWriteDeadline(time.Now().Add(time.Second))
	f := failure{status: 503, retry: true, last: true,
		text: fmt.Sprintf("too many connections: %d are open", l.cfg.Connections)}
	_, _ = c.Write(f.append(nil))
	_ = c.Close()
}

// adopt takes over what c, which the caller closes, stands for; where it is answered for the last
// time, only to drop what still comes. It is counted in open.
func (l *lane) adopt(c net.Conn, answered bool) {
	fd, err := duplicate(c)
	if err == nil {
		err = l.add(fd, answered)
	}
	if err != nil {
		l.open.Add(-1)
		l.log.Warn("cannot serve a connection", "error", err)
	}
}

// duplicate returns a file descriptor of its own for c, out of the reach of
// Go's poller.
func duplicate(c net.Conn) (int, error) {
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		return -1, err
	}
	fd := -1
	var fault error
	err = raw.Control(func(old uintptr) {
		fd, fault = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0)
	})
	return fd, errors.Join(err, fault)
}

// add puts a connection into a slot and starts to wait for its requests.
func (l *lane) add(fd int, answered bool) error {
	c := &conn{lane: l, fd: fd, since: l.clock.Load()}
	c.linger = answered && unix.Shutdown(fd, unix.SHUT_WR) == nil
	c.state.Store(owned)
	events := uint32(readable)
	if l.grpc != nil {
		c.session, events = newSession(c, l.grpc), readable|writable
	}
	l.mu.Lock()
	if len(l.free) == 0 { // open is counted before: cannot be
		l.mu.Unlock()
		_ = unix.Close(fd)
		return errors.New("no slot is free")
	}
	c.slot = l.free[len(l.free)-1]
	l.free = l.free[:len(l.free)-1]
	l.mu.Unlock()
	l.slots[c.slot].Store(c)
	if err := c.watch(unix.EPOLL_CTL_ADD, events); err != nil {
		l.leave(c)
		_ = unix.Close(fd)
		return fmt.Errorf("cannot watch a connection: %w", err)
	}
	c.park()
	return nil
}

// leave frees the connection's slot.
func (l *lane) leave(c *conn) {
	l.slots[c.slot].Store(nil)
	l.mu.Lock()
	l.free = append(l.free, c.slot)
	l.mu.Unlock()
}

// push lets the next poller serve c, which the caller owns.
func (l *lane) push(c *conn) {
	l.mu.Lock()
	l.ready = append(l.ready, c)
	first := len(l.ready) == 1
	l.mu.Unlock()
	if first {
		l.wake()
	}
}

// help lets the next poller drive v.
func (l *lane) help(v *model.Version) {
	l.mu.Lock()
	l.drive = append(l.drive, v)
	l.mu.Unlock()
	l.wake()
}

// takeReady returns what was pushed and who needs help; the arguments become
// the memory for what is next.
func (l *lane) takeReady(conns []*conn, versions []*model.Version) ([]*conn, []*model.Version) {
	clear(conns)
	clear(versions)
	l.mu.Lock()
	defer l.mu.Unlock()
	ready, drive := l.ready, l.drive
	l.ready, l.drive = conns[:0], versions[:0]
	return ready, drive
}

// wake makes one poller look at ready.
func (l *lane) wake() {
	one := uint64(1)
	_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(l.event), uintptr(unsafe.Pointer(&one)), 8)
}

// sweep looks for connections whose time is over.
func (l *lane) sweep() {
	tick := min(l.cfg.ReadTimeout, l.cfg.IdleTimeout) / 8
	ticker := time.NewTicker(max(time.Millisecond, min(tick, time.Second)))
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-l.done:
			return
		}
		l.clock.Store(batch.Now())
		l.each((*conn).checkTime)
	}
}

// each calls f with all connections that nobody else owns; f gives them up.
func (l *lane) each(f func(*conn)) {
	for i := range l.slots {
		if c := l.slots[i].Load(); c != nil && c.state.CompareAndSwap(free, owned) {
			f(c)
		}
	}
}

// closeAway closes those of the connections with fasthttp that f picks.
func (l *lane) closeAway(f func(*handed) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for c := range l.away {
		if f(c) {
			_ = c.Conn.Close()
		}
	}
}

// quietTime is for how long idle connections are kept when the lane ends. A
// request that is on its way when its connection is closed gets no answer; a
// client at work has sent one by then, and was told that it is the last.
const quietTime = 100 * time.Millisecond

// shutdown ends the lane when all connections have closed, at the latest when
// ctx is done. closing is set and nothing is accepted any more.
func (l *lane) shutdown(ctx context.Context) error {
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	l.each(l.push) // to say that the next answer is the last
	for quiet := time.Now().Add(quietTime); l.open.Load() > 0 && ctx.Err() == nil; {
		if time.Now().After(quiet) {
			l.ending.Store(true)
			l.each(l.push)
			l.closeAway(func(c *handed) bool { return c.stays && c.idle.Load() })
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
		}
	}
	l.each((*conn).close)
	l.closeAway(func(*handed) bool { return true })
	l.stopped.Store(true)
	close(l.done)
	l.wake()
	if l.open.Load() > 0 {
		return ctx.Err() // what is under way still uses the files
	}
	l.pollers.Wait()
	l.closeFiles()
	return nil
}
