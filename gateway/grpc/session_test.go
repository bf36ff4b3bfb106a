package grpc_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// TestManyCalls has calls of one connection at once, some of which their clients leave.
func TestManyCalls(t *testing.T) {
	s := serve(t, nil)
	var wait sync.WaitGroup
	for i := range 32 {
		wait.Go(func() {
			for range 50 {
				ctx, cancel := context.WithCancel(during(t))
				if i%4 == 0 {
					time.AfterFunc(time.Duration(i)*20*time.Microsecond, cancel)
				}
				r, err := s.client.ModelInfer(ctx, sum("", int32(i)))
				cancel()
				if i%4 == 0 && status.Code(err) == codes.Canceled {
					continue
				}
				if err != nil {
					t.Error(err)
				} else {
					wantSum(t, r, int32(i))
				}
			}
		})
	}
	wait.Wait()
}

func TestCompressed(t *testing.T) {
	s := serve(t, nil)
	r, err := s.client.ModelInfer(during(t), sum("", 1), grpc.UseCompressor("gzip"))
	if err != nil {
		t.Fatal(err)
	}
	wantSum(t, r, 1)
}

// rawClient is a client that writes frames.
type rawClient struct {
	net.Conn
	*http2.Framer
	block bytes.Buffer
	enc   *hpack.Encoder
}

func dialRaw(t *testing.T, s *server, settings ...http2.Setting) *rawClient {
	t.Helper()
	nc, err := net.Dial("tcp", s.conn.Target()[len("passthrough:///"):])
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	_ = nc.SetDeadline(time.Now().Add(20 * time.Second))
	c := &rawClient{Conn: nc, Framer: http2.NewFramer(nc, nc)}
	c.enc = hpack.NewEncoder(&c.block)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(nc, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.WriteSettings(settings...), c.WriteSettingsAck()); err != nil {
		t.Fatal(err)
	}
	return c
}

// open begins a ModelInfer.
func (c *rawClient) open(t *testing.T, stream uint32) {
	t.Helper()
	c.block.Reset()
	for _, f := range [][2]string{{":method", "POST"}, {":scheme", "http"},
		{":path", "/inference.GRPCInferenceService/ModelInfer"}, {":authority", "x"},
		{"content-type", "application/grpc"}, {"te", "trailers"}} {
		_ = c.enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	err := c.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, EndHeaders: true,
		BlockFragment: c.block.Bytes()})
	if err != nil {
		t.Fatal(err)
	}
}

// infer sends a ModelInfer.
func (c *rawClient) infer(t *testing.T, stream uint32, message []byte) {
	t.Helper()
	c.open(t, stream)
	prefix := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	if err := c.WriteData(stream, true, append(prefix, message...)); err != nil {
		t.Fatal(err)
	}
}

// TestWindow has a client open no window before all its requests have been answered.
func TestWindow(t *testing.T) {
	const calls = 200
	s := serve(t, nil)
	c := dialRaw(t, s, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	message, err := proto.Marshal(sum("", 1))
	if err != nil {
		t.Fatal(err)
	}
	for i := range uint32(calls) {
		c.infer(t, 2*i+1, message)
	}
	heads, ended := 0, 0
	data := make(map[uint32]int)
	for ended < calls {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("%v after %d headers and %d ends", err, heads, ended)
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if f.StreamEnded() {
				ended++
				continue
			}
			if heads++; heads == calls {
				if len(data) > 0 {
					t.Errorf("data without a window: %v", data)
				}
				_ = c.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
			}
		case *http2.DataFrame:
			data[f.StreamID] += len(f.Data())
			_ = c.WriteWindowUpdate(0, uint32(max(1, len(f.Data()))))
		case *http2.GoAwayFrame, *http2.RSTStreamFrame:
			t.Fatal(f)
		}
	}
	if len(data) != calls {
		t.Errorf("%d answers", len(data))
	}
}

// TestNoHTTP2 wants connections closed that speak something else, or nothing.
func TestNoHTTP2(t *testing.T) {
	s := serve(t, func(c *settings) { c.grpc.HTTP.ReadTimeout = 300 * time.Millisecond })
	for _, text := range []string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "PRI", "",
		http2.ClientPreface} {
		nc, err := net.Dial("tcp", s.conn.Target()[len("passthrough:///"):])
		if err != nil {
			t.Fatal(err)
		}
		_ = nc.SetDeadline(time.Now().Add(10 * time.Second))
		_, err = io.WriteString(nc, text)
		_, end := io.Copy(io.Discard, nc)
		if nerr, ok := end.(net.Error); err != nil || ok && nerr.Timeout() {
			t.Errorf("%q: %v, %v", text, err, end)
		}
		nc.Close()
	}
	if _, err := s.client.ModelInfer(during(t), sum("", 1)); err != nil {
		t.Error(err)
	}
}

// TestSlowMessage sends a part of a message.
func TestSlowMessage(t *testing.T) {
	s := serve(t, func(c *settings) { c.grpc.HTTP.ReadTimeout = 300 * time.Millisecond })
	c := dialRaw(t, s)
	message, err := proto.Marshal(sum("", 1))
	if err != nil {
		t.Fatal(err)
	}
	c.open(t, 1)
	if err := c.WriteData(1, false, []byte{0, 0, 0, 0, 9, 'x'}); err != nil {
		t.Fatal(err)
	}
	c.infer(t, 3, message)
	got := c.statuses(t, 2)
	if got[1] != "4" || got[3] != "0" {
		t.Errorf("statuses %v", got)
	}
}

// statuses reads until so many streams have ended, and returns their grpc-status.
func (c *rawClient) statuses(t *testing.T, streams int) map[uint32]string {
	t.Helper()
	got := make(map[uint32]string)
	for len(got) < streams {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatalf("%v after %v", err, got)
		}
		if f, ok := f.(*http2.MetaHeadersFrame); ok && f.StreamEnded() {
			for _, field := range f.Fields {
				if field.Name == "grpc-status" {
					got[f.StreamID] = field.Value
				}
			}
		}
	}
	return got
}

// TestLeftAnswer leaves a call whose answer waits for a window while another is sent: the memory
// of the first may serve the second.
func TestLeftAnswer(t *testing.T) {
	s := serve(t, nil)
	c := dialRaw(t, s, http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	message, err := proto.Marshal(sum("", 1))
	if err != nil {
		t.Fatal(err)
	}
	c.infer(t, 1, message)
	for {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := f.(*http2.MetaHeadersFrame); ok {
			break
		}
	}
	c.open(t, 3)
	whole := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	if err := errors.Join(c.WriteData(3, false, whole[:9]),
		c.WriteRSTStream(1, http2.ErrCodeCancel), c.WriteData(3, true, whole[9:]),
		c.WriteWindowUpdate(3, 1<<16)); err != nil {
		t.Fatal(err)
	}
	if got := c.statuses(t, 1); got[3] != "0" {
		t.Errorf("statuses %v", got)
	}
}

// TestEarlyAnswer sends on after its call has failed: a little is dropped, as some clients take a
// reset for a failure, and more than that is told to end.
func TestEarlyAnswer(t *testing.T) {
	const window = 1 << 20 // of a stream
	s := serve(t, nil)
	c := dialRaw(t, s)
	bad := []byte{1, 0, 0, 0, 1} // compressed, and no encoding named
	c.open(t, 1)
	if err := c.WriteData(1, false, bad); err != nil {
		t.Fatal(err)
	}
	if got := c.statuses(t, 1); got[1] != "3" {
		t.Fatalf("statuses %v", got)
	}
	if err := errors.Join(c.WriteData(1, false, make([]byte, 1000)),
		c.WritePing(false, [8]byte{1})); err != nil {
		t.Fatal(err)
	}
	for reset := false; !reset; {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		switch f := f.(type) {
		case *http2.PingFrame: // the little was taken
			for range window/2/16000 + 1 {
				if err := c.WriteData(1, false, make([]byte, 16000)); err != nil {
					t.Fatal(err)
				}
			}
		case *http2.RSTStreamFrame:
			if reset = true; f.ErrCode != http2.ErrCodeNo || f.StreamID != 1 {
				t.Error(f)
			}
		}
	}
}
