package grpc

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
)

// sink is a stream that keeps what is sent.
type sink struct {
	grpc.ServerStream
	sent []byte
}

func (s *sink) Context() context.Context { return context.Background() }

func (s *sink) SendMsg(m any) error {
	f := m.(*frame)
	s.sent = append(s.sent, f.out...)
	f.free()
	return nil
}

// TestPanics lets every place panic in which a request is handled, by a server
// without a core: each must be an answer, since the process would end.
func TestPanics(t *testing.T) {
	s := &Server{log: slog.New(slog.DiscardHandler), draining: make(chan struct{})}
	f := &frame{in: mem.SliceBuffer("\x0a\x01m\x1a\x02id")}

	var to sink
	s.answer(&to, f, new(sync.Mutex))
	if got := string(to.sent); !strings.Contains(got, "internal error") ||
		!strings.Contains(got, "id") || strings.Contains(got, "nil") {
		t.Errorf("a panic within a stream is answered with %q", got)
	}

	want := func(err error) {
		t.Helper()
		if status.Code(err) != codes.Internal || status.Convert(err).Message() != "internal error" {
			t.Errorf("a panic is answered with %v", err)
		}
	}
	_, err := s.recoverUnary(context.Background(), nil, &grpc.UnaryServerInfo{},
		func(context.Context, any) (any, error) { panic("unary") })
	want(err)
	err = s.serveStream(nil, &to, &grpc.StreamServerInfo{},
		func(any, grpc.ServerStream) error { panic("stream") })
	want(err)
}
