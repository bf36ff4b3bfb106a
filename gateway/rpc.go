package gateway

import (
	"context"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2/hpack"

	"github.com/millrace-ml/millrace/gateway/h2"
)

// rpc is a call that a handler answers, on a goroutine of its own.
type rpc struct {
	session *session
	stream  *h2.Stream
	request *http.Request
	cancel  context.CancelFunc
	header  http.Header // of the answer
	sent    bool        // the header

	mu     sync.Mutex
	come   sync.Cond // on mu: some of what is below has changed
	buffer []byte    // has come and was not read. Guarded by mu, as all below.
	ended  bool      // nothing else comes
	left   bool      // nor does anybody wait
}

// start begins a call.
func (g *GRPC) start(s *session, st *h2.Stream, fields []hpack.HeaderField, end bool) *rpc {
	ctx, cancel := context.WithCancel(context.Background())
	r := &rpc{session: s, stream: st, cancel: cancel, header: make(http.Header), ended: end}
	r.come.L = &r.mu
	q := &http.Request{Proto: "HTTP/2.0", ProtoMajor: 2, Header: make(http.Header), URL: &url.URL{},
		Body: r, ContentLength: -1}
	for _, f := range fields {
		switch f.Name {
		case ":method":
			q.Method = f.Value
		case ":path":
			q.URL.Path, q.RequestURI = f.Value, f.Value
		case ":authority":
			q.Host = f.Value
		case ":scheme":
		default:
			q.Header.Add(f.Name, f.Value)
		}
	}
	r.request = q.WithContext(ctx)
	g.rpcs.Go(r.run)
	return r
}

func (r *rpc) run() {
	r.session.grpc.other.ServeHTTP(r, r.request)
	r.finish()
	r.session.h2.Flush(false)
	r.cancel()
}

// data implements body.
func (r *rpc) data(data []byte, end bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.buffer = append(r.buffer, data...)
	r.ended = r.ended || end
	r.come.Broadcast()
}

// reset implements body.
func (r *rpc) reset() {
	r.mu.Lock()
	r.ended, r.left = true, true
	r.come.Broadcast()
	r.mu.Unlock()
	r.cancel()
}

// Read implements io.Reader of the request's body.
func (r *rpc) Read(p []byte) (int, error) {
	r.mu.Lock()
	for len(r.buffer) == 0 && !r.ended {
		r.come.Wait()
	}
	n := copy(p, r.buffer)
	r.buffer = r.buffer[n:]
	left := r.left
	r.mu.Unlock()
	if n == 0 {
		if left {
			return 0, context.Canceled
		}
		return 0, io.EOF
	}
	r.stream.Took(n)
	r.session.h2.Flush(false)
	return n, nil
}

// Close implements io.Closer of the request's body.
func (r *rpc) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended, r.buffer = true, nil
	r.come.Broadcast()
	return nil
}

// Header implements http.ResponseWriter.
func (r *rpc) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *rpc) WriteHeader(status int) {
	if r.sent {
		return
	}
	r.sent = true
	fields := []hpack.HeaderField{{Name: ":status", Value: strconv.Itoa(status)}}
	for name, values := range r.header {
		if name == "Trailer" || r.isTrailer(name) {
			continue
		}
		for _, v := range values {
			fields = append(fields, hpack.HeaderField{Name: strings.ToLower(name), Value: v})
		}
	}
	r.stream.Header(fields, false)
}

// isTrailer says whether a field goes behind the body.
func (r *rpc) isTrailer(name string) bool {
	if strings.HasPrefix(name, http.TrailerPrefix) {
		return true
	}
	for _, v := range r.header["Trailer"] {
		if http.CanonicalHeaderKey(v) == name {
			return true
		}
	}
	return false
}

// slowClient is how often it is looked whether a client that did not read does again.
const slowClient = 5 * time.Millisecond

// Write implements http.ResponseWriter. It waits for a client that reads slowly.
func (r *rpc) Write(p []byte) (int, error) {
	r.WriteHeader(200)
	for r.stream.Queued() > 0 || r.session.h2.Stuck() {
		r.session.h2.Flush(false)
		select {
		case <-r.stream.Room():
		case <-time.After(slowClient):
		case <-r.request.Context().Done():
			return 0, context.Canceled
		}
	}
	r.stream.Data(p)
	return len(p), nil
}

// Flush implements http.Flusher.
func (r *rpc) Flush() {
	r.WriteHeader(200)
	r.session.h2.Flush(false)
}

// finish sends the trailer.
func (r *rpc) finish() {
	r.WriteHeader(200)
	var fields []hpack.HeaderField
	for name, values := range r.header {
		if name == "Trailer" || !r.isTrailer(name) {
			continue
		}
		for _, v := range values {
			fields = append(fields, hpack.HeaderField{
				Name: strings.ToLower(strings.TrimPrefix(name, http.TrailerPrefix)), Value: v})
		}
	}
	r.stream.End(fields)
	r.stream.Release()
}
