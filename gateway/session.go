package gateway

import (
	"slices"
	"sync"

	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/gateway/h2"
)

// session is the HTTP/2 of a connection in the lane. Its owner reads; answers are written by
// whoever has one.
type session struct {
	conn *conn
	grpc *GRPC
	h2   *h2.Conn
	p    *poller // who reads
	said uint8   // how far the client knows that the server ends
	// reading are the calls whose message has not come to its end, the oldest first. Of the owner.
	reading []*call

	writing sync.Mutex // held while the socket is written to or closed
	closed  bool       // guarded by writing

	mu       sync.Mutex
	calls    []*call // memory. Guarded by mu, as all below.
	underWay int     // calls that are submitted
	queued   bool    // in lane.later
}

func newSession(c *conn, g *GRPC) *session {
	s := &session{conn: c, grpc: g}
	s.h2 = h2.New(g.h2, s, s.write)
	return s
}

// step reads what has come and does what can be done at once.
func (s *session) step(p *poller) verdict {
	c := s.conn
	s.p = p
	c.since = c.lane.clock.Load() // the client has sent something, or has read
	s.farewell()
	switch {
	case !s.h2.Flush(true):
		c.close()
		return gone
	case s.h2.Stuck(): // an event tells when there is room again
		return pause
	}
	n, v := c.read(p.buf)
	switch v {
	case gone:
		c.close()
		return gone
	case pause:
		c.more = false
		return pause
	}
	err := s.h2.Receive(p.buf[:n])
	s.h2.Flush(false)
	if err != nil {
		c.lane.log.Debug("a client broke HTTP/2", "error", err)
		s.h2.End()
		c.unread = true
		return c.hangUp()
	}
	if n == len(p.buf) || c.more {
		c.more = n == len(p.buf)
		return proceed
	}
	return pause
}

// farewell tells the client that the server ends: first that it should open no more streams, then
// that those which it opens are refused.
func (s *session) farewell() {
	l := s.conn.lane
	if s.said == 0 && l.closing.Load() {
		s.said = 1
		s.h2.Leave(false)
	}
	if s.said == 1 && l.ending.Load() {
		s.said = 2
		s.h2.Leave(true)
	}
}

// whole is called when no more of a call's message is waited for.
func (s *session) whole(c *call) {
	if i := slices.Index(s.reading, c); i >= 0 {
		s.reading = slices.Delete(s.reading, i, i+1)
	}
}

// stalled says whether the client has taken too long to begin, or to read. Calls whose message
// takes too long are answered.
func (s *session) stalled(waited int64) bool {
	l := s.conn.lane
	limit := int64(l.cfg.ReadTimeout)
	for len(s.reading) > 0 && l.clock.Load()-s.reading[0].began > limit {
		c := s.reading[0]
		s.whole(c)
		c.answer(ErrTooSlow)
		s.h2.Flush(false)
	}
	return waited > limit && (!s.h2.Begun() || s.h2.Unsent() > 0)
}

// write is what the connection writes by.
func (s *session) write(data []byte) (int, bool) {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.closed {
		return 0, false
	}
	return s.conn.write(data)
}

// close ends the session and its connection.
func (s *session) close() {
	s.h2.End()
	s.writing.Lock()
	defer s.writing.Unlock()
	s.closed = true
	_ = unix.Close(s.conn.fd)
}

// finished is called when an answer has been made. It is written at once, or with those to other
// requests of the same client after the runs under way.
func (s *session) finished() {
	l := s.conn.lane
	s.mu.Lock()
	s.underWay--
	wait := s.underWay > 0
	add := wait && !s.queued
	s.queued = s.queued || wait
	s.mu.Unlock()
	if !wait {
		s.h2.Flush(false)
		return
	}
	if !add {
		return
	}
	l.mu.Lock()
	l.later = append(l.later, s)
	l.laters.Store(int32(len(l.later)))
	l.mu.Unlock()
	if l.driving.Load() == 0 {
		l.wake()
	}
}

// flushLater writes the answers that have waited for others.
func (p *poller) flushLater() {
	l := p.lane
	if l.laters.Load() == 0 {
		return
	}
	clear(p.later)
	l.mu.Lock()
	p.later, l.later = l.later, p.later[:0]
	l.laters.Store(0)
	l.mu.Unlock()
	for _, s := range p.later {
		s.mu.Lock()
		s.queued = false
		s.mu.Unlock()
		s.h2.Flush(false)
	}
}

// Opened implements h2.Handler.
func (s *session) Opened(st *h2.Stream, fields []hpack.HeaderField, end bool) {
	if timeout, ok := plainInfer(fields); ok && !end {
		c := s.newCall(st)
		c.fields, c.timeout = append(c.fields[:0], fields...), timeout
		c.began = s.conn.lane.clock.Load()
		s.reading = append(s.reading, c)
		st.App = c
		return
	}
	st.App = s.grpc.start(s, st, fields, end)
}

// body is what a stream's data goes to.
type body interface {
	data(data []byte, end bool)
	reset()
}

// Data implements h2.Handler.
func (s *session) Data(st *h2.Stream, data []byte, end bool) { st.App.(body).data(data, end) }

// Reset implements h2.Handler.
func (s *session) Reset(st *h2.Stream) { st.App.(body).reset() }

// newCall takes a call from those that were used before.
func (s *session) newCall(st *h2.Stream) *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c *call
	if n := len(s.calls); n > 0 {
		c, s.calls = s.calls[n-1], s.calls[:n-1]
	} else {
		c = &call{session: s}
	}
	c.stream, c.have, c.need, c.over = st, 0, 0, false
	return c
}
