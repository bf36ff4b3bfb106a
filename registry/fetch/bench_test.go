package fetch

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkGet reads files of 64 MiB from loopback.
func BenchmarkGet(b *testing.B) {
	data := make([]byte, 64<<20)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write(data)
	}))
	defer s.Close()
	c := client(b, quick(s.URL))
	buffer := make([]byte, 256<<10)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Get(b.Context(), s.URL)
		if err != nil {
			b.Fatal(err)
		}
		if n, err := io.CopyBuffer(io.Discard, resp.Body, buffer); n != int64(len(data)) {
			b.Fatal(n, err)
		}
		resp.Body.Close()
	}
}

// BenchmarkJSON asks for a short document.
func BenchmarkJSON(b *testing.B) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"name": "fraud", "version": "7"}`)
	}))
	defer s.Close()
	c := client(b, quick(s.URL))
	b.ReportAllocs()
	for b.Loop() {
		var v struct{ Name, Version string }
		if err := c.JSON(b.Context(), Request{URL: s.URL}, &v); err != nil {
			b.Fatal(err)
		}
	}
}
