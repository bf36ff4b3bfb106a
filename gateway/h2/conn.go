package h2

import (
	"bytes"
	"encoding/binary"
	"sync"

	"golang.org/x/net/http2/hpack"
)

// Config bounds what a client may send.
type Config struct {
	Streams     int // open at once
	HeaderBytes int // of one request's header, as RFC 9113, section 6.5.2, counts them
	FrameBytes  int // of one frame's payload, 16 KiB to 16 MiB
	Window      int // bytes of one stream that the handler has not taken yet
}

// connWindows is how many bytes of all streams together may be under way, in
// windows of one.
const connWindows = 16

// Handler is told what the client sends, by Receive.
type Handler interface {
	// Opened tells of a new stream, whose last frame this was when end is set.
	// The fields are not kept; they are those that RFC 9113 allows.
	Opened(s *Stream, fields []hpack.HeaderField, end bool)
	// Data brings a part of the stream's body. The bytes are not kept. They
	// count against the window until s.Took.
	Data(s *Stream, data []byte, end bool)
	// Reset says that nobody waits for an answer any more. What is still
	// written to the stream is dropped.
	Reset(s *Stream)
}

// stage is what has to come next.
type stage uint8

const (
	preface stage = iota
	firstSettings
	frames
	continuation
)

// Conn is one connection.
type Conn struct {
	cfg     Config
	handler Handler
	write   func([]byte) (n int, ok bool)

	// Of Receive.
	stage   stage
	part    []byte // of the preface, or of a frame: its header, or all of it but data
	data    frame  // the DATA frame that comes
	body    int    // bytes of its payload that are still to come
	padded  bool   // the next of them is the length of the padding
	padding int    // bytes of padding behind them
	decoder *hpack.Decoder
	fields  fields
	opening frame  // the HEADERS frame whose CONTINUATION comes next, if any
	block   []byte // what has come of its header
	last    uint32 // the highest number of a stream so far
	recv    int    // bytes that may come on all streams

	mu       sync.Mutex
	streams  map[uint32]*Stream // that are open on one side at least. All below is guarded by mu.
	busy     int                // streams that the handler has not released
	window   int64              // bytes that may be sent on all streams
	first    int64              // the window of a stream that is opened
	most     int                // bytes of one frame that the client takes
	encoder  *hpack.Encoder
	encoded  bytes.Buffer // what encoder writes to
	blocked  []*Stream    // have data that waits for a window
	waiting  int          // bytes that wait for a window
	out      []byte       // to be written
	spare    []byte       // memory for out
	flushing bool         // somebody writes
	full     bool         // the socket takes no more
	reset    bool         // a stream was reset, about which the client may not know yet
	dead     bool         // nothing can be sent
	refuse   uint32       // streams above this number are refused
	free     []*Stream    // memory for streams
}

// New returns a connection on which nothing has come yet. write takes what is
// sent, as much of it as it can at once; ok is false when the connection is broken.
func New(cfg Config, h Handler, write func([]byte) (n int, ok bool)) *Conn {
	c := &Conn{
		cfg: cfg, handler: h, write: write, recv: connWindows * cfg.Window,
		streams: make(map[uint32]*Stream), window: firstWindow, first: firstWindow,
		most: leastFrameBytes, refuse: mostWindow,
	}
	c.encoder = hpack.NewEncoder(&c.encoded)
	c.decoder = hpack.NewDecoder(4096, c.fields.add)
	c.fields.limit = cfg.HeaderBytes
	settings := []uint32{
		settingStreams, uint32(cfg.Streams), settingWindow, uint32(cfg.Window),
		settingFrameBytes, uint32(cfg.FrameBytes), settingHeaderBytes, uint32(cfg.HeaderBytes),
	}
	c.out = frame{length: settingBytes * len(settings) / 2, kind: frameSettings}.append(nil)
	for i := 0; i < len(settings); i += 2 {
		c.out = binary.BigEndian.AppendUint16(c.out, uint16(settings[i]))
		c.out = binary.BigEndian.AppendUint32(c.out, settings[i+1])
	}
	c.out = appendUpdate(c.out, 0, c.recv-firstWindow)
	return c
}

func appendUpdate(dst []byte, stream uint32, n int) []byte {
	dst = frame{length: 4, kind: frameWindowUpdate, stream: stream}.append(dst)
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

// Begun says whether the client has begun as HTTP/2 wants it. Of Receive's goroutine.
func (c *Conn) Begun() bool { return c.stage >= frames }
