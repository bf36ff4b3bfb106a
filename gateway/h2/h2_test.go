package h2_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/millrace-ml/millrace/gateway/h2"
)

// echo answers each request with its body and a trailer.
type echo struct{ got map[*h2.Stream]*bytes.Buffer }

func (e *echo) Opened(s *h2.Stream, fields []hpack.HeaderField, end bool) {
	e.got[s] = new(bytes.Buffer)
	if end {
		e.answer(s)
	}
}

func (e *echo) Data(s *h2.Stream, data []byte, end bool) {
	e.got[s].Write(data)
	s.Took(len(data))
	if end {
		e.answer(s)
	}
}

func (e *echo) answer(s *h2.Stream) {
	s.Header([]hpack.HeaderField{{Name: ":status", Value: "200"},
		{Name: "trailer", Value: "sum"}}, false)
	s.Data(e.got[s].Bytes())
	s.End([]hpack.HeaderField{{Name: "sum", Value: fmt.Sprint(e.got[s].Len())}})
	s.Release()
	delete(e.got, s)
}

func (e *echo) Reset(s *h2.Stream) {
	delete(e.got, s)
	s.Release()
}

// serve answers connections until the test ends.
func serve(t testing.TB) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wait.Wait() })
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			wait.Go(func() { talk(nc) })
		}
	}()
	return ln.Addr().String()
}

var config = h2.Config{Streams: 100, HeaderBytes: 16 << 10, FrameBytes: 1 << 20, Window: 1 << 20}

func talk(nc net.Conn) {
	defer nc.Close()
	c := h2.New(config, &echo{make(map[*h2.Stream]*bytes.Buffer)}, func(p []byte) (int, bool) {
		n, err := nc.Write(p)
		return n, err == nil
	})
	buf := make([]byte, 64<<10)
	for {
		if !c.Flush(true) {
			break
		}
		n, err := nc.Read(buf)
		if err != nil {
			break
		}
		if c.Receive(buf[:n]) != nil {
			c.Flush(true)
			nc.(*net.TCPConn).CloseWrite()
			_, _ = io.Copy(io.Discard, nc)
			break
		}
	}
	c.End()
}

func client(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func TestEcho(t *testing.T) {
	at := "http://" + serve(t) + "/x"
	c := client(t)
	var wait sync.WaitGroup
	for i, size := range []int{0, 1, 100, 16384, 16385, 65535, 65536, 1 << 20, 5 << 20} {
		wait.Go(func() {
			body := strings.Repeat(fmt.Sprint(i), size)
			r, err := c.Post(at, "text/plain", strings.NewReader(body))
			if err != nil {
				t.Error(size, err)
				return
			}
			defer r.Body.Close()
			got, err := io.ReadAll(r.Body)
			if err != nil || string(got) != body || r.Trailer.Get("sum") != fmt.Sprint(size) {
				t.Errorf("%d: %d bytes, %v, %v", size, len(got), err, r.Trailer)
			}
		})
	}
	wait.Wait()
	for range 1000 {
		r, err := c.Post(at, "text/plain", strings.NewReader("again"))
		if err != nil {
			t.Fatal(err)
		}
		got, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if string(got) != "again" {
			t.Fatal(string(got))
		}
	}
}

// FuzzReceive wants the same of bytes that come in steps as of all at once.
func FuzzReceive(f *testing.F) {
	var seed bytes.Buffer
	seed.WriteString(h2.Preface)
	fr := http2.NewFramer(&seed, nil)
	_ = fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/x"},
		{"te", "trailers"}} {
		_ = enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	_ = fr.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(),
		EndHeaders: true})
	_ = fr.WriteData(1, false, []byte("hello"))
	_ = fr.WriteDataPadded(1, true, []byte("there"), make([]byte, 3))
	_ = fr.WriteWindowUpdate(0, 100)
	_ = fr.WritePing(false, [8]byte{1})
	_ = fr.WriteRSTStream(1, http2.ErrCodeCancel)
	f.Add(seed.Bytes(), uint8(7))
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		run := func(step int) (string, string) {
			var out bytes.Buffer
			write := func(p []byte) (int, bool) { out.Write(p); return len(p), true }
			c := h2.New(config, &echo{make(map[*h2.Stream]*bytes.Buffer)}, write)
			var err error
			for rest := data; len(rest) > 0 && err == nil; {
				n := min(step, len(rest))
				err = c.Receive(bytes.Clone(rest[:n]))
				rest = rest[n:]
			}
			c.Flush(true)
			c.End()
			return out.String(), fmt.Sprint(err)
		}
		sent, err := run(int(step) + 1)
		if want, wantErr := run(max(len(data), 1)); err != wantErr || sent != want {
			t.Errorf("in steps %s %q, at once %s %q", err, sent, wantErr, want)
		}
	})
}
