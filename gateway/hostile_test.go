package gateway_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/runtime/model"
)

const sampleModels = "../configs/models"

// simpleBody is a right request for the model simple.
var simpleBody = `{"id":"7","inputs":[` + intInput("INPUT0", 16) + "," +
	intInput("INPUT1", 16) + "]}"

func intInput(name string, n int) string {
	return fmt.Sprintf(`{"name":%q,"shape":[1,%d],"datatype":"INT32","data":[%s]}`, name, n,
		strings.TrimSuffix(strings.Repeat("1,", n), ","))
}

const simplePath = "/v2/models/simple/infer"

// raw is a request as it goes over the wire.
func raw(path, headers, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\n%sContent-Length: %d\r\n\r\n%s", path,
		headers, len(body), body)
}

// way is one of the two ways on which requests reach a server.
type way struct {
	name string
	dial func() (net.Conn, error)
}

func (s *server) ways() []way {
	return []way{
		{"lane", func() (net.Conn, error) { return net.Dial("tcp", s.address) }},
		{"fasthttp", func() (net.Conn, error) { return net.Dial("tcp", s.hidden) }},
	}
}

// client is a connection whose bytes a test writes itself.
type client struct {
	net.Conn
	t *testing.T
	r *bufio.Reader
}

func connect(t *testing.T, w way) *client {
	t.Helper()
	c, err := w.dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return &client{c, t, bufio.NewReader(c)}
}

// send writes in the background: a server may answer, and close, before it has
// read everything.
func (c *client) send(request string) *client {
	go func() { _, _ = io.WriteString(c.Conn, request) }()
	return c
}

// receive reads one answer, method being that of the request.
func (c *client) receive(method string) (*http.Response, string) {
	c.t.Helper()
	resp, err := http.ReadResponse(c.r, &http.Request{Method: method})
	if err != nil {
		c.t.Fatalf("there is no answer: %v", err)
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		c.t.Fatalf("the answer is cut short: %v", err)
	}
	return resp, string(body)
}

// wantGoodEnd holds that a connection either closes in order, after it has said
// so, or takes the next request.
func (c *client) wantGoodEnd(resp *http.Response) {
	c.t.Helper()
	if resp.Close {
		if rest, err := io.ReadAll(c.r); len(rest) > 0 {
			c.t.Errorf("after the last answer comes %q, %v", rest, err)
		}
		return
	}
	resp, body := c.send(raw(simplePath, "", simpleBody)).receive("POST")
	if resp.StatusCode != 200 {
		c.t.Errorf("the next request on the connection is answered with %d: %s", resp.StatusCode,
			body)
	}
}

// wantError holds that an answer is an error of the protocol: a JSON object
// with one text in which all of words stand.
func wantError(t *testing.T, body string, words string) {
	t.Helper()
	var e map[string]string
	if err := json.Unmarshal([]byte(body), &e); err != nil || len(e) != 1 || e["error"] == "" {
		t.Errorf("the answer is %q, not an error in JSON", body)
	}
	if !utf8.ValidString(body) || strings.Contains(e["error"], "goroutine") {
		t.Errorf("the error is %q", body)
	}
	for _, word := range strings.Split(words, "|") {
		if !strings.Contains(e["error"], word) {
			t.Errorf("the error is %q, want %q in it", e["error"], word)
		}
	}
}

// wantNothingLeft holds that no request is counted as under way any more.
func wantNothingLeft(t *testing.T, s *server) {
	t.Helper()
	wantSoon(t, func() error {
		all := families(t, s.core)
		requests := find(all["millrace_requests_in_flight"]).GetGauge().GetValue()
		bytes := find(all["millrace_request_bytes_in_flight"]).GetGauge().GetValue()
		if requests != 0 || bytes != 0 || s.core.InFlight() != 0 {
			return fmt.Errorf("%v requests with %v bytes are still in flight", requests, bytes)
		}
		return nil
	})
}

// wantSoon tries check until it holds.
func wantSoon(t *testing.T, check func() error) {
	t.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatal(err)
		}
	}
}

// smallBodies makes the bound of bodies one that tests reach quickly.
func smallBodies(c *gateway.Config, _ *gateway.HTTPConfig) { c.MaxBodyBytes = 4 << 20 }

// TestMalformedHTTP sends what is no request as it should be, or one that two
// readers may understand in two ways.
func TestMalformedHTTP(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, smallBodies)
	for _, w := range s.ways() {
		f := func(request string, status int, words string) {
			t.Helper()
			c := connect(t, w)
			resp, body := c.send(request).receive("POST")
			if resp.StatusCode != status {
				t.Errorf("%s: %.120q is answered with %d: %s", w.name, request, resp.StatusCode,
					body)
			}
			wantError(t, body, words)
			c.wantGoodEnd(resp)
		}
		line := "POST " + simplePath + " HTTP/1.1\r\n"
		chunked := line + "Host: a\r\nTransfer-Encoding: chunked\r\n\r\n"
		f(line+"Content-Length: 2\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", 400, "folded")
		f(line+"Host: a\r\nX y: a\r\nContent-Length: 2\r\n\r\n{}", 400, "no name of a header")
		f(strings.Replace(line, "/1.1", "/9.9", 1)+"Host: a\r\nContent-Length: 2\r\n\r\n{}", 400,
			"HTTP/9.9")
		f(line+"Host: a\r\nX: a\x00b\r\nContent-Length: 2\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nContent-Length : 2\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}x", 400, "malformed")
		f(line+"Host: a\r\nContent-Length: -2\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nContent-Length: +2\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nContent-Length: 0x2\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nContent-Length: 18446744073709551618\r\n\r\n{}", 400, "malformed")
		f(line+"Host: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"+
			"0\r\n\r\n", 400, "Content-Length|Transfer-Encoding")
		f(line+"Host: a\r\nTransfer-Encoding: identity\r\n\r\n", 400, "chunked")
		f("POST "+simplePath+" HTTP/1.0\r\nHost: a\r\n"+
			"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "malformed")
		f(line+"Host: a\r\nContent-Length: 2000000000000\r\n\r\n"+
			strings.Repeat("x", 9000), 413, "4194304")
		f(chunked+"5;\na\r\nhello\r\n0\r\n\r\n", 400, "body")
		f(chunked+"zz\r\nhello\r\n0\r\n\r\n", 400, "body")
		f(chunked+"-5\r\nhello\r\n0\r\n\r\n", 400, "body")
		f(chunked+"ffffffffffffffff\r\nhello", 400, "body")
		f("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", 400, "malformed")
		f("POST "+simplePath+"\r\n\r\n", 400, "malformed")
		f("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400, "malformed")
		f(line+"Host: a\r\nX: "+strings.Repeat("x", 17<<10)+"\r\n\r\n", 431, "16384")
		f(line+"Host: a\r\n"+strings.Repeat("X: x\r\n", 10_000)+"\r\n", 431, "16384")
		f("POST /v2/models/"+strings.Repeat("x", 17<<10)+"/infer HTTP/1.1\r\nHost: a\r\n\r\n", 431,
			"16384")
	}
	wantNothingLeft(t, s)
}

// TestBadPaths asks for what is not there, in ways that tell of other things.
func TestBadPaths(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	for _, w := range s.ways() {
		f := func(path string, status int, words string) {
			t.Helper()
			c := connect(t, w)
			resp, body := c.send(raw(path, "", simpleBody)).receive("POST")
			if resp.StatusCode != status {
				t.Errorf("%s: %.80q is answered with %d: %s", w.name, path, resp.StatusCode, body)
			}
			wantError(t, body, words)
			c.wantGoodEnd(resp)
		}
		f("/v2/models/nothing/infer", 404, "unknown model: 'nothing'")
		f("/v2/models/simple/versions/2/infer", 404, "unknown model: 'simple'|2")
		f("/v2/models/simple/versions//infer", 404, "Not Found")
		f("/v2/models//infer", 404, "")
		f("/v2/models/simple/versions/1/infer/more", 404, "Not Found")
		f("/v2/models/../models/simple/infer", 404, "")
		f("/v2/models/%2e%2e%2fsimple/infer", 404, "unknown model: '../simple'")
		f("/v2/models/%252e%252e/infer", 404, "unknown model: '%2e%2e'")
		f(`/v2/models/..\simple/infer`, 404, "unknown model")
		f("/v2/models/simple%00/infer", 404, "unknown model")
		f("/v2/models/simple%0d%0aX-Y:%20z/infer", 404, "unknown model")
		f("/v2/models/%c0%ae%c0%ae/infer", 404, "unknown model")
		f("/v2/models/%zz/infer", 400, "%XX")
		f("/v2/models/simple%2/infer", 400, "%XX")
		f("/v2/models/"+strings.Repeat("m", 8000)+"/infer", 404, "unknown model")
		f("/v2/models/simple/versions/"+strings.Repeat("1", 8000)+"/infer", 404, "unknown model")
		f("/v2/models/simple/versions/%2e%2e/infer", 404, "unknown model")
		f("/v2models/simple/infer", 404, "Not Found")
		f("/v3/models/simple/infer", 404, "Not Found")
		f("/", 405, "Method Not Allowed")
		f("http://h/v2models", 404, "Not Found")
		f("/v2/models/simple/inferx", 404, "Not Found")
		f("/v2/repository/models/%2e%2e%2fx/load", 400, "explicit")
	}
	wantNothingLeft(t, s)
}

// zipped returns body in an encoding.
func zipped(t *testing.T, encoding string, body []byte) string {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser = gzip.NewWriter(&b)
	if encoding == "deflate" {
		w = zlib.NewWriter(&b)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// allocated returns the bytes that were ever taken from the Go heap.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// TestEncodings sends compressed bodies, right ones and others.
func TestEncodings(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, smallBodies)
	good := zipped(t, "gzip", []byte(simpleBody))
	bomb := zipped(t, "gzip", make([]byte, 256<<20))
	for _, w := range s.ways() {
		f := func(encoding, body string, status int, words string) {
			t.Helper()
			c := connect(t, w)
			request := raw(simplePath, "Content-Encoding: "+encoding+"\r\n", body)
			resp, text := c.send(request).receive("POST")
			if resp.StatusCode != status {
				t.Errorf("%s: %s is answered with %d: %s", w.name, encoding, resp.StatusCode, text)
			}
			if accepts := resp.Header.Get("Accept-Encoding"); (accepts != "") != (status == 415) {
				t.Errorf("%s: Accept-Encoding is %q in an answer of %d", w.name, accepts, status)
			}
			if status != 200 {
				wantError(t, text, words)
			}
			c.wantGoodEnd(resp)
		}
		f("gzip", good, 200, "")
		f("GZip", good, 200, "")
		f("deflate", zipped(t, "deflate", []byte(simpleBody)), 200, "")
		f("identity", simpleBody, 200, "")
		f("br", simpleBody, 415, "br|gzip|deflate")
		f("zstd", simpleBody, 415, "zstd")
		f("gzip, gzip", zipped(t, "gzip", []byte(good)), 415, "gzip, gzip")
		f(strings.Repeat("x", 9000), simpleBody, 415, "gzip")
		f("gzip", simpleBody, 400, "gzip")
		f("deflate", good, 400, "deflate")
		f("gzip", good[:len(good)/2], 400, "body")
		f("gzip", good[:len(good)-6]+"xxxxxx", 400, "body")
		f("gzip", "", 400, "gzip")
		before := allocated()
		f("gzip", bomb, 413, "4194304")
		if n := allocated() - before; n > 64<<20 {
			t.Errorf("%s: %d bytes were allocated for a body that may have 4 MB", w.name, n)
		}
	}
	wantNothingLeft(t, s)
}
