package h2

import (
	"encoding/binary"

	"golang.org/x/net/http2/hpack"
)

// Receive takes bytes that have come. After an error, which is an [Error], the
// connection has to be closed; what is left to be written says why.
func (c *Conn) Receive(data []byte) error {
	var err error
	for len(data) > 0 && err == nil {
		switch {
		case c.body > 0:
			data, err = c.takeBody(data)
		case c.stage == preface:
			data, err = c.takePreface(data)
		default:
			data, err = c.takeFrame(data)
		}
	}
	if err != nil {
		c.goAway(err.(*Error))
	}
	return err
}

func (c *Conn) takePreface(data []byte) (rest []byte, err error) {
	n := min(len(Preface)-len(c.part), len(data))
	c.part = append(c.part, data[:n]...)
	if string(c.part) != Preface[:len(c.part)] {
		return nil, broken(ProtocolError, "the client does not speak HTTP/2 without TLS")
	}
	if len(c.part) == len(Preface) {
		c.part, c.stage = c.part[:0], firstSettings
	}
	return data[n:], nil
}

// takeFrame takes a frame, of which all but the payload of DATA has to be there.
func (c *Conn) takeFrame(data []byte) (rest []byte, err error) {
	if len(c.part) > 0 {
		return c.takeRest(data)
	}
	if len(data) < frameHeaderBytes {
		c.part = append(c.part, data...)
		return nil, nil
	}
	f := parseFrame(data)
	if err := c.check(&f); err != nil {
		return nil, err
	}
	end := frameHeaderBytes + f.length
	switch {
	case f.kind == frameData:
		return data[frameHeaderBytes:], c.beginData(f)
	case len(data) < end:
		c.part = append(c.part, data...)
		return nil, nil
	}
	return data[end:], c.handle(f, data[frameHeaderBytes:end])
}

// takeRest goes on with a frame that has come in part.
func (c *Conn) takeRest(data []byte) (rest []byte, err error) {
	fill := func(want int) bool {
		if n := min(want-len(c.part), len(data)); n > 0 {
			c.part, data = append(c.part, data[:n]...), data[n:]
		}
		return len(c.part) >= want
	}
	if !fill(frameHeaderBytes) {
		return nil, nil
	}
	f := parseFrame(c.part)
	if err := c.check(&f); err != nil {
		return nil, err
	}
	if f.kind == frameData {
		c.part = c.part[:0]
		return data, c.beginData(f)
	}
	if !fill(frameHeaderBytes + f.length) {
		return nil, nil
	}
	payload := c.part[frameHeaderBytes:]
	c.part = c.part[:0]
	if cap(c.part) > keepBytes {
		c.part = nil
	}
	return data, c.handle(f, payload)
}

// check refuses frames that are too long, or must not come now.
func (c *Conn) check(f *frame) error {
	most := c.cfg.FrameBytes
	if f.kind == frameHeaders || f.kind == frameContinuation { // no header needs longer ones
		most = min(most, max(leastFrameBytes, c.cfg.HeaderBytes))
	}
	switch {
	case f.length > most:
		return broken(FrameSizeError, "a frame of %d bytes, %d at most", f.length, most)
	case c.stage == firstSettings && (f.kind != frameSettings || f.has(flagAck)):
		return broken(ProtocolError, "the first frame is not SETTINGS")
	case c.stage == continuation && (f.kind != frameContinuation || f.stream != c.opening.stream):
		return broken(ProtocolError, "a frame of type %d within a header", f.kind)
	}
	return nil
}

// handle takes a whole frame of any type but DATA.
func (c *Conn) handle(f frame, payload []byte) error {
	switch f.kind {
	case frameHeaders:
		return c.headers(f, payload)
	case frameContinuation:
		return c.continued(f, payload)
	case framePriority:
		return c.priority(f, payload)
	case frameReset:
		return c.resetBy(f, payload)
	case frameSettings:
		return c.settings(f, payload)
	case framePing:
		return c.ping(f, payload)
	case frameWindowUpdate:
		return c.update(f, payload)
	case framePushPromise:
		return broken(ProtocolError, "a client must not push")
	case frameGoAway:
		if f.stream != 0 {
			return broken(ProtocolError, "GOAWAY on a stream")
		}
	}
	return nil // types that are not known have to be ignored
}

// strip takes the padding off a HEADERS frame's payload, and the priority.
func strip(f *frame, payload []byte) (fragment []byte, dependency uint32, err error) {
	pad := 0
	if f.has(flagPadded) {
		if len(payload) == 0 {
			return nil, 0, broken(FrameSizeError, "a padded frame without the padding's length")
		}
		pad, payload = int(payload[0]), payload[1:]
	}
	if f.has(flagPriority) {
		if len(payload) < 5 {
			return nil, 0, broken(FrameSizeError, "HEADERS are too short for their priority")
		}
		dependency = binary.BigEndian.Uint32(payload) & mostWindow
		payload = payload[5:]
	}
	if pad > len(payload) {
		return nil, 0, broken(ProtocolError, "more padding than payload")
	}
	return payload[:len(payload)-pad], dependency, nil
}

func (c *Conn) headers(f frame, payload []byte) error {
	if f.stream%2 == 0 {
		return broken(ProtocolError, "a client's stream has the number %d", f.stream)
	}
	fragment, dependency, err := strip(&f, payload)
	if err != nil {
		return err
	}
	c.fields.bad = f.has(flagPriority) && dependency == f.stream
	if !f.has(flagEndHeaders) {
		c.opening, c.block, c.stage = f, append(c.block[:0], fragment...), continuation
		return nil
	}
	return c.header(f, fragment)
}

// maxBlock bounds a header as it is compressed. One that is longer than
// Config.HeaderBytes is refused for itself; this one ends the connection.
const maxBlock = 256 << 10

func (c *Conn) continued(f frame, fragment []byte) error {
	switch {
	case c.stage != continuation:
		return broken(ProtocolError, "CONTINUATION without HEADERS")
	case len(c.block)+len(fragment) > maxBlock:
		return broken(EnhanceYourCalm, "a header of more than %d bytes", maxBlock)
	}
	c.block = append(c.block, fragment...)
	if !f.has(flagEndHeaders) {
		return nil
	}
	c.stage = frames
	return c.header(c.opening, c.block)
}

// header takes a whole header: that of a new stream, or the trailer of an open one.
func (c *Conn) header(f frame, block []byte) error {
	c.fields.reset()
	_, err := c.decoder.Write(block)
	if err == nil {
		err = c.decoder.Close()
	}
	if err != nil {
		return broken(CompressionError, "a header cannot be decoded: %v", err)
	}
	end := f.has(flagEndStream)
	if f.stream <= c.last {
		return c.trailer(f.stream, end)
	}
	c.last = f.stream
	s := c.open(f.stream, end)
	switch {
	case s == nil:
		return nil // refused
	case c.fields.tooLong:
		s.Header(tooLong, true)
		s.Release()
	case c.fields.malformed(end):
		c.fail(s.id, ProtocolError)
		s.Release()
	default:
		s.length, s.opened = c.fields.length, true
		c.handler.Opened(s, c.fields.list, end)
	}
	return nil
}

// maxWaiting bounds the answers for which a client has opened no window: beyond it, its new
// streams are refused.
const maxWaiting = 64 << 20

var tooLong = []hpack.HeaderField{{Name: ":status", Value: "431"}}

// open makes a stream unless it has to be refused.
func (c *Conn) open(id uint32, end bool) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy >= c.cfg.Streams || len(c.streams) >= c.cfg.Streams || id > c.refuse || c.dead ||
		c.waiting > maxWaiting {
		c.appendReset(id, RefusedStream)
		return nil
	}
	var s *Stream
	if n := len(c.free); n > 0 {
		s, c.free = c.free[n-1], c.free[:n-1]
	} else {
		s = &Stream{conn: c, room: make(chan struct{}, 1)}
	}
	s.id, s.length, s.opened, s.recv, s.window = id, -1, false, c.cfg.Window, c.first
	s.received = end
	c.streams[id] = s
	c.busy++
	return s
}

// trailer takes a header on a stream that was opened before.
func (c *Conn) trailer(id uint32, end bool) error {
	c.mu.Lock()
	s := c.streams[id]
	received := s != nil && s.received
	reset := c.reset
	c.mu.Unlock()
	switch {
	case s == nil && !reset && id < c.last:
		return broken(ProtocolError, "stream %d after stream %d", id, c.last)
	case s == nil && !reset:
		return broken(StreamClosed, "a header on stream %d, which has ended", id)
	case s == nil || received: // it has ended; the client may not know yet
		c.fail(id, StreamClosed)
	case !end || c.fields.pseudo:
		c.fail(id, ProtocolError)
	default:
		c.take(s, nil, true)
	}
	return nil
}

func (c *Conn) beginData(f frame) error {
	switch {
	case f.stream == 0 || f.stream > c.last:
		return broken(ProtocolError, "DATA on stream %d, which is not open", f.stream)
	case f.has(flagPadded) && f.length == 0:
		return broken(FrameSizeError, "a padded frame without the padding's length")
	case f.length > c.recv:
		return broken(FlowControlError, "more data than the connection's window has room for")
	}
	c.recv -= f.length
	full := connWindows * c.cfg.Window
	c.mu.Lock()
	if c.recv < full/2 { // what is kept is bounded by the streams' windows
		c.out = appendUpdate(c.out, 0, full-c.recv)
		c.recv = full
	}
	s := c.streams[f.stream]
	received := s != nil && s.received
	c.mu.Unlock()
	switch {
	case s == nil || received:
		c.fail(f.stream, StreamClosed)
	case !s.reserve(f.length):
		c.fail(f.stream, FlowControlError)
	}
	c.data, c.body, c.padding, c.padded = f, f.length, 0, f.has(flagPadded)
	if f.length == 0 {
		c.deliver(nil)
	}
	return nil
}

// takeBody takes a part of a DATA frame's payload.
func (c *Conn) takeBody(data []byte) (rest []byte, err error) {
	if c.padded {
		c.padded = false
		c.body--
		c.padding = int(data[0])
		if c.padding > c.body {
			return nil, broken(ProtocolError, "more padding than payload")
		}
		data = data[1:]
		if s := c.stream(c.data.stream); s != nil {
			s.Took(1 + c.padding)
		}
	}
	n := min(c.body, len(data))
	content := min(n, max(0, c.body-c.padding))
	c.body -= n
	c.deliver(data[:content])
	return data[n:], nil
}

// deliver hands a part of the payload to the stream, if that is still open.
func (c *Conn) deliver(data []byte) {
	end := c.body == 0 && c.data.has(flagEndStream)
	if len(data) == 0 && !end {
		return
	}
	if s := c.stream(c.data.stream); s != nil {
		c.take(s, data, end)
	}
}

// take gives the handler a part of a body.
func (c *Conn) take(s *Stream, data []byte, end bool) {
	if s.length >= 0 {
		if s.length -= int64(len(data)); s.length < 0 || end && s.length > 0 {
			c.fail(s.id, ProtocolError) // not what its content-length says
			return
		}
	}
	c.mu.Lock()
	dropped := s.answered || s.released
	if end {
		s.received = true
		s.leave()
	}
	c.mu.Unlock()
	if !dropped {
		c.handler.Data(s, data, end)
	}
}

// stream returns an open stream, nil for none.
func (c *Conn) stream(id uint32) *Stream {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.streams[id]
}

func (c *Conn) priority(f frame, payload []byte) error {
	switch {
	case f.stream == 0:
		return broken(ProtocolError, "PRIORITY without a stream")
	case len(payload) != 5:
		c.fail(f.stream, FrameSizeError)
	case binary.BigEndian.Uint32(payload)&mostWindow == f.stream:
		c.fail(f.stream, ProtocolError)
	}
	return nil
}

func (c *Conn) resetBy(f frame, payload []byte) error {
	switch {
	case f.stream == 0 || f.stream > c.last:
		return broken(ProtocolError, "RST_STREAM on stream %d, which is not open", f.stream)
	case len(payload) != 4:
		return broken(FrameSizeError, "RST_STREAM of %d bytes", len(payload))
	}
	c.mu.Lock()
	s := c.streams[f.stream]
	tell := s != nil && s.kill()
	c.mu.Unlock()
	if tell {
		c.handler.Reset(s)
	}
	return nil
}

func (c *Conn) settings(f frame, payload []byte) error {
	switch {
	case f.stream != 0:
		return broken(ProtocolError, "SETTINGS on a stream")
	case f.has(flagAck) && len(payload) > 0, len(payload)%settingBytes != 0:
		return broken(FrameSizeError, "SETTINGS of %d bytes", len(payload))
	case f.has(flagAck):
		return nil
	}
	c.stage = frames
	c.mu.Lock()
	defer c.mu.Unlock()
	for ; len(payload) > 0; payload = payload[settingBytes:] {
		id, value := binary.BigEndian.Uint16(payload), binary.BigEndian.Uint32(payload[2:])
		if err := c.set(id, value); err != nil {
			return err
		}
	}
	c.out = frame{kind: frameSettings, flags: flagAck}.append(c.out)
	c.pump() // behind it: the windows may have grown
	return nil
}

// set takes one setting of the client's. Callers hold mu.
func (c *Conn) set(id uint16, value uint32) error {
	switch id {
	case settingTableSize:
		c.encoder.SetMaxDynamicTableSizeLimit(value)
		c.encoder.SetMaxDynamicTableSize(min(value, tableBytes))
	case settingPush:
		if value > 1 {
			return broken(ProtocolError, "SETTINGS_ENABLE_PUSH is %d", value)
		}
	case settingWindow:
		if value > mostWindow {
			return broken(FlowControlError, "SETTINGS_INITIAL_WINDOW_SIZE is %d", value)
		}
		grown := int64(value) - c.first
		c.first = int64(value)
		for _, s := range c.streams {
			if s.window += grown; s.window > mostWindow {
				return broken(FlowControlError, "a window of %d bytes", s.window)
			}
		}
	case settingFrameBytes:
		if value < leastFrameBytes || value > mostFrameBytes {
			return broken(ProtocolError, "SETTINGS_MAX_FRAME_SIZE is %d", value)
		}
		c.most = int(value)
	}
	return nil
}

func (c *Conn) ping(f frame, payload []byte) error {
	switch {
	case f.stream != 0:
		return broken(ProtocolError, "PING on a stream")
	case len(payload) != 8:
		return broken(FrameSizeError, "PING of %d bytes", len(payload))
	case f.has(flagAck):
		return nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out = frame{length: 8, kind: framePing, flags: flagAck}.append(c.out)
	c.out = append(c.out, payload...)
	return nil
}

// update takes a WINDOW_UPDATE.
func (c *Conn) update(f frame, payload []byte) error {
	switch {
	case len(payload) != 4:
		return broken(FrameSizeError, "WINDOW_UPDATE of %d bytes", len(payload))
	case f.stream > c.last:
		return broken(ProtocolError, "WINDOW_UPDATE on stream %d, which is not open", f.stream)
	}
	n := int64(binary.BigEndian.Uint32(payload) & mostWindow)
	if f.stream == 0 {
		c.mu.Lock()
		defer c.mu.Unlock()
		switch c.window += n; {
		case n == 0:
			return broken(ProtocolError, "WINDOW_UPDATE by 0")
		case c.window > mostWindow:
			return broken(FlowControlError, "a window of %d bytes", c.window)
		}
		c.pump()
		return nil
	}
	c.mu.Lock()
	s := c.streams[f.stream]
	if s != nil {
		s.window += n
	}
	tooLarge := s != nil && s.window > mostWindow
	if s != nil && !tooLarge {
		c.pump()
	}
	c.mu.Unlock()
	switch {
	case n == 0:
		c.fail(f.stream, ProtocolError)
	case tooLarge:
		c.fail(s.id, FlowControlError)
	}
	return nil
}

// fail ends a stream, which may have ended before, because of what the client has sent on it.
func (c *Conn) fail(id uint32, code Code) {
	c.mu.Lock()
	c.appendReset(id, code)
	s := c.streams[id]
	tell := s != nil && s.kill()
	c.mu.Unlock()
	if tell && s.opened {
		c.handler.Reset(s)
	}
}
