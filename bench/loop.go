package bench

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// Causes of failed requests.
var (
	errTimeout = errors.New("timeout")
	errQueued  = errors.New("timeout before it could be sent: all clients were busy")
	errClosed  = errors.New("connection closed before the answer was complete")
	errSurplus = errors.New("bytes after the end of the answer")
	errTooLong = errors.New("answer too long")
)

// run sends the worker's share of the load and returns what it measured. It
// ends when each request has an answer, has failed or is too old, or soon
// after stop.
func (w *worker) run() share {
	exactTimers()
	var before time.Duration
	running := false // into what is measured
	now := w.plan.now()
	for !w.finished(now) {
		if !running && now >= w.plan.from {
			running, before = true, cpuTime(unix.RUSAGE_THREAD)
		}
		w.issue(now)
		n := ready(w.epoll, w.events[:])
		if n == 0 {
			await(w.pause(), unix.PollFd{Fd: int32(w.epoll), Events: unix.POLLIN})
			n = ready(w.epoll, w.events[:])
		}
		for i := range w.events[:n] {
			w.handle(&w.events[i])
		}
		if now = w.plan.now(); now >= w.nextTick {
			w.expire(now)
			w.nextTick = now + tick
		}
	}
	s := share{rec: w.rec}
	if running {
		s.busy = cpuTime(unix.RUSAGE_THREAD) - before
	}
	return s
}

func (w *worker) finished(now int64) bool {
	_, more := w.plan.due(now)
	return w.stopped.Load() || !more && w.underWay == 0
}

// pause returns how long nothing is to be done but to wait for events.
func (w *worker) pause() time.Duration {
	now, until := w.plan.now(), w.nextTick
	if at, ok := w.plan.due(now); ok && len(w.free) > 0 {
		until = min(until, at)
	}
	return time.Duration(until - now)
}

// issue sends what is due, as far as there are clients for it.
func (w *worker) issue(now int64) {
	for {
		at, ok := w.plan.due(now)
		if !ok || at > now {
			return
		}
		i, ok := w.client(now)
		if !ok {
			return
		}
		w.begin(i, at, now)
		now = w.plan.now()
	}
}

// client takes a client that is free, or one that may try to connect again.
func (w *worker) client(now int64) (i int32, ok bool) {
	if n := len(w.free) - 1; n >= 0 {
		i, w.free = w.free[n], w.free[:n]
		return i, true
	}
	for k, i := range w.dead {
		if w.conns[i].retryAt <= now {
			w.dead = slices.Delete(w.dead, k, k+1)
			return i, true
		}
	}
	return 0, false
}

// begin gives the request that was due at that instant to client i.
func (w *worker) begin(i int32, at, now int64) {
	c := &w.conns[i]
	number := w.plan.take(at)
	c.request = int(number % int64(len(w.prepared)))
	c.due, c.measured = at, w.plan.measured(at)
	c.unsent, c.got, c.answer = w.prepared[c.request], c.got[:0], answer{}
	w.underWay++
	if c.measured {
		w.rec.bytesOut += int64(len(c.unsent))
	}
	if c.state == down {
		if err := w.open(i); err != nil {
			w.fail(i, err)
		}
		return
	}
	if c.measured && w.cfg.Rate > 0 {
		w.rec.lateness.add(now - max(at, w.freeSince))
	}
	c.state = busy
	w.write(i)
}

// write sends as much as the socket takes; an event tells when it takes more.
func (w *worker) write(i int32) {
	c := &w.conns[i]
	for len(c.unsent) > 0 {
		n, errno := send(c.fd, c.unsent)
		switch errno {
		case 0:
			c.unsent = c.unsent[n:]
		case unix.EINTR:
		case unix.EAGAIN:
			return
		default: // The server may have answered before it hung up.
			w.read(i, true)
			return
		}
	}
}

// handle acts on one event, and sends what has become possible by it.
func (w *worker) handle(e *unix.EpollEvent) {
	if e.Fd == wakeEvent {
		return
	}
	c := &w.conns[e.Fd]
	if c.state == down || c.life != e.Pad {
		return
	}
	if c.state == connecting {
		if err := connected(c.fd); err == unix.EAGAIN {
			return
		} else if err != nil {
			w.fail(e.Fd, err)
			return
		}
		c.state = busy
	}
	if len(c.unsent) > 0 {
		w.write(e.Fd)
	}
	hungUp := e.Events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0
	if (hungUp || e.Events&unix.EPOLLIN != 0) && c.state != down {
		w.read(e.Fd, hungUp)
	}
	w.issue(w.plan.now())
}

// read takes what has arrived. A read that does not fill the buffer has emptied
// the socket, except for the end of the stream, which hungUp announces.
func (w *worker) read(i int32, hungUp bool) {
	c := &w.conns[i]
	for {
		if len(c.got) == cap(c.got) && !c.grow() {
			w.fail(i, errTooLong)
			return
		}
		space := c.got[len(c.got):cap(c.got)]
		n, errno := receive(c.fd, space)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
			return
		case errno != 0:
			w.fail(i, errno)
			return
		case n == 0:
			w.ended(i)
			return
		case c.state != busy:
			w.fail(i, errSurplus)
			return
		}
		c.got = c.got[:len(c.got)+n]
		size, done, err := c.answer.feed(c.got, w.bodiless(c))
		switch {
		case err != nil:
			w.fail(i, err)
			return
		case done && size != len(c.got):
			w.fail(i, errSurplus)
			return
		case done:
			w.finish(i, hungUp)
			return
		case n < len(space) && !hungUp:
			return
		}
	}
}

// grow makes room for the rest of the answer.
func (c *conn) grow() bool {
	size := 2 * cap(c.got)
	if a := &c.answer; a.head > 0 && a.length != lengthUnknown && !a.chunked {
		size = max(a.head+a.length, len(c.got)+1)
	}
	if size > maxHead+maxAnswer {
		return false
	}
	c.got = slices.Grow(c.got, size-len(c.got))
	return true
}

func (w *worker) bodiless(c *conn) bool { return w.cfg.Requests[c.request].Method == "HEAD" }

// ended acts on the end of the stream, which may be the end of the answer.
func (w *worker) ended(i int32) {
	c := &w.conns[i]
	a := &c.answer
	if c.state == busy && a.head > 0 && a.length == lengthUnknown && !a.chunked {
		w.finish(i, true)
		return
	}
	w.fail(i, errClosed)
}

// finish records the answer of client i and makes the client free again.
func (w *worker) finish(i int32, hungUp bool) {
	c := &w.conns[i]
	now := w.plan.now()
	good := c.answer.good()
	if c.measured {
		good = w.record(c, now)
	}
	if good && w.plan.within(now) {
		w.rec.served++
	}
	w.underWay--
	if hungUp || c.answer.close || len(c.unsent) > 0 {
		w.hangUp(i, now)
		return
	}
	if len(w.free) == 0 {
		w.freeSince = now
	}
	c.state = idle
	w.free = append(w.free, i)
}

// maxExcerpt is how much of an error answer goes into the error's text.
const maxExcerpt = 160

// record takes down the answer of client c and says whether it is a good one.
func (w *worker) record(c *conn, now int64) bool {
	a := &c.answer
	w.rec.codes[a.status]++
	w.rec.bytesIn += int64(len(c.got))
	body := c.got[a.head : a.head+a.body]
	if !a.good() {
		text := bytes.ToValidUTF8(body[:min(len(body), maxExcerpt)], nil)
		w.rec.fail(now, fmt.Sprintf("status %d: %s", a.status, text))
		return false
	}
	w.good++
	if w.cfg.Check != nil && w.good%w.cfg.CheckEvery == 0 {
		if err := w.cfg.Check(c.request, body); err != nil {
			w.rec.fail(now, "wrong answer: "+err.Error())
			return false
		}
	}
	w.rec.good(now, now-c.due)
	return true
}

// fail ends the connection of client i and with it the request under way, if
// there is one: a server may close a connection that it does not use.
func (w *worker) fail(i int32, err error) {
	c := &w.conns[i]
	now := w.plan.now()
	if c.state == idle {
		w.free = slices.DeleteFunc(w.free, func(k int32) bool { return k == i })
		w.hangUp(i, now)
		return
	}
	if c.measured {
		w.rec.fail(now, err.Error())
	}
	w.underWay--
	w.hangUp(i, now+backOff)
}

// hangUp takes client i down until retryAt.
func (w *worker) hangUp(i int32, retryAt int64) {
	c := &w.conns[i]
	if c.state != down {
		_ = unix.Close(c.fd)
	}
	c.state, c.retryAt, c.unsent = down, retryAt, nil
	w.dead = append(w.dead, i)
}

// expire fails the requests that are too old: those under way and those that
// wait for a client.
func (w *worker) expire(now int64) {
	oldest := now - int64(w.cfg.Timeout)
	for i := range w.conns {
		c := &w.conns[i]
		if (c.state == busy || c.state == connecting) && c.due < oldest {
			w.fail(int32(i), errTimeout)
		}
	}
	for {
		at, ok := w.plan.due(now)
		if !ok || at >= oldest {
			return
		}
		w.plan.take(at)
		if w.plan.measured(at) {
			w.rec.fail(now, errQueued.Error())
		}
	}
}
