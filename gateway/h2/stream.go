package h2

import (
	"slices"

	"golang.org/x/net/http2/hpack"
)

// Stream is one request and its answer. The handler has it from Opened until it
// calls Release; its methods may be called from any goroutine, and do nothing
// any more once the stream has ended.
type Stream struct {
	// App is the handler's. It is not touched here.
	App any

	conn   *Conn
	id     uint32
	length int64 // bytes that the body still has by its header, -1 if unknown. Of Receive.
	opened bool  // the handler knows of it. Of Receive.

	room chan struct{} // capacity 1: less waits to be sent

	// Guarded by conn.mu.
	received bool  // all that the client sends has come
	answered bool  // all that is sent was taken
	gone     bool  // no longer among the open ones
	released bool  // by the handler
	recv     int   // bytes that may come
	took     int   // bytes that the handler took, of which the client is not told yet
	window   int64 // bytes that may be sent
	pending  []byte
	sent     int                 // of pending
	ending   bool                // trailer follows pending
	trailer  []hpack.HeaderField // valid if ending
}

// Header sends a header. It comes before any Data; end says that nothing does.
func (s *Stream) Header(fields []hpack.HeaderField, end bool) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.answered || s.gone || c.dead {
		return
	}
	c.appendHeader(s.id, fields, end)
	if end {
		s.finish()
	}
}

// Data sends a part of the body. What the client takes not yet is kept: see Queued.
func (s *Stream) Data(data []byte) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.answered || s.ending || s.gone || c.dead {
		return
	}
	n := 0
	if s.sent == len(s.pending) {
		n = c.appendData(s, data)
	}
	if n == len(data) {
		return
	}
	if s.sent == len(s.pending) {
		s.pending, s.sent = s.pending[:0], 0
		c.blocked = append(c.blocked, s)
	}
	s.pending = append(s.pending, data[n:]...)
	c.waiting += len(data) - n
}

// End sends a trailer, which may be empty, behind what waits. The fields must not change
// afterwards.
func (s *Stream) End(trailer []hpack.HeaderField) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.answered || s.ending || s.gone || c.dead {
		return
	}
	s.trailer, s.ending = trailer, true
	if s.sent == len(s.pending) {
		c.appendTrailer(s)
	}
}

// Took says that n bytes of the body are no longer kept: as many may follow.
func (s *Stream) Took(n int) {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if s.took += n; s.took < c.cfg.Window/2 || s.received || s.answered || c.dead {
		return
	}
	c.out = appendUpdate(c.out, s.id, s.took)
	s.recv += s.took
	s.took = 0
}

// Queued returns how many bytes of Data the client does not take yet.
func (s *Stream) Queued() int {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	return len(s.pending) - s.sent
}

// Room is sent to when Queued has become 0.
func (s *Stream) Room() <-chan struct{} { return s.room }

// Release ends the handler's use of the stream. One that has not ended is reset.
func (s *Stream) Release() {
	c := s.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.gone && !s.answered && !s.ending {
		c.appendReset(s.id, InternalError)
		s.kill()
	}
	s.released = true
	c.busy--
	s.recycle()
}

// reserve counts n bytes that come. It returns false when the window has no
// room for them.
func (s *Stream) reserve(n int) bool {
	s.conn.mu.Lock()
	defer s.conn.mu.Unlock()
	if n > s.recv {
		return false
	}
	s.recv -= n
	s.refuse()
	s.leave()
	return true
}

// finish notes that the last frame is on its way. Callers hold conn.mu.
func (s *Stream) finish() {
	s.answered = true
	s.refuse()
	s.leave()
}

// refuse tells the client of a stream that is answered to send no more, unless the rest of what it
// sends may be short: it is dropped then, as some clients take a reset for a failure. Callers hold
// conn.mu.
func (s *Stream) refuse() {
	if c := s.conn; s.answered && !s.received && s.recv < c.cfg.Window/2 {
		c.appendReset(s.id, NoError)
		s.received = true
	}
}

// leave takes the stream out of the open ones when both sides have ended.
// Callers hold conn.mu.
func (s *Stream) leave() {
	if s.received && s.answered && !s.gone {
		s.gone = true
		delete(s.conn.streams, s.id)
		s.recycle()
	}
}

// kill ends the stream at once, and says whether the handler has to be told: not if it has nothing
// more to do with the stream. Callers hold conn.mu.
func (s *Stream) kill() (tell bool) {
	if s.gone {
		return false
	}
	c := s.conn
	tell = !s.answered && !s.released
	s.received, s.answered = true, true
	if i := slices.Index(c.blocked, s); i >= 0 {
		c.blocked = slices.Delete(c.blocked, i, i+1)
	}
	c.waiting -= len(s.pending) - s.sent
	s.pending, s.sent = s.pending[:0], 0
	s.tell()
	s.leave()
	return tell
}

// tell wakes who waits for room. Callers hold conn.mu.
func (s *Stream) tell() {
	select {
	case s.room <- struct{}{}:
	default:
	}
}

// keepStreams bounds the streams whose memory is kept.
const keepStreams = 64

// recycle keeps the memory of a stream that nobody uses. Callers hold conn.mu.
func (s *Stream) recycle() {
	if !s.gone || !s.released {
		return
	}
	c := s.conn
	pending := s.pending[:0]
	if cap(pending) > keepBytes {
		pending = nil
	}
	select {
	case <-s.room:
	default:
	}
	// What belongs to Receive, and App, are as they were: it may look at them still.
	s.pending, s.sent, s.ending, s.trailer = pending, 0, false, nil
	s.received, s.answered, s.gone, s.released = false, false, false, false
	s.took = 0
	if len(c.free) < keepStreams {
		c.free = append(c.free, s)
	}
}
