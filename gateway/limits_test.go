package gateway_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/runtime/model"
)

// resident returns the bytes of memory that the process really takes.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		t.Skip("the memory of a process is known on Linux only")
	}
	pages, err := strconv.ParseInt(strings.Fields(string(text))[1], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return pages * int64(os.Getpagesize())
}

// shortTimes cuts slow clients soon.
func shortTimes(_ *gateway.Config, c *gateway.HTTPConfig) {
	c.ReadTimeout, c.IdleTimeout = 300*time.Millisecond, 300*time.Millisecond
}

// dribble sends a byte at a time, slowly, until the server ends the connection.
func (c *client) dribble(request string) {
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for i := range len(request) {
			if _, err := io.WriteString(c.Conn, request[i:i+1]); err != nil {
				return
			}
			<-tick.C
		}
	}()
}

// TestSlowClients sends heads and bodies that never end, as well as nothing.
func TestSlowClients(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, shortTimes)
	whole := raw(simplePath, "", simpleBody)
	head := strings.Index(whole, "\r\n\r\n") + 4
	zip := raw(simplePath, "Content-Encoding: gzip\r\n", simpleBody)
	chunks := "POST " + simplePath + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"
	type slow struct{ at, rest string }
	t.Run("all", func(t *testing.T) { // ends when all have
		for _, w := range s.ways() {
			for i, r := range []slow{
				{"", whole}, {whole[:40], whole[40:]}, {whole[:head], whole[head:]},
				{zip[:head+24], zip[head+24:]}, {chunks, strings.Repeat("1\r\n \r\n", 1000)},
			} {
				t.Run(fmt.Sprint(w.name, i), func(t *testing.T) {
					t.Parallel()
					c := connect(t, w)
					if _, err := io.WriteString(c.Conn, r.at); err != nil {
						t.Fatal(err)
					}
					c.dribble(r.rest)
					resp, body := c.receive("POST")
					if resp.StatusCode != 408 || !resp.Close {
						t.Errorf("%.80q is answered with %d: %s", r.at, resp.StatusCode, body)
					}
					wantError(t, body, "in time")
					c.wantGoodEnd(resp)
				})
			}
			t.Run(w.name, func(t *testing.T) {
				t.Parallel()
				c := connect(t, w) // says nothing
				rest, err := io.ReadAll(c)
				if err != nil || len(rest) > 0 && !bytes.HasPrefix(rest, []byte("HTTP/1.1 408 ")) {
					t.Errorf("an idle connection is told %q, %v", rest, err)
				}
			})
		}
	})
	wantNothingLeft(t, s)
}

// TestDeclaredBodies opens connections that each announce a large body and
// send a byte of it: memory must not be taken for what does not come.
func TestDeclaredBodies(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	const declared = 60_000_000
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n", simplePath,
		declared)
	for _, w := range s.ways() {
		for _, more := range []string{"", "Content-Encoding: gzip\r\n"} {
			before := resident(t)
			for range 3 { // memory that is used again has to be cleared
				var clients []*client
				for range 100 {
					c := connect(t, w)
					if _, err := io.WriteString(c.Conn, head+more+"\r\n{"); err != nil {
						t.Fatal(err)
					}
					clients = append(clients, c)
				}
				if w.name == "lane" && more == "" {
					wantSoon(t, func() error {
						all := families(t, s.core)
						got := find(all["millrace_request_bytes_in_flight"]).GetGauge().GetValue()
						if want := float64(1 << 30 / declared * declared); got != want {
							return fmt.Errorf("%v bytes are in flight, want %v", got, want)
						}
						return nil
					})
				}
				if n := resident(t) - before; n > 150<<20 {
					t.Errorf("%s: 100 bodies of which a byte has come take %d MB", w.name, n>>20)
				}
				for _, c := range clients {
					_ = c.Close()
				}
				wantNothingLeft(t, s)
			}
		}
	}
}

// TestBodiesArrive sends large bodies in pieces of all sizes.
func TestBodiesArrive(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	large := strings.Replace(simpleBody, `"id"`, strings.Repeat(" ", 5<<20)+`"id"`, 1)
	for _, w := range s.ways() {
		c := connect(t, w)
		for _, body := range []string{simpleBody, large} {
			for _, chunk := range []int{1, 100, 64 << 10, 10 << 20} {
				if chunk == 1 && len(body) > 1<<20 {
					continue
				}
				var b bytes.Buffer
				fmt.Fprintf(&b, "POST %s HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n",
					simplePath)
				for rest := body; len(rest) > 0; {
					n := min(chunk, len(rest))
					fmt.Fprintf(&b, "%x\r\n%s\r\n", n, rest[:n])
					rest = rest[n:]
				}
				b.WriteString("0\r\n\r\n")
				for _, request := range []string{raw(simplePath, "", body), b.String()} {
					resp, text := c.send(request).receive("POST")
					if resp.StatusCode != 200 || !strings.Contains(text, `"7"`) {
						t.Errorf("%s: %d: %.200s", w.name, resp.StatusCode, text)
					}
				}
			}
		}
	}
	wantNothingLeft(t, s)
}

// TestRefusedBodies has clients that send their whole body, which nobody reads, before they look
// at the answer: it must be there, as the connection must not be reset.
func TestRefusedBodies(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, smallBodies)
	body := strings.Repeat(" ", 20<<20)
	for _, header := range []string{"", "Content-Type: text/plain\r\n", "Connection: close\r\n",
		"Content-Encoding: gzip\r\n", "X-Long: " + strings.Repeat("x", 1<<16) + "\r\n",
		"Transfer-Encoding: chunked\r\n"} {
		for _, path := range []string{simplePath, "/v2/models/nobody/infer"} {
			c := connect(t, s.ways()[0])
			_, err := io.WriteString(c.Conn, raw(path, header, body))
			if err != nil {
				t.Fatalf("%.40q: cannot send all: %v", header, err)
			}
			if resp, text := c.receive("POST"); resp.StatusCode < 400 || resp.StatusCode >= 500 {
				t.Errorf("%.40q %s: %d %s", header, path, resp.StatusCode, text)
			}
		}
	}
	wantNothingLeft(t, s)
}

// TestTinyChunks sends more chunks than a body could ever need.
func TestTinyChunks(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, smallBodies)
	for _, w := range s.ways() {
		c := connect(t, w)
		c.send("POST " + simplePath + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("1\r\n{\r\n", 100_000) + "0\r\n\r\n")
		resp, body := c.receive("POST")
		if resp.StatusCode != 400 {
			t.Errorf("%s: 100,000 chunks are answered with %d", w.name, resp.StatusCode)
		}
		wantError(t, body, "")
		c.wantGoodEnd(resp)
		c = connect(t, w)
		c.send("POST " + simplePath + " HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" +
			strings.Repeat("10000\r\n"+strings.Repeat(" ", 0x10000)+"\r\n", 100))
		if resp, body = c.receive("POST"); resp.StatusCode != 413 || !resp.Close {
			t.Errorf("%s: endless chunks are answered with %d", w.name, resp.StatusCode)
		}
		wantError(t, body, "4194304")
	}
	wantNothingLeft(t, s)
}

// TestPipelining sends requests without waiting for answers, good and bad ones, large and small.
func TestPipelining(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	for _, w := range s.ways() {
		c := connect(t, w)
		good, bad := raw(simplePath, "", simpleBody), raw(simplePath, "", "{}")
		other := "GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n"
		c.send(strings.Repeat(good+other+bad, 200))
		for i := range 600 {
			method := []string{"POST", "GET", "POST"}[i%3]
			resp, body := c.receive(method)
			if want := []int{200, 200, 400}[i%3]; resp.StatusCode != want {
				t.Fatalf("%s: request %d is answered with %d: %s", w.name, i, resp.StatusCode, body)
			}
		}
		long := raw(simplePath, "", strings.Repeat(" ", 40<<10)+simpleBody)
		text := strings.Repeat("text", 15<<10)
		blob := binary{model: "simple_identity", blobs: append([]byte{0, 0xf0, 0, 0}, text...),
			json: `{"inputs":[{"name":"INPUT0","shape":[1,1],"datatype":"BYTES"}]}`}.request()
		c.send(strings.Repeat(long+good+blob+good, 5))
		for i := range 20 {
			want := []string{`"OUTPUT1"`, `"OUTPUT1"`, `"data":["` + text + `"]`, `"OUTPUT1"`}[i%4]
			if resp, body := c.receive("POST"); !strings.Contains(body, want) {
				t.Fatalf("%s: request %d is answered with %d: %.200s", w.name, i, resp.StatusCode,
					body)
			}
		}
	}
	wantNothingLeft(t, s)
}

// TestLeavingClients close, or reset, in the middle of requests and before answers.
func TestLeavingClients(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	whole := raw(simplePath, "", simpleBody)
	zip := raw(simplePath, "Content-Encoding: gzip\r\n", simpleBody)
	for _, w := range s.ways() {
		for _, request := range []string{whole, zip, whole + whole[:100]} {
			for _, n := range []int{0, 1, 20, 100, 150, len(request) - 1, len(request)} {
				for _, how := range []string{"close", "reset", "half"} {
					c := connect(t, w)
					if _, err := io.WriteString(c.Conn, request[:n]); err != nil {
						t.Fatal(err)
					}
					tcp, ok := c.Conn.(*net.TCPConn)
					switch {
					case ok && how == "half":
						_ = tcp.CloseWrite()
						_ = tcp.SetReadDeadline(time.Now().Add(10 * time.Second))
						if _, err := io.ReadAll(tcp); err != nil {
							t.Errorf("%d bytes and an end: %v", n, err)
						}
					case ok && how == "reset":
						_ = tcp.SetLinger(0)
					}
					_ = c.Close()
				}
			}
		}
	}
	wantNothingLeft(t, s)
	for _, w := range s.ways() {
		c := connect(t, w)
		c.wantGoodEnd(&http.Response{})
	}
}
