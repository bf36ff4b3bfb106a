package source_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/registry/artifact"
	"github.com/millrace-ml/millrace/registry/source"
)

// bigFile is 20 MB of random bytes.
func bigFile() []byte {
	big := make([]byte, 20<<20)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(big)
	return big
}

// cutter cuts answers of an HTTP server after some bytes, as long as there are cuts left,
// and counts all bytes that it lets through.
type cutter struct {
	http.Handler
	after int64
	onCut func() // may be nil
	cuts  atomic.Int64
	sent  atomic.Int64
}

func (c *cutter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.Handler.ServeHTTP(&cutWriter{ResponseWriter: w, c: c}, r)
}

type cutWriter struct {
	http.ResponseWriter
	c    *cutter
	sent int64
}

func (w *cutWriter) Write(p []byte) (int, error) {
	if w.sent+int64(len(p)) > w.c.after && w.c.cuts.Add(-1) >= 0 {
		if w.c.onCut != nil {
			w.c.onCut()
		}
		panic(http.ErrAbortHandler)
	}
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	w.c.sent.Add(int64(n))
	return n, err
}

func openHTTPS(t *testing.T, url, digest string) (*source.HTTPS, *artifact.Store) {
	t.Helper()
	store := newStore(t)
	s, err := source.NewHTTPS(source.HTTPSConfig{URL: url, SHA256: digest, Access: loopback()},
		store)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s, store
}

// TestHTTPS fetches a file of 20 MB over a connection that breaks: at first so often that
// the call fails, then it goes on where that has stopped.
func TestHTTPS(t *testing.T) {
	big := bigFile()
	digest := fmt.Sprintf("%x", sha256.Sum256(big))
	changed := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	c := &cutter{after: 3 << 20, Handler: http.HandlerFunc(
		func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path != "/iris.onnx" {
				http.NotFound(w, r)
				return
			}
			w.Header().Set("ETag", `"1"`)
			http.ServeContent(w, r, "iris.onnx", changed, bytes.NewReader(big))
		})}
	server := httptest.NewServer(c)
	defer server.Close()
	s, store := openHTTPS(t, server.URL+"/iris.onnx", digest)
	l := listing(t, s, "iris")
	if len(l.Versions) != 1 || l.Versions[0].Name != digest[:12] ||
		!l.Versions[0].Created.Equal(changed) {
		t.Fatalf("the listing is %+v", l)
	}
	c.cuts.Store(5) // as many as there are attempts of one call
	if _, err := s.Pull(t.Context(), "iris", digest[:12]); err == nil {
		t.Fatal("a file in parts made a version")
	}
	if got := pull(t, s, store, digest[:12]); got["iris.onnx"] != string(big) {
		t.Errorf("the version has %d files", len(got))
	}
	if sent := c.sent.Load(); sent > int64(len(big))*5/4 {
		t.Errorf("%d bytes were sent for a file of %d", sent, len(big))
	}

	f := func(path, digest string, want error, text string) {
		t.Helper()
		s, store := openHTTPS(t, server.URL+path, digest)
		pullFails(t, s, store)("iris", digest[:12], want, text)
	}
	f("/iris.onnx", strings.Repeat("0", 64), artifact.ErrMismatch, "digest")
	f("/other.onnx", digest, source.ErrGone, "404")
	pullFails(t, s, store)("iris", "1", source.ErrGone, "the only version is "+digest[:12])
	s, _ = openHTTPS(t, server.URL+"/other.onnx", digest)
	results, err := s.Look(t.Context(), []string{"iris"})
	if err != nil || !errors.Is(results["iris"].Err, source.ErrGone) {
		t.Errorf("Look returns %v, %v", results, err)
	}
}
