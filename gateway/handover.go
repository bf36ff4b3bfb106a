package gateway

import (
	"io"
	"net"
	"sync/atomic"

	"github.com/valyala/fasthttp"
)

// handed is a connection that the lane has handed over to fasthttp, with the
// bytes that were read of it, until the request is answered. It then goes back.
type handed struct {
	net.Conn
	lane   *lane
	prefix []byte
	stays  bool        // until it closes: the lane cannot wait for it
	idle   atomic.Bool // between two requests
	back   atomic.Bool // the lane takes it on Close
	closed atomic.Bool
	late   atomic.Bool // a read has timed out
	unread atomic.Bool // answered before the end of the request
}

// Read ends the stream where fasthttp would wait for the next request.
func (c *handed) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	if c.idle.Load() && !c.stays {
		c.back.Store(true)
		return 0, io.EOF
	}
	n, err := c.Conn.Read(p)
	if isTimeout(err) {
		c.late.Store(true)
	}
	return n, err
}

// Close gives the connection back to the lane after Read has ended it, and for the client to
// read its answer where it still sends.
func (c *handed) Close() error {
	if c.closed.Swap(true) {
		return nil
	}
	l := c.lane
	l.mu.Lock()
	delete(l.away, c)
	l.mu.Unlock()
	switch {
	case c.back.Load():
		l.adopt(c.Conn, false)
	case c.unread.Load() && !c.stays:
		l.adopt(c.Conn, true)
	default:
		l.open.Add(-1)
	}
	return c.Conn.Close()
}

// give hands a connection over.
func (l *lane) give(c *handed) {
	l.mu.Lock()
	l.away[c] = struct{}{}
	l.mu.Unlock()
	select {
	case l.other.conns <- c:
	case <-l.other.done:
		_ = c.Close()
	}
}

// track is told by fasthttp what becomes of a connection.
func track(c net.Conn, s fasthttp.ConnState) {
	if h, ok := c.(*handed); ok {
		h.idle.Store(s == fasthttp.StateIdle)
	}
}

// leftUnread says that what is left of a request will not be read: the connection ends, and its
// client may be sending still.
func leftUnread(ctx *fasthttp.RequestCtx) {
	ctx.SetConnectionClose()
	if c, ok := ctx.Conn().(*handed); ok {
		c.unread.Store(true)
	}
}

// handovers is the listener at which fasthttp finds the connections.
type handovers struct {
	conns chan net.Conn
	done  chan struct{}
	addr  net.Addr
}

func (h *handovers) Accept() (net.Conn, error) {
	select {
	case c := <-h.conns:
		return c, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handovers) Close() error {
	close(h.done)
	return nil
}

func (h *handovers) Addr() net.Addr { return h.addr }
