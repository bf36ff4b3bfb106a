package h2

import (
	"encoding/binary"
	"slices"

	"golang.org/x/net/http2/hpack"
)

// keepBytes bounds the memory that stays with what is not used.
const keepBytes = 64 << 10

// tableBytes bounds the table of fields that were sent.
const tableBytes = 4096

// appendHeader appends a header to what is to be written. Callers hold mu.
func (c *Conn) appendHeader(id uint32, fields []hpack.HeaderField, end bool) {
	c.encoded.Reset()
	for i := range fields {
		_ = c.encoder.WriteField(fields[i]) // a bytes.Buffer takes all
	}
	f := frame{kind: frameHeaders, stream: id}
	if end {
		f.flags = flagEndStream
	}
	for {
		block := c.encoded.Next(c.most)
		f.length = len(block)
		if c.encoded.Len() == 0 {
			f.flags |= flagEndHeaders
		}
		c.out = append(f.append(c.out), block...)
		if f.has(flagEndHeaders) {
			return
		}
		f = frame{kind: frameContinuation, stream: id}
	}
}

// appendData appends as much of data as the windows allow, and returns how much
// that is. Callers hold mu.
func (c *Conn) appendData(s *Stream, data []byte) (done int) {
	for done < len(data) {
		n := min(len(data)-done, c.most, int(min(s.window, c.window)))
		if n <= 0 {
			break
		}
		c.out = frame{length: n, kind: frameData, stream: s.id}.append(c.out)
		c.out = append(c.out, data[done:done+n]...)
		s.window -= int64(n)
		c.window -= int64(n)
		done += n
	}
	return done
}

// appendTrailer ends the stream. Callers hold mu.
func (c *Conn) appendTrailer(s *Stream) {
	if len(s.trailer) > 0 {
		c.appendHeader(s.id, s.trailer, true)
	} else {
		c.out = frame{kind: frameData, flags: flagEndStream, stream: s.id}.append(c.out)
	}
	s.finish()
}

// appendReset appends an RST_STREAM. Callers hold mu.
func (c *Conn) appendReset(id uint32, code Code) {
	c.reset = true
	c.out = frame{length: 4, kind: frameReset, stream: id}.append(c.out)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
}

// pump sends what has waited for a window. Each stream gets one frame at a time.
// Callers hold mu.
func (c *Conn) pump() {
	for progress := true; progress && c.window > 0; {
		progress = false
		c.blocked = slices.DeleteFunc(c.blocked, func(s *Stream) bool {
			rest := s.pending[s.sent:]
			n := c.appendData(s, rest[:min(len(rest), c.most)])
			s.sent += n
			c.waiting -= n
			progress = progress || n > 0
			if s.sent < len(s.pending) {
				return false
			}
			s.pending, s.sent = s.pending[:0], 0
			s.tell()
			if s.ending {
				c.appendTrailer(s)
			}
			return true
		})
	}
}

// Flush writes what has gathered, unless somebody else does or the socket takes
// no more; writable says that it does again. It returns false when the connection is broken.
func (c *Conn) Flush(writable bool) (ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.full = c.full && !writable
	for len(c.out) > 0 && !c.flushing && !c.full && !c.dead {
		data := c.out
		c.out, c.flushing = c.spare[:0], true
		c.mu.Unlock()
		n, ok := c.write(data)
		c.mu.Lock()
		c.flushing = false
		switch {
		case !ok:
			c.dead = true
		case n < len(data):
			c.full = true
			c.out, c.spare = append(data[:copy(data, data[n:])], c.out...), c.out
		default:
			c.spare = data
		}
	}
	if cap(c.spare) > keepBytes {
		c.spare = nil
	}
	if c.dead {
		c.out = nil
	}
	return !c.dead
}

// Stuck says that the socket takes no more, and much is left.
func (c *Conn) Stuck() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full && len(c.out) > muchUnsent
}

// muchUnsent is how much may wait for a client that does not read before it should not be
// read from.
const muchUnsent = 1 << 20

// goAway says that the connection ends because of err.
func (c *Conn) goAway(err *Error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.appendGoAway(c.last, err.Code, err.Reason)
	c.refuse = 0
}

func (c *Conn) appendGoAway(last uint32, code Code, why string) {
	c.out = frame{length: 8 + len(why), kind: frameGoAway}.append(c.out)
	c.out = binary.BigEndian.AppendUint32(c.out, last)
	c.out = binary.BigEndian.AppendUint32(c.out, uint32(code))
	c.out = append(c.out, why...)
}

// Leave asks the client to open no more streams. Of Receive's goroutine.
// With final, which is for when the client has had the time to learn of it, those
// that it opens are refused.
func (c *Conn) Leave(final bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	last := uint32(mostWindow)
	if final {
		last = c.last
		c.refuse = last
	}
	c.appendGoAway(last, NoError, "the server ends")
}

// Idle says that all streams are answered, none is in use, and all has been written.
func (c *Conn) Idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.streams {
		if !s.answered {
			return false
		}
	}
	return c.busy == 0 && len(c.out) == 0 && !c.flushing
}

// End resets all streams: the connection is gone. Of Receive's goroutine.
func (c *Conn) End() {
	c.mu.Lock()
	c.dead = true
	var tell []*Stream
	for _, s := range c.streams {
		if s.kill() && s.opened {
			tell = append(tell, s)
		}
	}
	c.out, c.blocked = nil, nil
	c.mu.Unlock()
	for _, s := range tell {
		c.handler.Reset(s)
	}
}

// Unsent returns how many bytes wait for the socket, or for a window.
func (c *Conn) Unsent() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.out) + c.waiting
}
