package grpc

import (
	"sync"

	"google.golang.org/grpc"

	"github.com/millrace-ml/millrace/gateway"
)

// stream is one open stream. It belongs to the handler that serves it; when the
// server drains it ends as soon as what the handler has begun is answered.
type stream struct {
	grpc.ServerStream
	answering sync.WaitGroup // requests that are not yet answered

	mu      sync.Mutex
	closing bool // nothing is begun any more. Guarded by mu.
}

// begin counts a request into answering. It returns false when the stream ends.
func (st *stream) begin() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closing {
		return false
	}
	st.answering.Add(1)
	return true
}

// finish returns when everything that was begun is answered.
func (st *stream) finish() {
	st.mu.Lock()
	st.closing = true
	st.mu.Unlock()
	st.answering.Wait()
}

// serveStream runs the handler of a stream until either has ended: clients keep
// streams open for as long as they live, and would hold up the server's end.
// Returning from here ends what the handler still waits for.
func (s *Server) serveStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo,
	h grpc.StreamHandler) error {
	st := &stream{ServerStream: ss}
	ended := make(chan error, 1)
	go func() {
		ended <- func() (err error) {
			defer s.catch(&err, info.FullMethod)
			return h(srv, st)
		}()
	}()
	select {
	case err := <-ended:
		return s.failure(err)
	case <-s.draining:
		st.finish()
		return s.failure(gateway.ErrClosing)
	}
}
