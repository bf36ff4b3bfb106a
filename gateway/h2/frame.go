// Package h2 is the server's side of one HTTP/2 connection (RFC 9113), as far as
// gRPC needs it: without TLS, push and priorities.
//
// It does no input or output and starts no goroutine. [Conn.Receive] takes the
// bytes that have come and tells a [Handler] what they mean; what is to be sent
// gathers in memory until [Conn.Flush] writes it. Receive is called by one
// goroutine at a time, everything else from any.
package h2

import (
	"encoding/binary"
	"fmt"
)

// Preface is what a client sends first.
const Preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// frameType is what a frame is about.
type frameType uint8

const (
	frameData frameType = iota
	frameHeaders
	framePriority
	frameReset
	frameSettings
	framePushPromise
	framePing
	frameGoAway
	frameWindowUpdate
	frameContinuation
)

// Flags of frames.
const (
	flagEndStream  = 0x1
	flagAck        = 0x1
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// Code says why a stream or a connection has ended.
type Code uint32

// The codes that are sent.
const (
	NoError          Code = 0x0
	ProtocolError    Code = 0x1
	InternalError    Code = 0x2
	FlowControlError Code = 0x3
	StreamClosed     Code = 0x5
	FrameSizeError   Code = 0x6
	RefusedStream    Code = 0x7
	CompressionError Code = 0x9
	EnhanceYourCalm  Code = 0xb
)

// Sizes of what is sent, and what holds before a setting says otherwise.
const (
	frameHeaderBytes = 9
	settingBytes     = 6
	leastFrameBytes  = 16 << 10
	mostFrameBytes   = 1<<24 - 1
	firstWindow      = 1<<16 - 1
	mostWindow       = 1<<31 - 1
)

// Settings.
const (
	settingTableSize   = 1
	settingPush        = 2
	settingStreams     = 3
	settingWindow      = 4
	settingFrameBytes  = 5
	settingHeaderBytes = 6
)

// Error ends a connection.
type Error struct {
	Code   Code
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("h2: %s (code %d)", e.Reason, e.Code) }

func broken(code Code, format string, args ...any) error {
	return &Error{code, fmt.Sprintf(format, args...)}
}

// frame is a frame's header.
type frame struct {
	length int
	kind   frameType
	flags  uint8
	stream uint32
}

func parseFrame(b []byte) frame {
	return frame{
		length: int(b[0])<<16 | int(b[1])<<8 | int(b[2]), kind: frameType(b[3]), flags: b[4],
		stream: binary.BigEndian.Uint32(b[5:]) & mostWindow,
	}
}

func (f *frame) has(flag uint8) bool { return f.flags&flag != 0 }

// append appends the frame's header.
func (f frame) append(dst []byte) []byte {
	dst = append(dst, byte(f.length>>16), byte(f.length>>8), byte(f.length), byte(f.kind), f.flags)
	return binary.BigEndian.AppendUint32(dst, f.stream)
}
