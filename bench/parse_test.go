package bench

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"
)

// feedAll hands in all of text at once, as a server would that then waits.
func feedAll(text string) (a answer, body string, size int, done bool, err error) {
	buf := []byte(text)
	size, done, err = a.feed(buf, false)
	if a.head > 0 {
		body = string(buf[a.head : a.head+a.body])
	}
	return a, body, size, done, err
}

func TestAnswers(t *testing.T) {
	f := func(text string, status int, body string, closes bool) {
		t.Helper()
		a, got, size, done, err := feedAll(text)
		if err != nil || !done || size != len(text) {
			t.Fatalf("%q: size %d of %d, done %v, %v", text, size, len(text), done, err)
		}
		if a.status != status || got != body || a.close != closes {
			t.Errorf("%q: status %d, body %q, close %v", text, a.status, got, a.close)
		}
		// The same bytes one by one: done at the last one and not before.
		buf := []byte(text)
		a = answer{}
		for n := 1; n <= len(buf); n++ {
			_, done, err := a.feed(buf[:n], false)
			if err != nil || done != (n == len(buf)) {
				t.Fatalf("%q: after %d bytes: done %v, %v", text, n, done, err)
			}
		}
		if got := string(buf[a.head : a.head+a.body]); got != body {
			t.Errorf("%q byte by byte: body %q", text, got)
		}
	}
	f("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 200, "hello", false)
	f("HTTP/1.1 200\r\ncontent-length:0\r\n\r\n", 200, "", false)
	f("HTTP/1.1 429 Too Many\r\nCONTENT-LENGTH: \t2 \r\nRetry-After: 1\r\n\r\nno", 429, "no", false)
	f("HTTP/1.1 200 OK\r\nConnection: Close\r\nContent-Length: 1\r\n\r\nx", 200, "x", true)
	f("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x", true)
	f("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 200, "x", false)
	f("HTTP/1.1 204 No Content\r\n\r\n", 204, "", false)
	f("HTTP/1.1 304 Not Modified\r\nContent-Length: 70\r\n\r\n", 304, "", false)
	const interim = "HTTP/1.1 100 Continue\r\n\r\n"
	f(interim+"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", false)
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	f(chunked+"0\r\n\r\n", 200, "", false)
	f(chunked+"3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n", 200, "abc0123456789", false)
	f(chunked+"1\r\nz\r\n000\r\nTrailer: yes\r\n\r\n", 200, "z", false)
}

func TestAnswerWithoutLength(t *testing.T) {
	a, body, _, done, err := feedAll("HTTP/1.1 200 OK\r\n\r\nuntil the end")
	if err != nil || done || body != "until the end" || !a.close || a.length != lengthUnknown {
		t.Fatalf("%+v, body %q, done %v, %v", a, body, done, err)
	}
}

func TestAnswerToHead(t *testing.T) {
	text := []byte("HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n")
	var a answer
	if size, done, err := a.feed(text, true); err != nil || !done || size != len(text) {
		t.Fatal(size, done, err)
	}
}

func TestMalformedAnswers(t *testing.T) {
	f := func(text string) {
		t.Helper()
		if _, _, _, done, err := feedAll(text); err == nil {
			t.Errorf("%.80q: no error, done %v", text, done)
		}
	}
	f("SMTP ready\r\n\r\n")
	f("HTTP/2.0 200 OK\r\n\r\n")
	f("HTTP/1.1 2x0 OK\r\n\r\n")
	f("HTTP/1.1 099 OK\r\n\r\n")
	f("HTTP/1.1 2000\r\n\r\n")
	f("HTTP/1.1 200 OK\r\nno colon\r\n\r\n")
	f("HTTP/1.1 200 OK\r\nA: b\r\n folded\r\n\r\n")
	f("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n")
	f("HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n")
	f("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
	f("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n")
	const chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
	f(chunked + "x\r\n")
	f(chunked + "\r\n\r\n")
	f(chunked + "-1\r\n")
	f(chunked + "7fffffffffffffff\r\n")
	f(chunked + "2\r\nabc\r\n")
	f(chunked + strings.Repeat("1", maxChunkLine+1))
	f("HTTP/1.1 200 OK\r\n" + strings.Repeat("A: b\r\n", maxHead/6+1))
}

// FuzzAnswer checks that no bytes make the parser read beyond them, that it
// says the same however they are cut, and that it agrees with net/http.
func FuzzAnswer(f *testing.F) {
	f.Add("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", 20)
	f.Add("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 30)
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", 50)
	f.Add("HTTP/1.0 200 OK\r\n\r\nrest", 3)
	f.Add("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc", 52)
	f.Fuzz(func(t *testing.T, text string, cut int) {
		a, body, size, done, err := feedAll(text)
		if done && (size > len(text) || a.head+a.body > size) {
			t.Fatalf("size %d, head %d, body %d of %d bytes", size, a.head, a.body, len(text))
		}
		if cut > 0 && cut < len(text) {
			buf := []byte(text)
			var b answer
			_, done2, err2 := b.feed(buf[:cut], false)
			if err2 == nil && !done2 {
				size2, done2, err2 := b.feed(buf, false)
				if (err2 == nil) != (err == nil) || done2 != done || size2 != size ||
					b.body != a.body {
					t.Fatalf("cut at %d: %d %v %v, whole: %d %v %v",
						cut, size2, done2, err2, size, done, err)
				}
			}
		}
		if err != nil || !done || a.start > 0 {
			return
		}
		want, err := http.ReadResponse(bufio.NewReader(strings.NewReader(text[:size])), nil)
		if err != nil {
			return // net/http checks more than a load generator has to
		}
		wantBody, err := io.ReadAll(want.Body)
		if err == nil && (want.StatusCode != a.status || !bytes.Equal(wantBody, []byte(body))) {
			t.Fatalf("status %d, body %q; net/http: %d, %q",
				a.status, body, want.StatusCode, wantBody)
		}
	})
}
