package fetch

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// serve starts a server on loopback.
func serve(t *testing.T, f http.HandlerFunc) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(f)
	t.Cleanup(s.Close)
	return s
}

// quick is a Config for a server on loopback that is repeated soon.
func quick(origin string) Config {
	cfg := DefaultConfig()
	cfg.Origin = origin
	cfg.Allow = []string{"127.0.0.0/8"}
	cfg.Backoff, cfg.MaxBackoff = time.Millisecond, 4*time.Millisecond
	cfg.Attempts = 3
	return cfg
}

func client(t testing.TB, cfg Config) *Client {
	t.Helper()
	c, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// read asks for a file and reads all of it.
func read(t testing.TB, c *Client, req Request) (string, error) {
	t.Helper()
	resp, err := c.Do(t.Context(), req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return string(text), err
}

// want checks what an error wraps and says.
func want(t *testing.T, err, kind error, says string) {
	t.Helper()
	var e *Error
	if !errors.Is(err, kind) || !errors.As(err, &e) || !strings.Contains(err.Error(), says) {
		t.Errorf("got the error %v; want %v with %q", err, kind, says)
	}
}

func TestGet(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Accept-Encoding") != "" || r.Header.Get("Authorization") != "" {
			t.Errorf("got the header %v", r.Header)
		}
		w.Header().Set("X-Test", "yes")
		io.WriteString(w, "weights")
	})
	c := client(t, quick(s.URL))
	resp, err := c.Get(t.Context(), s.URL+"/a/b")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if string(text) != "weights" || err != nil || resp.Size != 7 || resp.Offset != 0 ||
		resp.Status != 200 || resp.Header.Get("X-Test") != "yes" || resp.URL != s.URL+"/a/b" {
		t.Errorf("got %q, %v, %+v", text, err, resp)
	}
	head, err := c.Do(t.Context(), Request{Method: "HEAD", URL: s.URL, Size: 7})
	if err != nil {
		t.Fatal(err)
	}
	defer head.Body.Close()
	if text, err := io.ReadAll(head.Body); len(text) != 0 || err != nil || head.Size != 7 {
		t.Errorf("got %q, %v, %+v", text, err, head)
	}
}

// TestRefused asks for what must not be asked.
func TestRefused(t *testing.T) {
	asked := atomic.Int32{}
	s := serve(t, func(w http.ResponseWriter, r *http.Request) { asked.Add(1) })
	cfg := quick(s.URL)
	cfg.Allow = nil
	c := client(t, cfg)
	f := func(url, says string) {
		t.Helper()
		_, err := read(t, c, Request{URL: url})
		want(t, err, ErrRefused, says)
	}
	_, port, _ := strings.Cut(strings.TrimPrefix(s.URL, "http://"), ":")
	f(s.URL, "127.0.0.1 is a loopback address")
	f("http://localhost:"+port, "is a loopback address")
	f("http://[::ffff:127.0.0.1]:"+port, "is a loopback address")
	f("http://169.254.169.254/latest/meta-data", "is a link-local or metadata address")
	f("http://[64:ff9b::a9fe:a9fe]/", "is a link-local or metadata address")
	f("http://0.0.0.0:"+port, "is the unspecified address")
	f("file:///etc/passwd", "scheme")
	f("ftp://1.1.1.1/", "scheme")
	f("http:///path", "host")
	f("http://user:secret@1.1.1.1/", "user name or password")
	f("http://\x7f/", "not a URL")
	for _, host := range []string{"0", "127.1", "2130706433"} { // which some take for addresses
		if _, err := read(t, c, Request{URL: "http://" + host + ":" + port}); err == nil {
			t.Errorf("%s was asked", host)
		}
	}
	if asked.Load() != 0 {
		t.Errorf("the server was asked %d times", asked.Load())
	}
	// A name that is allowed may resolve to loopback, another may not.
	cfg.Allow = []string{"LocalHost."}
	c = client(t, cfg)
	if _, err := read(t, c, Request{URL: "http://localhost:" + port}); err != nil {
		t.Error(err)
	}
	f(s.URL, "127.0.0.1 is a loopback address")
}

// noError returns a check that there is none.
func noError(t *testing.T) func(error) {
	return func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
}

// TestRedirects follows some and not others, and tells nobody else the credentials.
func TestRedirects(t *testing.T) {
	t.Setenv("MILLRACE_TEST_TOKEN", "s3cret")
	var mu sync.Mutex
	var seen []string
	note := func(r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.URL.Path+" "+r.Header.Get("Authorization")+r.Header.Get("X-Api-Key"))
	}
	var home string
	other := serve(t, func(w http.ResponseWriter, r *http.Request) {
		note(r)
		if r.URL.Path == "/back" {
			http.Redirect(w, r, home+"/end", http.StatusFound)
		}
	})
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		note(r)
		switch to := r.URL.Query().Get("to"); {
		case r.URL.Path == "/loop":
			http.Redirect(w, r, "/loop", http.StatusFound)
		case r.URL.Path == "/empty":
			w.WriteHeader(http.StatusFound)
		case to != "":
			w.Header().Set("Location", to)
			w.WriteHeader(http.StatusTemporaryRedirect)
		}
	})
	home = s.URL
	cfg := quick(s.URL)
	cfg.TokenEnv = "MILLRACE_TEST_TOKEN"
	c := client(t, cfg)
	f := func(method, path string, wanted ...string) error {
		t.Helper()
		seen = nil
		_, err := read(t, c, Request{Method: method, URL: s.URL + path,
			Header: http.Header{"X-Api-Key": {"+key"}}})
		if got := strings.Join(seen, ", "); got != strings.Join(wanted, ", ") {
			t.Errorf("%s leads to %s", path, got)
		}
		return err
	}
	ok := noError(t)
	const secret = " Bearer s3cret+key"
	to := func(u string) string { return "/?to=" + url.QueryEscape(u) }
	ok(f("GET", to("/end"), "/"+secret, "/end"+secret))
	ok(f("GET", to(other.URL+"/end"), "/"+secret, "/end "))
	ok(f("GET", to(other.URL+"/back"), "/"+secret, "/back ", "/end "))
	seen = nil
	_, err := read(t, c, Request{URL: other.URL + "/end"})
	ok(err)
	if seen[0] != "/end " {
		t.Errorf("another server was told %q", seen[0])
	}
	want(t, f("GET", to("http://169.254.169.254/latest"), "/"+secret), ErrRefused, "metadata")
	want(t, f("GET", to("http://10.0.0.1/?token=geheim"), "/"+secret), ErrRefused, "private")
	want(t, f("GET", to("file:///etc/passwd"), "/"+secret), ErrRedirect, "scheme")
	want(t, f("GET", to("http://u:p@"+s.URL[7:]), "/"+secret), ErrRedirect, "password")
	want(t, f("GET", "/empty", "/empty"+secret), ErrRedirect, "Location")
	want(t, f("POST", to("/end"), "/"+secret), ErrRedirect, "307 to a POST")
	six := []string{}
	for range cfg.MaxRedirects + 1 {
		six = append(six, "/loop"+secret)
	}
	want(t, f("GET", "/loop", six...), ErrRedirect, "more than 5")
}

// TestErrors checks what errors say, and that they keep secrets.
func TestErrors(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/html":
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			io.WriteString(w, "<!doctype html><title>Log \n in</title>")
		case "/404":
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(404)
			io.WriteString(w, `{"error_code": "RESOURCE_DOES_NOT_EXIST"}`)
		case "/500":
			w.WriteHeader(500)
			w.Write([]byte("a\x00\x1b[31m\nb" + strings.Repeat("x", 1<<20)))
		case "/json":
			io.WriteString(w, `{"a": 1`)
		case "/type":
			io.WriteString(w, `{"a": "one"}`)
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
		case "/large":
			w.(http.Flusher).Flush()
			w.Write(make([]byte, 2000))
		case "/206":
			w.Header().Set("Content-Range", "bytes 0-3/4")
			w.WriteHeader(206)
		}
	})
	cfg := quick(s.URL)
	cfg.MaxBytes = 1000
	c := client(t, cfg)
	f := func(path string, kind error, says string) {
		t.Helper()
		var v struct{ A int }
		err := c.JSON(t.Context(), Request{URL: s.URL + path + "?key=geheim&geheim"}, &v)
		want(t, err, kind, says)
		want(t, err, kind, "cannot GET "+s.URL+path+"?key=...&...: ")
		text := err.Error()
		if strings.Contains(text, "geheim") || strings.ContainsAny(text, "\x00\x1b\n") {
			t.Errorf("the error is %q", err)
		}
	}
	f("/html", ErrContent, `an HTML page with the title "Log in" came where JSON was expected`)
	f("/404", ErrStatus, `status 404 Not Found: {"error_code": "RESOURCE_DOES_NOT_EXIST"}`)
	f("/500", ErrStatus, "status 500 Internal Server Error: a [31m bxxx")
	f("/json", ErrContent, "unexpected end of JSON")
	f("/type", ErrContent, "cannot unmarshal string")
	f("/empty", ErrContent, "an empty body came")
	f("/gzip", ErrContent, `encoded as "gzip"`)
	f("/large", ErrTooLarge, "more than 1000 bytes")
	f("/206", ErrContent, "range")
	_, err := read(t, c, Request{URL: s.URL + "/large"})
	want(t, err, ErrTooLarge, "more than 1000 bytes")
	var e *Error
	err = c.JSON(t.Context(), Request{URL: s.URL + "/404"}, nil)
	if !errors.As(err, &e) || e.Status != 404 || !bytes.Contains(e.Body, []byte("RESOURCE")) {
		t.Errorf("got %+v", e)
	}
	s.Close()
	f("/gone", ErrConnection, "refused")
}

func TestRedact(t *testing.T) {
	for text, wanted := range map[string]string{
		"https://u:geheim@h:1/a%2Fb?x=geheim&geheim&y=#geheim": "https://h:1/a%2Fb?x=...&...&y=...",
		"http://h": "http://h",
	} {
		u, err := url.Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := Redact(u); got != wanted {
			t.Errorf("%s is shown as %s", text, got)
		}
	}
}

// status answers with a status some times, and then with a document.
func status(until int32, code int, header ...string) func(int32, http.ResponseWriter) {
	return func(n int32, w http.ResponseWriter) {
		if n > until {
			io.WriteString(w, "{}")
			return
		}
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

// TestRetry counts how often a server is asked.
func TestRetry(t *testing.T) {
	f := func(req Request, times int32, answer func(n int32, w http.ResponseWriter)) error {
		t.Helper()
		var asked atomic.Int32
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			if body, err := io.ReadAll(r.Body); r.Method == "POST" && string(body) != "body" {
				t.Errorf("got the body %q, %v", body, err)
			}
			answer(asked.Add(1), w)
		})
		req.URL = s.URL
		var v any
		err := client(t, quick(s.URL)).JSON(t.Context(), req, &v)
		if asked.Load() != times {
			t.Errorf("asked %d times, want %d: %v", asked.Load(), times, err)
		}
		return err
	}
	get, post := Request{}, Request{Method: "POST", Body: []byte("body")}
	search := post
	search.Idempotent = true
	for _, code := range []int{429, 502, 503, 504} {
		if err := f(get, 3, status(2, code)); err != nil {
			t.Error(err)
		}
		if err := f(search, 3, status(2, code)); err != nil {
			t.Error(err)
		}
		want(t, f(get, 3, status(3, code)), ErrStatus, strconv.Itoa(code))
		want(t, f(post, 1, status(2, code)), ErrStatus, strconv.Itoa(code))
	}
	for _, code := range []int{400, 401, 404, 500, 501} {
		want(t, f(get, 1, status(2, code)), ErrStatus, strconv.Itoa(code))
	}
	cut := func(until int32) func(int32, http.ResponseWriter) {
		return func(n int32, w http.ResponseWriter) {
			if n <= until {
				panic(http.ErrAbortHandler)
			}
			io.WriteString(w, "{}")
		}
	}
	if err := f(search, 3, cut(2)); err != nil {
		t.Error(err)
	}
	want(t, f(post, 1, cut(2)), ErrConnection, "EOF")
	half := func(n int32, w http.ResponseWriter) {
		w.Header().Set("Content-Length", "2")
		io.WriteString(w, "{}"[:min(n, 2)])
	}
	if err := f(get, 2, half); err != nil {
		t.Error(err)
	}
	// The host asks for more than a client waits.
	start := time.Now()
	err := f(get, 1, status(2, 503, "Retry-After", "100"))
	want(t, err, ErrStatus, "wait 1m40s")
	var e *Error
	if errors.As(err, &e); e.RetryAfter != 100*time.Second || time.Since(start) > 10*time.Second {
		t.Errorf("it asks for %v", e.RetryAfter)
	}
}

func TestRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 25, 20, 0, 0, 0, time.UTC)
	f := func(text string, want time.Duration) {
		t.Helper()
		if got := retryAfter(http.Header{"Retry-After": {text}}, now); got != want {
			t.Errorf("%q is %v, want %v", text, got, want)
		}
	}
	f("", 0)
	f("3", 3*time.Second)
	f("-3", 0)
	f("soon", 0)
	f("9223372036854775807", 365*24*time.Hour)
	f("Wed, 25 Nov 2026 20:00:07 GMT", 7*time.Second)
	f("Wed, 25 Nov 2026 19:00:07 GMT", 0)
}

// TestCredentials sends a password and tokens, read at each call.
func TestCredentials(t *testing.T) {
	var got atomic.Value
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		got.Store(r.Header.Get("Authorization"))
	})
	file := filepath.Join(t.TempDir(), "secret")
	f := func(set func(*Config), content, wanted string) {
		t.Helper()
		cfg := quick(s.URL)
		set(&cfg)
		c := client(t, cfg)
		t.Setenv("MILLRACE_TEST_SECRET", content)
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := read(t, c, Request{URL: s.URL})
		if wanted == "" {
			want(t, err, ErrCredentials, "")
			if strings.Contains(err.Error(), "geheim") {
				t.Error(err)
			}
		} else if err != nil || got.Load() != wanted {
			t.Errorf("got %v, %v; want %s", got.Load(), err, wanted)
		}
	}
	tokenFile := func(c *Config) { c.TokenFile = file }
	f(tokenFile, "one\n", "Bearer one")
	f(tokenFile, "two", "Bearer two")
	f(tokenFile, "\n", "")
	f(tokenFile, "geheim\r\nX-Evil: 1", "")
	f(tokenFile, strings.Repeat("geheim", 20_000), "")
	f(func(c *Config) { c.TokenFile = file + "2" }, "", "")
	f(func(c *Config) { c.TokenEnv = "MILLRACE_TEST_SECRET" }, "three", "Bearer three")
	f(func(c *Config) { c.Username, c.PasswordFile = "u", file }, "p", "Basic dTpw")
	f(func(c *Config) { c.Username, c.PasswordEnv = "u", "MILLRACE_TEST_SECRET" }, "p",
		"Basic dTpw")
}

func TestCA(t *testing.T) {
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/down" {
			http.Redirect(w, r, "http://"+r.Host, http.StatusFound)
		}
	}))
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not trust it
	s.StartTLS()
	defer s.Close()
	cfg := quick(s.URL)
	_, err := read(t, client(t, cfg), Request{URL: s.URL})
	want(t, err, ErrConnection, "certificate")
	cfg.CAFile = filepath.Join(t.TempDir(), "ca.pem")
	if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), "ca_file") {
		t.Errorf("got the error %v", err)
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(cfg.CAFile, block, 0o600); err != nil {
		t.Fatal(err)
	}
	c := client(t, cfg)
	if _, err := read(t, c, Request{URL: s.URL}); err != nil {
		t.Error(err)
	}
	_, err = read(t, c, Request{URL: s.URL + "/down"})
	want(t, err, ErrRedirect, "from https to http://")
}

// TestBreaker leaves a host alone that cannot work, and tries it again later.
func TestBreaker(t *testing.T) {
	var asked, code atomic.Int32
	code.Store(503)
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.WriteHeader(int(code.Load()))
	})
	healthy := serve(t, func(w http.ResponseWriter, r *http.Request) {})
	cfg := quick(s.URL)
	cfg.Attempts, cfg.BreakerFailures, cfg.BreakerTimeout = 1, 4, 400*time.Millisecond
	c := client(t, cfg)
	f := func(kind error, times int) {
		t.Helper()
		for range times {
			_, err := read(t, c, Request{URL: s.URL})
			if kind == nil && err != nil || kind != nil && !errors.Is(err, kind) {
				t.Errorf("got %v, want %v", err, kind)
			}
		}
	}
	f(ErrStatus, 4)
	f(ErrOpen, 10)
	if asked.Load() != 4 {
		t.Errorf("asked %d times", asked.Load())
	}
	if _, err := read(t, c, Request{URL: healthy.URL}); err != nil {
		t.Error(err)
	}
	<-time.After(cfg.BreakerTimeout * 5 / 4)
	f(ErrStatus, 1) // half open
	f(ErrOpen, 3)
	code.Store(200)
	<-time.After(cfg.BreakerTimeout * 5 / 4)
	f(nil, 10)
	// What is no sign of a host that is down does not open it.
	for _, status := range []int32{400, 404, 429, 500} {
		code.Store(status)
		f(ErrStatus, 10)
	}
	// A probe that the caller gives up must not keep it half open for ever.
	code.Store(503)
	f(ErrStatus, 4)
	<-time.After(cfg.BreakerTimeout * 5 / 4)
	code.Store(200)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Get(ctx, s.URL)
	want(t, err, context.Canceled, "")
	f(nil, 3)
	// Many hosts do not take much memory.
	for i := range 3 * maxBreakers {
		c.breaker(fmt.Sprint(i))
	}
	if len(c.breakers) > maxBreakers {
		t.Errorf("%d breakers", len(c.breakers))
	}
}

func TestConfig(t *testing.T) {
	f := func(change func(*Config), says string) {
		t.Helper()
		cfg := quick("http://127.0.0.1:1")
		change(&cfg)
		if _, err := New(cfg); err == nil || !strings.Contains(err.Error(), says) ||
			strings.Contains(err.Error(), "geheim") {
			t.Errorf("got the error %v, want %q", err, says)
		}
	}
	f(func(c *Config) { c.Origin = "" }, "uri:")
	f(func(c *Config) { c.Origin = "http://u:geheim@host" }, "password_file")
	f(func(c *Config) { c.Origin = "http://geheim\x00" }, "uri: not a URL")
	f(func(c *Config) { c.Allow = []string{"a/b"} }, "allow:")
	f(func(c *Config) { c.Username = "u" }, "username:")
	f(func(c *Config) { c.PasswordEnv = "u" }, "username:")
	f(func(c *Config) { c.TokenEnv, c.TokenFile = "a", "b" }, "more than one")
	f(func(c *Config) { c.Attempts = 0 }, "attempts:")
	f(func(c *Config) { *c = Config{} }, "max_bytes:")
}
