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
	got := make(map[uint32]string)
	for len(got) < 2 {
		f, err := c.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if f, ok := f.(*http2.MetaHeadersFrame); ok && f.StreamEnded() {
			for _, field := range f.Fields {
				if field.Name == "grpc-status" {
					got[f.StreamID] = field.Value
				}
			}
		}
	}
	if got[1] != "4" || got[3] != "0" {
		t.Errorf("statuses %v", got)
	}
}
