package bench

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// connectTimeout bounds how long a run waits for its connections before it starts.
const connectTimeout = 5 * time.Second

// errNoAnswer is the reason when connecting took longer than connectTimeout.
var errNoAnswer = errors.New("no answer from the host")

// The states of a connection.
const (
	down       = iota // not connected; the next request connects it
	connecting        // the kernel connects; in a run a request waits for that
	idle              // connected
	busy              // a request is under way
)

// conn is one client. It belongs to its worker.
type conn struct {
	fd      int
	state   int
	life    int32 // how often it was connected: events of an older life are stale
	retryAt int64 // down: the earliest instant of the next attempt

	request  int // index of the one under way
	due      int64
	unsent   []byte
	got      []byte // received since the answer's start
	answer   answer
	measured bool
}

// backOff is the pause after a failed connect, so that a dead server is not hammered.
const backOff = int64(10 * time.Millisecond)

// tick is how often timeouts are looked for.
const tick = int64(10 * time.Millisecond)

// wakeEvent stands where events of connections have the client's index.
const wakeEvent = -1

// initialBuffer holds most answers; it grows with the ones that are larger.
const initialBuffer = 4 << 10

// worker drives its clients on one thread.
type worker struct {
	cfg      *Config
	prepared [][]byte
	family   int
	to       unix.Sockaddr
	plan     plan
	rec      *recorder

	epoll     int
	wake      int // eventfd; readable when the run shall stop
	stopped   atomic.Bool
	conns     []conn
	free      []int32 // idle conns, the last used on top
	dead      []int32 // conns that are down
	underWay  int
	freeSince int64 // when the last time a client became free while none was
	nextTick  int64
	good      int // good answers, to pick those that are checked
	events    [256]unix.EpollEvent
}

func newWorker(c *Config, prepared [][]byte, clients int) (*worker, error) {
	w := &worker{cfg: c, prepared: prepared, rec: newRecorder(),
		epoll: -1, wake: -1, conns: make([]conn, clients)}
	var err error
	if w.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return w, err
	}
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return w, err
	}
	e := unix.EpollEvent{Fd: wakeEvent, Events: unix.EPOLLIN}
	return w, unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, w.wake, &e)
}

// stop makes run return soon. It may be called from any goroutine.
func (w *worker) stop() {
	w.stopped.Store(true)
	one := [8]byte{1}
	_, _ = unix.Write(w.wake, one[:]) // The flag counts; a full counter wakes as well.
}

func (w *worker) close() {
	for i := range w.conns {
		if w.conns[i].state != down {
			_ = unix.Close(w.conns[i].fd)
		}
	}
	for _, fd := range []int{w.epoll, w.wake} {
		if fd >= 0 {
			_ = unix.Close(fd)
		}
	}
}

// connect brings up all connections before the clock starts.
func (w *worker) connect(ctx context.Context, family int, to unix.Sockaddr) error {
	w.family, w.to = family, to
	for i := range w.conns {
		w.conns[i].got = make([]byte, 0, initialBuffer)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, connectTimeout, errNoAnswer)
	defer cancel()
	for i := range w.conns {
		for w.conns[i].state != idle {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := w.advance(int32(i)); err != nil && err != unix.EAGAIN {
				return err
			}
		}
		w.free = append(w.free, int32(i))
	}
	return nil
}

// advance brings a client nearer to idle; EAGAIN says that it needs more time.
// A Unix socket whose queue is full gives EAGAIN without having begun.
func (w *worker) advance(i int32) error {
	c := &w.conns[i]
	if c.state == down {
		if err := w.open(i); err != nil {
			await(time.Millisecond)
			return err
		}
	}
	await(time.Duration(tick), unix.PollFd{Fd: int32(c.fd), Events: unix.POLLOUT})
	err := connected(c.fd)
	if err == nil {
		c.state = idle
	}
	return err
}

// open starts to connect a client that is down.
func (w *worker) open(i int32) error {
	c := &w.conns[i]
	fd, err := dial(w.family, w.to)
	if err != nil {
		return err
	}
	c.fd, c.state, c.life = fd, connecting, c.life+1
	e := unix.EpollEvent{Fd: i, Pad: c.life,
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET}
	return unix.EpollCtl(w.epoll, unix.EPOLL_CTL_ADD, fd, &e)
}

// connected says how far a connect is: nil, EAGAIN while it is under way, or its error.
func connected(fd int) error {
	if e, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
		return err
	} else if e != 0 {
		return unix.Errno(e)
	}
	if _, err := unix.Getpeername(fd); err == unix.ENOTCONN {
		return unix.EAGAIN
	} else if err != nil {
		return err
	}
	return nil
}
