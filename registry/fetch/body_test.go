package fetch

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

const content = "0123456789abcdefghijklmnopqrstuvwxyz"

// flaky serves content, and cuts each answer after some bytes.
type flaky struct {
	cuts     []int // bytes until the cut, of one answer after the other; then none
	tags     []string
	modified time.Time
	plain    bool // does not know of ranges
	asked    atomic.Int32
	ranges   []string
}

func (f *flaky) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	n := int(f.asked.Add(1)) - 1
	f.ranges = append(f.ranges, r.Header.Get("Range")+" "+r.Header.Get("If-Range"))
	if len(f.tags) > 0 {
		w.Header().Set("ETag", f.tags[min(n, len(f.tags)-1)])
	}
	if f.plain {
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		r.Header.Del("Range")
	}
	left := 1 << 20
	if n < len(f.cuts) {
		left = f.cuts[n]
	}
	http.ServeContent(&cutter{ResponseWriter: w, left: left}, r, "", f.modified,
		strings.NewReader(content))
}

// cutter breaks the connection after some bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	n, err := c.ResponseWriter.Write(p[:min(len(p), c.left)])
	if c.left -= n; n < len(p) {
		c.ResponseWriter.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}
	return n, err
}

func TestResume(t *testing.T) {
	f := func(server *flaky, req Request, got string, asked int32) error {
		t.Helper()
		s := serve(t, server.ServeHTTP)
		req.URL = s.URL
		c := client(t, quick(s.URL))
		text, err := read(t, c, req)
		if text != got || server.asked.Load() != asked {
			t.Errorf("got %q after asking %d times (%q): %v", text, server.asked.Load(),
				server.ranges, err)
		}
		return err
	}
	ok := func(server *flaky, req Request, got string, asked int32) {
		t.Helper()
		if err := f(server, req, got, asked); err != nil {
			t.Error(err)
		}
	}
	size := Request{Size: int64(len(content))}
	ok(&flaky{}, size, content, 1)
	ok(&flaky{cuts: []int{10, 0}, tags: []string{`"a"`}}, size, content, 3)
	ok(&flaky{cuts: []int{10}, modified: time.Now().Add(-time.Hour)}, size, content, 2)
	ok(&flaky{}, Request{Offset: 30}, content[30:], 1)
	ok(&flaky{cuts: []int{3}, tags: []string{`"a"`}}, Request{Offset: 20}, content[20:], 2)
	ok(&flaky{}, Request{Offset: int64(len(content))}, "", 1)
	ok(&flaky{}, Request{Offset: int64(len(content)) + 1}, content, 2)
	ok(&flaky{plain: true}, Request{Offset: 30}, content, 1)
	want(t, f(&flaky{cuts: []int{10, 5, 5, 5}, tags: []string{`"a"`}}, size, content[:20], 3),
		ErrCut, "20 of 36 bytes")
	// Nothing says that it is the same file.
	cut := []int{10}
	want(t, f(&flaky{cuts: cut}, size, content[:10], 1), ErrCut, "10 of 36 bytes")
	want(t, f(&flaky{cuts: cut, tags: []string{`W/"a"`}}, size, content[:10], 1), ErrCut, "")
	want(t, f(&flaky{cuts: cut, modified: time.Now()}, size, content[:10], 1), ErrCut, "")
	want(t, f(&flaky{cuts: cut, tags: []string{`"a"`, `"b"`}}, size, content[:10], 2),
		ErrCut, "has changed since")
	want(t, f(&flaky{cuts: cut, tags: []string{`"a"`}, plain: true}, size, content[:10], 2),
		ErrCut, "has changed since")
	want(t, f(&flaky{}, Request{Size: 35}, "", 1), ErrSize, "36 bytes, not 35")
}

// TestChunks has a server that does not say how much will come.
func TestChunks(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, content[:10])
		w.(http.Flusher).Flush()
		if r.URL.Path == "/cut" {
			panic(http.ErrAbortHandler)
		}
	})
	c := client(t, quick(s.URL))
	f := func(path string, size int64, kind error, says string) {
		t.Helper()
		_, err := read(t, c, Request{URL: s.URL + path, Size: size})
		if kind == nil && err != nil {
			t.Error(err)
		} else if kind != nil {
			want(t, err, kind, says)
		}
	}
	f("", 0, nil, "")
	f("", 10, nil, "")
	f("", 11, ErrSize, "10 bytes, not 11")
	f("", 9, ErrSize, "more than 9 bytes")
	f("/cut", 0, ErrCut, "after 10 bytes")
	f("/cut", 20, ErrCut, "after 10 of 20 bytes")
}

// TestSlow has servers that send nothing, or something for ever.
func TestSlow(t *testing.T) {
	over := make(chan struct{})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		wait := func() {
			select {
			case <-over:
			case <-r.Context().Done():
			}
		}
		switch r.URL.Path {
		case "/silent":
			wait()
		case "/stops":
			io.WriteString(w, "some")
			w.(http.Flusher).Flush()
			wait()
		case "/error":
			w.WriteHeader(500)
			w.(http.Flusher).Flush()
			wait()
		case "/drips":
			for tick := time.NewTicker(5 * time.Millisecond); r.Context().Err() == nil; <-tick.C {
				io.WriteString(w, "x")
				w.(http.Flusher).Flush()
			}
		}
	})
	defer close(over)
	cfg := quick(s.URL)
	cfg.Attempts = 1
	f := func(path string, kind error, says string) {
		t.Helper()
		start := time.Now()
		_, err := read(t, client(t, cfg), Request{URL: s.URL + path})
		want(t, err, kind, says)
		if took := time.Since(start); took > 10*time.Second {
			t.Errorf("%s took %v", path, took)
		}
	}
	cfg.IdleTimeout = 500 * time.Millisecond
	f("/silent", ErrTimeout, "")
	f("/stops", ErrTimeout, "after 4 bytes")
	f("/error", ErrStatus, "500")
	cfg.IdleTimeout, cfg.Timeout = time.Minute, 200*time.Millisecond
	f("/silent", ErrTimeout, "has not ended in time")
	f("/stops", ErrTimeout, "has not ended in time")
	f("/drips", ErrTimeout, "has not ended in time")
}

// TestReader has a caller that gives up, one that closes early, and one that is slow.
func TestReader(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.Write(make([]byte, 1<<20))
		w.(http.Flusher).Flush()
		if r.URL.Path == "/more" {
			<-r.Context().Done()
		}
	})
	cfg := quick(s.URL)
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := client(t, cfg).Get(ctx, s.URL+"/more")
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := io.ReadAll(resp.Body); !errors.Is(err, context.Canceled) {
		t.Errorf("got the error %v", err)
	}
	if err := resp.Body.Close(); err != nil {
		t.Error(err)
	}
	if n, err := resp.Body.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Errorf("read %d bytes after Close, %v", n, err)
	}
	// Whoever reads slowly is not the server's fault.
	cfg.IdleTimeout = 500 * time.Millisecond
	resp, err = client(t, cfg).Get(t.Context(), s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
		t.Error(err)
	}
	<-time.After(cfg.IdleTimeout * 5 / 4)
	if n, err := io.Copy(io.Discard, resp.Body); n != 1<<20-10 || err != nil {
		t.Errorf("read %d bytes: %v", n, err)
	}
}

func FuzzContentRange(f *testing.F) {
	for _, s := range []string{"bytes 5-9/10", "bytes 5-9/*", "bytes */10", "bytes 9-5/10", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		start, size, ok := contentRange(text)
		if ok && (start < 0 || size >= 0 && start >= size) {
			t.Errorf("%q is %d of %d", text, start, size)
		}
	})
}
