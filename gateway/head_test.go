package gateway

import (
	"bufio"
	"bytes"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/valyala/fasthttp"
)

// plain is a request that the lane answers by itself.
const plain = "POST /v2/models/m/infer HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"

// TestHead tells plain heads from parts of them and from all others.
func TestHead(t *testing.T) {
	f := func(data string, want headState) {
		t.Helper()
		var h head
		if got := h.parse([]byte(data)); got != want {
			t.Errorf("%q is %d, want %d", data, got, want)
		}
	}
	end := strings.Index(plain, "{}")
	for n := range end {
		f(plain[:n], headPartial)
	}
	f(plain[:end], headPlain)
	f(plain+plain, headPlain)
	line, _, _ := strings.Cut(plain, "\r\n")
	with := func(fields string) string { return line + "\r\nHost: h\r\n" + fields + "\r\n" }
	const length = "content-LENGTH: \t7 \r\n"
	f(with(length), headPlain)
	f(with(length+"Connection: Keep-Alive\r\nAccept: */*\r\nx-y!#: \xff\r\n"), headPlain)
	f(with(length+"X-Request-Timeout-Ms: 5\r\nInference-Header-Content-Length: 7\r\n"), headPlain)
	for _, fields := range []string{
		"", "Content-Length: \r\n", "Content-Length: +7\r\n", "Content-Length: 7, 7\r\n",
		"Content-Length: 1234567890\r\n", length + length, length + "Host: h\r\n",
		length + "Transfer-Encoding: chunked\r\n", length + "Content-Encoding: gzip\r\n",
		length + "Expect: 100-continue\r\n", length + "Connection: close\r\n",
		length + "Connection: upgrade\r\n", length + "Upgrade: h2c\r\n", length + "TE: x\r\n",
		length + "Trailer: x\r\n", length + "X: a\rb\r\n", length + "X: a\x00b\r\n",
		length + " X: y\r\n", length + "X : y\r\n", length + ": y\r\n", length + "X\r\n",
		length + "Inference-Header-Content-Length: 8\r\n",
		length + "Inference-Header-Content-Length: x\r\n", length + "X-Request-Timeout-Ms: 0\r\n",
		length + "X-Request-Timeout-Ms: 1\r\nX-Request-Timeout-Ms: 2\r\n",
	} {
		f(with(fields), headOther)
	}
	f(strings.Replace(plain, "Host: h", "Host:", 1), headOther)
	for _, line := range []string{
		"GET /v2/models/m/infer HTTP/1.1", "POST /v2/models/m/infer HTTP/1.0",
		"POST /v2/models/m HTTP/1.1", "POST /v2/models//infer HTTP/1.1",
		"POST /v2/models/m/infer?x HTTP/1.1", "POST /v2/models/%6d/infer HTTP/1.1",
		"POST /v2/models/m/versions//infer HTTP/1.1", "POST  /v2/models/m/infer HTTP/1.1",
		"POST /v2/models/m/infer  HTTP/1.1", "POST /v2/models/m\x01/infer HTTP/1.1",
	} {
		f(line+"\r\nHost: h\r\n"+length+"\r\n", headOther)
	}
}

// control marks characters in values that fasthttp refuses and the lane passes
// over: none of them ends a line.
func control(r rune) bool {
	return r < ' ' && r != '\t' && r != '\r' && r != '\n' || r == 0x7f
}

// FuzzHead holds what the lane takes for plain against fasthttp's parser: both
// must see the same request, or the lane would answer another one.
func FuzzHead(f *testing.F) {
	f.Add([]byte(plain))
	for _, fields := range []string{
		"Accept-Encoding: gzip;q=0, deflate\r\n",
		"Accept-Encoding: gzip\r\nAccept-Encoding: br\r\n",
		"X-Request-Timeout-Ms: 15\r\n", "Inference-Header-Content-Length: 1\r\n",
		"Connection: keep-alive\r\n", "connection: Keep-Alive \r\nAccept: */*\r\n", "X: \t\r\n",
		"Content-Type: application/json\r\nUser-Agent: x\r\nCookie: a=b; c\r\n", "X: a\rb\r\n",
		"X:\x80\r\n", "Content-Length: 2\r\n", "Transfer-Encoding: chunked\r\n", " folded\r\n",
	} {
		f.Add([]byte(strings.Replace(plain, "\r\n\r\n", "\r\n"+fields+"\r\n", 1)))
	}
	f.Add([]byte(strings.Replace(plain, "m/", "a.b-c~1/versions/v10/", 1)))
	f.Fuzz(func(t *testing.T, data []byte) {
		var h head
		if h.parse(data) != headPlain || bytes.ContainsFunc(data, control) {
			return
		}
		var other fasthttp.RequestHeader
		r := bufio.NewReaderSize(bytes.NewReader(data), max(16, len(data)))
		if err := other.Read(r); err != nil {
			t.Fatalf("%q is plain, but not for fasthttp: %v", data, err)
		}
		if n := len(data) - r.Buffered(); n != h.bytes {
			t.Errorf("%q: the head has %d bytes, %d for fasthttp", data, h.bytes, n)
		}
		if err := checkFraming(&other); err != nil {
			t.Errorf("%q: %v", data, err)
		}
		var p target
		if err := p.parse(other.RequestURI()); err != nil || p.action != actionInfer ||
			!bytes.Equal(p.model, h.model) || !bytes.Equal(p.version, h.version) {
			t.Errorf("%q is for %q %q, for fasthttp %q %q, %v", data, h.model, h.version, p.model,
				p.version, err)
		}
		number := func(name string, none int) int {
			n, err := strconv.Atoi(string(other.Peek(name)))
			if err != nil {
				return none
			}
			return n
		}
		if other.ContentLength() != h.body || number(headerLength, -1) != h.json ||
			number(headerTimeout, 0) != h.timeout || acceptedBy(&other) != h.accept {
			t.Errorf("%q: fasthttp sees other headers than %+v", data, h)
		}
		if !other.IsPost() || !other.IsHTTP11() || other.ConnectionClose() {
			t.Errorf("%q: fasthttp sees another request", data)
		}
	})
}

// TestAccepted picks encodings.
func TestAccepted(t *testing.T) {
	f := func(accept string, want encoding) {
		t.Helper()
		if got := accepted([]byte(accept)); got != want {
			t.Errorf("%q accepts %s, want %s", accept, got.name(), want.name())
		}
	}
	f("", identity)
	f("*", identity)
	f("br, zstd", identity)
	f("gzip", gzipped)
	f("GZip", gzipped)
	f("deflate", deflated)
	f("deflate, gzip", gzipped)
	f("gzip;q=0", identity)
	f("gzip; Q=0.000, deflate;q=0.5", deflated)
	f("gzip;q=0.001", gzipped)
	f(" gzip ;q=1.0 ,", gzipped)
	f("xgzip, gzipx", identity)
	f(",,;;=q", identity)
}

// FuzzTarget holds paths against the standard library's reading of them.
func FuzzTarget(f *testing.F) {
	for _, uri := range []string{
		"/v2", "/v2/", "/v2/models/m", "/v2/models/m/infer?x=1", "/v2/models/%2e%2e/infer",
		"/v2/models/m/versions/%31/ready", "http://h/v2/models/a%2fb/infer", "http://h", "://", "%",
		"/v2/models/%zz", "/v2/repository/models/m/load", "/v2/systemsharedmemory/status", "?", "",
		"/v2/models/stats", "/v2/trace/setting", "//v2", "/v2/models/m/versions/",
	} {
		f.Add(uri)
	}
	f.Fuzz(func(t *testing.T, uri string) {
		var p target
		if p.parse([]byte(uri)) != nil {
			return
		}
		path, _, _ := strings.Cut(uri, "?")
		for _, name := range [][]byte{p.model, p.version} {
			if len(name) > 0 && !strings.Contains(path, string(name)) &&
				!strings.Contains(path, "%") {
				t.Errorf("%q has the name %q", uri, name)
			}
		}
	})
}

// FuzzUnescape decodes what the standard library decodes, and in the same way.
func FuzzUnescape(f *testing.F) {
	for _, s := range []string{"", "m", "%41", "%", "%4", "%zz", "a%2Fb%00", "%+1", "+", "%c0%ae"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, err := unescape([]byte(s))
		want, wantErr := url.PathUnescape(s)
		if (err == nil) != (wantErr == nil) || err == nil && string(got) != want {
			t.Errorf("%q is %q, %v, want %q, %v", s, got, err, want, wantErr)
		}
	})
}

func TestAppendHex(t *testing.T) {
	for _, n := range []uint64{0, 9, 10, 0x0123456789abcdef, 0xfedcba9876543210, 1<<64 - 1} {
		if got, want := string(appendHex([]byte("-"), n)), fmt.Sprintf("-%016x", n); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}
