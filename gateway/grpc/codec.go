package grpc

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
)

// frame is the bytes of one message, in or out. It belongs to the handler
// that took it from the pool until it is given to the codec or freed.
type frame struct {
	in  mem.Buffer      // of a received message
	out []byte          // of a message to send
	ctx context.Context // of the call
	// streamed says that the message came in a stream, which has one header for all.
	streamed bool
}

var frames = sync.Pool{New: func() any { return new(frame) }}

// keepFrame bounds the memory that an idle frame keeps.
const keepFrame = 1 << 20

func (f *frame) free() {
	if f.in != nil {
		f.in.Free()
		f.in = nil
	}
	f.ctx, f.streamed = nil, false
	if cap(f.out) > keepFrame {
		f.out = nil
	}
	frames.Put(f)
}

// codec passes frames through and marshals all other messages.
type codec struct{}

func (codec) Name() string { return "proto" }

// Marshal implements encoding.CodecV2. The frame is freed when it was sent.
func (codec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(*frame); ok {
		return mem.BufferSlice{mem.NewBuffer(&f.out, f)}, nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return nil, fmt.Errorf("grpc: cannot send a %T", v)
	}
	text, err := proto.Marshal(m)
	return mem.BufferSlice{mem.SliceBuffer(text)}, err
}

// Unmarshal implements encoding.CodecV2.
func (codec) Unmarshal(data mem.BufferSlice, v any) error {
	if f, ok := v.(*frame); ok {
		f.in = data.MaterializeToBuffer(mem.DefaultBufferPool())
		return nil
	}
	m, ok := v.(proto.Message)
	if !ok {
		return fmt.Errorf("grpc: cannot receive a %T", v)
	}
	return proto.Unmarshal(data.Materialize(), m)
}

// Get implements mem.BufferPool, so that a sent frame comes back by Put.
func (f *frame) Get(length int) *[]byte {
	b := make([]byte, length)
	return &b
}

// Put implements mem.BufferPool: the frame's bytes were sent.
func (f *frame) Put(*[]byte) { f.free() }
