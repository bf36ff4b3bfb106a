package gateway

import (
	"bytes"
	"errors"
	"net"
	"os"
	"slices"
	"strconv"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/gateway/cache"
)

// conn is one connection in the lane. It has one owner at a time: a poller, or
// the run that its request is in. One request is under way at a time.
type conn struct {
	lane  *lane
	fd    int
	slot  int32
	state atomic.Uint32

	session *session // of a connection that speaks HTTP/2, else nil

	// Of the owner.
	head   head
	x      *Exchange // whose body is being read, or that is submitted
	in     []byte    // bytes that were read and not yet used
	out    []byte    // bytes of answers that could not be written yet
	since  int64     // when the wait for the client began, by the lane's clock
	more   bool      // the socket may hold bytes, or their end, of which no event will tell
	last   bool      // close after the answer
	unread bool      // the answer came before the end of the request
	linger bool      // answered and closed for writing: what comes is dropped
	broken bool      // the client is gone
}

// Values of conn.state.
const (
	free uint32 = iota // waits for an event
	owned
	eventful // owned, and an event came meanwhile
)

const (
	readable = unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLET
	writable = unix.EPOLLOUT
)

// own takes a connection for an event. When it has an owner, that one is told.
func (c *conn) own() bool {
	for {
		if c.state.CompareAndSwap(free, owned) {
			return true
		}
		if c.state.CompareAndSwap(owned, eventful) || c.state.Load() == eventful {
			return false
		}
	}
}

// park gives the connection up until its next event.
func (c *conn) park() {
	if !c.state.CompareAndSwap(owned, free) {
		c.state.Store(owned)
		c.lane.push(c)
	}
}

// watch sets the events that are waited for.
func (c *conn) watch(op int, events uint32) error {
	ev := unix.EpollEvent{Events: events, Fd: c.slot}
	return unix.EpollCtl(c.lane.epoll, op, c.fd, &ev)
}

// verdict says who has the connection after a step.
type verdict uint8

const (
	proceed verdict = iota // its owner, who goes on
	pause                  // its owner, who has to wait for the client
	gone                   // somebody else, or nobody
)

// serve does what can be done for the connection, which the caller owns, and
// gives it up.
func (c *conn) serve(p *poller) {
	for {
		switch c.step(p) {
		case gone:
			return
		case pause:
			if c.lane.ending.Load() && c.idle() {
				c.close()
				return
			}
			c.park()
			return
		}
	}
}

// idle says that nothing is under way.
func (c *conn) idle() bool {
	if c.session != nil {
		return c.session.h2.Idle()
	}
	return c.x == nil && len(c.in) == 0 && len(c.out) == 0
}

func (c *conn) step(p *poller) verdict {
	switch {
	case c.broken:
		c.close()
		return gone
	case c.linger:
		return c.drop(p)
	case len(c.out) > 0:
		return c.flush()
	case c.last:
		return c.hangUp()
	case c.session != nil:
		return c.session.step(p)
	case c.x != nil:
		return c.readBody(p)
	}
	return c.readHead(p)
}

// read returns the number of bytes that have come: 0 with pause for none yet,
// with gone when the client sends no more.
func (c *conn) read(dst []byte) (int, verdict) {
	for {
		n, _, errno := unix.RawSyscall(unix.SYS_READ, uintptr(c.fd),
			uintptr(unsafe.Pointer(unsafe.SliceData(dst))), uintptr(len(dst)))
		switch {
		case errno == 0 && n > 0:
			return int(n), proceed
		case errno == unix.EAGAIN:
			return 0, pause
		case errno != unix.EINTR:
			return 0, gone
		}
	}
}

// After a request with a body of largeBody bytes no more than headFirst are read of the next before
// its head is known: what comes with it would have to be copied to where the body belongs.
const headFirst, largeBody = 4 << 10, 16 << 10

// readHead reads a request up to the end of its head, and mostly its body.
func (c *conn) readHead(p *poller) verdict {
	n := copy(p.buf, c.in)
	c.in = c.in[:0]
	room := p.buf[n:]
	if c.head.body >= largeBody && len(room) > headFirst {
		room = room[:headFirst]
	}
	m, v := c.read(room)
	switch {
	case v == pause:
		c.more = false
	case v == gone || m == len(room):
		c.more = true
	}
	data := p.buf[:n+m]
	if n == 0 {
		c.since = c.lane.clock.Load()
	}
	if len(data) == 0 {
		if v == gone {
			c.close()
		}
		return v
	}
	switch c.head.parse(data) {
	case headOther:
		return c.handOver(data)
	case headPartial:
		if len(data) >= c.lane.cfg.HeaderBytes {
			return c.handOver(data)
		}
		if v == gone {
			c.close()
			return gone
		}
		c.in = append(c.in, data...)
		if c.more {
			return proceed
		}
		return pause
	}
	return c.begin(p, data)
}

// begin admits the request at the start of data and takes its body in.
func (c *conn) begin(p *poller, data []byte) verdict {
	h := &c.head
	body := data[h.bytes:]
	if len(body) > h.body {
		c.in = append(c.in, body[h.body:]...)
		body = body[:h.body]
	}
	x, err := c.lane.core.admit(h)
	if err != nil {
		c.unread = len(body) < h.body
		c.last = c.last || c.unread
		c.send(c.appendFailure(nil, err, h.dialect))
		return proceed
	}
	c.x = x
	x.home = p.number
	x.body = append(x.body[:0], body...)
	if len(body) < h.body {
		return c.readBody(p)
	}
	return c.submit(p)
}

// readBody reads what is missing of a body.
func (c *conn) readBody(p *poller) verdict {
	x := c.x
	for len(x.body) < c.head.body {
		n, v := c.read(x.body[len(x.body):c.head.body])
		if v == gone {
			c.close()
		}
		if v != proceed {
			return v
		}
		x.body = x.body[:len(x.body)+n]
	}
	c.more = true
	return c.submit(p)
}

// submit decodes the request and puts it into its model's queue.
func (c *conn) submit(p *poller) verdict {
	x := c.x
	x.Deadline(int64(c.head.timeout) * 1_000_000)
	err := c.lane.core.Decode(x, x.body, c.head.json)
	if err == nil {
		v := x.Version
		var answered bool
		if answered, err = c.lane.core.submit(x, c); err == nil && !answered {
			p.touch(v)
			return gone
		}
	}
	c.x = nil
	c.answer(x, err)
	return proceed
}

// Help lets another poller drive the version that the request is for.
func (c *conn) Help() { c.lane.help(c.x.Version) }

// Finished answers the request that was submitted.
func (c *conn) Finished() {
	x := c.x
	c.x = nil
	c.answer(x, x.outcome())
	c.done()
}

// Landed answers a request that waited for the run of an equal one.
func (c *conn) Landed() {
	x := c.x
	waits, err := c.lane.landed(x)
	if waits {
		return
	}
	c.x = nil
	c.answer(x, err)
	c.done()
}

// landed takes the outcome of an equal request's run. When there is no answer x
// has a run of its own, which it waits for.
func (l *lane) landed(x *Exchange) (waits bool, err error) {
	outputs, err := x.joined()
	if errors.Is(err, cache.ErrRetry) {
		x.flight.alone()
		v := x.Version
		if err = v.Submit(&x.Ticket); err == nil {
			l.help(v)
			return true, nil
		}
	}
	if err == nil {
		x.collect(outputs)
	}
	return false, err
}

// done gives the connection up after an answer from outside of its poller.
func (c *conn) done() {
	if c.last || c.more || c.broken || len(c.in) > 0 {
		c.lane.push(c)
		return
	}
	c.park()
}

// answer sends the outcome of a request and ends it.
func (c *conn) answer(x *Exchange, err error) {
	core := c.lane.core
	var out []byte
	if err == nil {
		out, err = c.encode(x)
	}
	if err != nil {
		out = c.appendFailure(x.out[:0], err, x.dialect)
	}
	core.settle(x, err)
	c.send(out)
	core.free(x)
	c.since = c.lane.clock.Load()
}

// appendFailure appends an error's answer.
func (c *conn) appendFailure(dst []byte, err error, d dialect) []byte {
	f := c.lane.core.failure(err, d)
	c.last = c.last || c.lane.closing.Load()
	f.last = c.last
	return f.append(dst)
}

// headRoom is what the head of an answer mostly has at most.
const headRoom = 384

// encode returns the answer, in memory of the Exchange.
func (c *conn) encode(x *Exchange) (answer []byte, err error) {
	var room [headRoom]byte
	out, jsonLen, err := c.lane.core.Encode(append(x.out[:0], room[:]...), x)
	x.out = out[:0]
	if err != nil {
		return nil, err
	}
	body := out[headRoom:]
	packed := compress(nil, body, c.head.accept)
	if packed != nil {
		body = packed
	}
	head := append(room[:0], "HTTP/1.1 200 OK\r\nContent-Type: application/"...)
	if jsonLen < 0 {
		head = append(head, "json"...)
	} else {
		head = append(head, "octet-stream\r\nInference-Header-Content-Length: "...)
		head = strconv.AppendInt(head, int64(jsonLen), 10)
	}
	if packed != nil {
		head = append(head, "\r\nContent-Encoding: "...)
		head = append(head, c.head.accept.name()...)
	}
	x.Headers(func(name string, value []byte) {
		head = append(append(append(append(head, "\r\n"...), name...), ": "...), value...)
	})
	head = append(head, "\r\nContent-Length: "...)
	head = strconv.AppendInt(head, int64(len(body)), 10)
	if c.last = c.last || c.lane.closing.Load(); c.last {
		head = append(head, "\r\nConnection: close"...)
	}
	head = append(head, "\r\n\r\n"...)
	if packed != nil || len(head) > headRoom {
		return slices.Concat(head, body), nil
	}
	from := headRoom - len(head)
	copy(out[from:], head)
	return out[from:], nil
}

// send writes an answer, and keeps what the client does not take yet.
func (c *conn) send(out []byte) {
	n, ok := c.write(out)
	if !ok {
		c.broken = true
		return
	}
	if n < len(out) {
		c.since = c.lane.clock.Load()
		c.out = append(c.out[:0], out[n:]...)
		_ = c.watch(unix.EPOLL_CTL_MOD, readable|writable)
	}
}

// write returns how many bytes the socket took, and whether it takes any more.
func (c *conn) write(data []byte) (int, bool) {
	done := 0
	for done < len(data) {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(c.fd),
			uintptr(unsafe.Pointer(&data[done])), uintptr(len(data)-done), unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			done += int(n)
		case unix.EAGAIN:
			return done, true
		case unix.EINTR:
		default:
			return done, false
		}
	}
	return done, true
}

// flush writes what is left of answers.
func (c *conn) flush() verdict {
	n, ok := c.write(c.out)
	if !ok {
		c.close()
		return gone
	}
	if n > 0 {
		c.since = c.lane.clock.Load()
	}
	if n < len(c.out) {
		c.out = append(c.out[:0], c.out[n:]...)
		return pause
	}
	c.out = nil
	_ = c.watch(unix.EPOLL_CTL_MOD, readable)
	return proceed
}

// hangUp ends a connection after its last answer. A client that still sends
// must be able to read that answer: what it sends is read and dropped, since
// the kernel would otherwise reset the connection.
func (c *conn) hangUp() verdict {
	if !c.unread || unix.Shutdown(c.fd, unix.SHUT_WR) != nil {
		c.close()
		return gone
	}
	c.linger = true
	c.in = nil
	c.since = c.lane.clock.Load()
	return proceed
}

// drop reads and forgets.
func (c *conn) drop(p *poller) verdict {
	for {
		_, v := c.read(p.buf)
		if v == gone {
			c.close()
		}
		if v != proceed {
			return v
		}
	}
}

// close ends the connection, which the caller owns.
func (c *conn) close() {
	if x := c.x; x != nil {
		c.x = nil
		c.lane.core.Finish(x, errShortBody)
	}
	c.lane.leave(c)
	if c.session != nil {
		c.session.close()
	} else {
		_ = unix.Close(c.fd)
	}
	c.lane.open.Add(-1)
}

// lingerTime bounds how long a client may take to read its last answer.
const lingerTime = 2_000_000_000

// checkTime ends the connection when it has waited for too long, and gives it up.
func (c *conn) checkTime() {
	l := c.lane
	waited := l.clock.Load() - c.since
	switch {
	case c.linger:
		if waited > lingerTime {
			c.close()
			return
		}
	case c.session != nil:
		if c.session.stalled(waited) {
			c.close()
			return
		}
	case len(c.out) > 0:
		if waited > int64(l.cfg.ReadTimeout) {
			c.close()
			return
		}
	case c.x != nil || len(c.in) > 0:
		if waited > int64(l.cfg.ReadTimeout) {
			c.late()
			return
		}
	case waited > int64(l.cfg.IdleTimeout):
		c.close()
		return
	}
	c.park()
}

// late answers a request that did not arrive in time, and gives the connection up.
func (c *conn) late() {
	x := c.x
	c.x, c.in = nil, nil
	c.last, c.unread = true, true
	if x != nil {
		c.answer(x, ErrTooSlow)
	} else {
		c.lane.core.metrics.refuse(408)
		c.send(c.appendFailure(nil, ErrTooSlow, dialectOIP))
	}
	c.lane.push(c)
}

// handOver gives the connection to fasthttp, with the bytes that were read.
func (c *conn) handOver(data []byte) verdict {
	l := c.lane
	_ = unix.EpollCtl(l.epoll, unix.EPOLL_CTL_DEL, c.fd, nil)
	l.leave(c)
	file := os.NewFile(uintptr(c.fd), "connection")
	nc, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		l.open.Add(-1)
		l.log.Warn("cannot serve a connection", "error", err)
		return gone
	}
	l.give(&handed{Conn: nc, lane: l, prefix: bytes.Clone(data)})
	return gone
}
