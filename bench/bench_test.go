package bench

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/bench/echo"
)

// listen opens a listener of the test's own.
func listen(t testing.TB, network, address string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// startEcho runs echo servers and returns their addresses.
func startEcho(t testing.TB) (overHTTP, overGRPC string) {
	t.Helper()
	h, g := listen(t, "tcp", "127.0.0.1:0"), listen(t, "tcp", "127.0.0.1:0")
	serveEcho(t, h, g)
	return h.Addr().String(), g.Addr().String()
}

func serveEcho(t testing.TB, h, g net.Listener) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- echo.Serve(ctx, h, g) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// serve runs an HTTP server of the standard library and returns its address.
func serve(t testing.TB, h http.HandlerFunc) string {
	t.Helper()
	l := listen(t, "tcp", "127.0.0.1:0")
	s := &http.Server{Handler: h}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}

// config is a short closed loop; tests change what they are about.
func config(address string, bodies ...string) Config {
	c := DefaultConfig()
	c.Address, c.Concurrency = address, 4
	c.Warmup, c.Duration, c.Count = 0, 0, 200
	for _, b := range bodies {
		c.Requests = append(c.Requests, Request{Path: "/some/path?x=1", Body: []byte(b)})
	}
	return c
}

// run runs c and checks how many requests ended well and how many did not.
func run(t testing.TB, c Config, ok, failed int64) Result {
	t.Helper()
	r, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if ok >= 0 && r.OK != ok || failed >= 0 && r.Failed != failed {
		t.Fatalf("%d good, %d failed; want %d and %d: %+v", r.OK, r.Failed, ok, failed, r)
	}
	return r
}

// TestClosedLoop: the requests arrive in turn, whole, and are counted exactly.
func TestClosedLoop(t *testing.T) {
	var a, b, wrong atomic.Int64
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		switch {
		case err != nil || r.RequestURI != "/some/path?x=1" || r.Method != "POST" ||
			r.Header.Get("X-Kind") != "k" || r.Host == "":
			wrong.Add(1)
		case string(body) == "first":
			a.Add(1)
		case string(body) == "second one":
			b.Add(1)
		default:
			wrong.Add(1)
		}
		_, _ = w.Write(body)
	})
	c := config(address, "first", "second one")
	c.Requests[0].Header = map[string]string{"X-Kind": "k"}
	c.Requests[1].Header = c.Requests[0].Header
	c.Check = func(i int, body []byte) error {
		if !bytes.Equal(body, c.Requests[i].Body) {
			return fmt.Errorf("got %q", body)
		}
		return nil
	}
	r := run(t, c, 200, 0)
	if a.Load() != 100 || b.Load() != 100 || wrong.Load() != 0 {
		t.Errorf("server saw %d, %d and %d wrong ones", a.Load(), b.Load(), wrong.Load())
	}
	if r.Statuses["200"] != 200 || r.Latency.P50 <= 0 || r.Latency.Max < r.Latency.P99 ||
		r.Rate <= 0 || r.BytesIn == 0 || r.Lateness != (Quantiles{}) {
		t.Errorf("%+v", r)
	}
}

// TestMethods: answers without a body, of unknown length and in chunks.
func TestMethods(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch r.Method {
		case "GET":
			w.(http.Flusher).Flush() // makes the answer chunked
			_, _ = io.WriteString(w, "in chunks")
		case "HEAD":
			w.Header().Set("Content-Length", "77")
		case "DELETE":
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusNoContent)
		}
	})
	c := config(address)
	c.Requests = []Request{{Method: "GET", Path: "/"}, {Method: "HEAD", Path: "/"},
		{Method: "DELETE", Path: "/"}}
	c.Count = 300
	c.Check = func(i int, body []byte) error {
		if want := []string{"in chunks", "", ""}[i]; string(body) != want {
			return fmt.Errorf("body %q of request %d", body, i)
		}
		return nil
	}
	if r := run(t, c, 300, 0); r.Statuses["204"] != 100 || r.Statuses["200"] != 200 {
		t.Errorf("%v", r.Statuses)
	}
}

// TestLarge: bodies that no socket buffer holds go out and come back in parts.
func TestLarge(t *testing.T) {
	h, g := startEcho(t)
	body := strings.Repeat("0123456789abcdef", 300<<10/16*10)
	for _, c := range []Config{config(h, body), config(g, body)} {
		if c.Address == g {
			c.Protocol, c.Requests[0].Path = GRPC, echo.Method
		}
		c.Count = 20
		c.Check = func(_ int, got []byte) error {
			if string(got) != body {
				return fmt.Errorf("%d bytes came back", len(got))
			}
			return nil
		}
		run(t, c, 20, 0)
	}
}

func TestUnixSockets(t *testing.T) {
	dir := t.TempDir()
	h, g := filepath.Join(dir, "h"), filepath.Join(dir, "g")
	serveEcho(t, listen(t, "unix", h), listen(t, "unix", g))
	c := config("unix:"+h, "x")
	c.Concurrency = 50
	run(t, c, 200, 0)
	c.Protocol, c.Address, c.Requests[0].Path = GRPC, "unix:"+g, echo.Method
	run(t, c, 200, 0)
}

// TestSteady: the rate of a closed loop is the server's, though as many requests are under way
// when the time begins and when it ends as are answered in it.
func TestSteady(t *testing.T) {
	var mu sync.Mutex
	var first time.Time
	served := 0
	address := serve(t, func(http.ResponseWriter, *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if served++; served == 1 {
			first = time.Now()
		}
		time.Sleep(4 * time.Millisecond)
	})
	c := config(address, "x")
	c.Count, c.Concurrency, c.Warmup, c.Duration = 0, 50, 300*time.Millisecond, 400*time.Millisecond
	r, err := Run(t.Context(), c)
	if err != nil || r.Failed > 0 {
		t.Fatal(err, r.Errors)
	}
	mu.Lock()
	defer mu.Unlock()
	want := float64(served) / time.Since(first).Seconds()
	if r.Rate < 0.8*want || r.Rate > 1.25*want {
		t.Errorf("%.0f/s, the server answered %.0f/s", r.Rate, want)
	}
}

// TestSchedules: on schedule all requests of the time are sent, no more, no less.
func TestSchedules(t *testing.T) {
	h, g := startEcho(t)
	for _, address := range []string{h, g} {
		c := config(address, "x")
		c.Count, c.Concurrency = 0, 32
		c.Rate, c.Warmup, c.Duration = 2000, 50*time.Millisecond, 300*time.Millisecond
		if address == g {
			c.Protocol, c.Requests[0].Path = GRPC, echo.Method
		} else {
			c.Workers = 2
		}
		r := run(t, c, 600, 0)
		if r.Elapsed < c.Duration || r.Rate > 2000 || r.Lateness.Max <= 0 {
			t.Errorf("%+v", r)
		}
	}
}

// TestStall: a server that stands still once cannot hide it from a schedule,
// though only one request was sent meanwhile.
func TestStall(t *testing.T) {
	const stall = 200 * time.Millisecond
	var seen atomic.Int64
	address := serve(t, func(http.ResponseWriter, *http.Request) {
		if seen.Add(1) == 50 {
			time.Sleep(stall)
		}
	})
	c := config(address, "x")
	c.Concurrency, c.Rate, c.Count = 1, 1000, 400
	r := run(t, c, 400, 0)
	// 200 of 400 requests were due in the stall; every tenth waited for 160 ms.
	if r.Latency.P90 < 3*stall/4 || r.Latency.Max < stall {
		t.Errorf("the stall of %v shows as %v", stall, r.Latency)
	}
	if r.Lateness.P99 >= stall/2 {
		t.Errorf("the server's stall was taken for the generator's: %v", r.Lateness)
	}
}

// TestLate: a generator that is held up says so.
func TestLate(t *testing.T) {
	h, g := startEcho(t)
	for _, address := range []string{h, g} {
		c := config(address, "x")
		c.Rate, c.Count, c.Concurrency = 1000, 100, 8
		c.Check = func(int, []byte) error { time.Sleep(5 * time.Millisecond); return nil }
		if address == g {
			c.Protocol, c.Requests[0].Path, c.Concurrency = GRPC, echo.Method, 1
			c.Check = nil
			c.MaxLateness = 1 // nobody is that good
		}
		if r := run(t, c, 100, 0); r.LimitedBy != LoadGenerator || r.LimitedWhy == "" {
			t.Errorf("%s: limited by %q: %q, %v", c.Protocol, r.LimitedBy, r.LimitedWhy, r.Lateness)
		}
	}
	r := Result{Busy: 0.97}
	if r.limit(time.Second); r.LimitedBy != LoadGenerator {
		t.Error("a saturated generator is not named")
	}
	r = Result{Busy: 0.5}
	if r.limit(time.Second); r.LimitedBy != "" {
		t.Error("an idle generator is named as the limit")
	}
}

// TestFailures: each kind of failure is counted once and told apart.
func TestFailures(t *testing.T) {
	var seen atomic.Int64
	l := listen(t, "tcp", "127.0.0.1:0")
	go func() { // of each five connections: reset, cut, garbage, surplus, and one that is fine
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go answerOddly(c.(*net.TCPConn), int(seen.Add(1)-1)%5)
		}
	}()
	c := config(l.Addr().String(), "x")
	c.Concurrency, c.Count = 1, 50
	r := run(t, c, 10, 40)
	got := make(map[string]int64)
	for _, e := range r.Errors {
		got[e.Text] = e.Count
	}
	if got["connection reset by peer"] != 10 || got[errClosed.Error()] != 10 ||
		got[errAnswer.Error()] != 10 || got[errSurplus.Error()] != 10 {
		t.Errorf("%v", r.Errors)
	}
}

func answerOddly(c *net.TCPConn, how int) {
	defer c.Close()
	if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
		return
	}
	switch how {
	case 0:
		_ = c.SetLinger(0)
	case 1:
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
	case 2:
		_, _ = io.WriteString(c, "220 mail\r\n\r\n")
	case 3:
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nabc")
	case 4:
		_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nuntil the end")
	}
}

// TestStatuses: other answers than good ones are failures with their text.
func TestStatuses(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too many", http.StatusTooManyRequests)
	})
	r := run(t, config(address, "x"), 0, 200)
	if r.Statuses["429"] != 200 || len(r.Errors) != 1 ||
		r.Errors[0].Text != "status 429: too many\n" || r.Latency != (Quantiles{}) {
		t.Errorf("%+v", r)
	}
	_, g := startEcho(t)
	c := config(g, "x")
	c.Protocol, c.Requests[0].Path = GRPC, "/no.Service/Method"
	if r := run(t, c, 0, 200); r.Statuses["Unimplemented"] != 200 || len(r.Errors) != 1 {
		t.Errorf("%+v", r)
	}
}

func TestChecks(t *testing.T) {
	h, g := startEcho(t)
	for _, address := range []string{h, g} {
		c := config(address, "x")
		if address == g {
			c.Protocol, c.Requests[0].Path = GRPC, echo.Method
		}
		c.CheckEvery = 4
		c.Check = func(int, []byte) error { return errors.New("not the answer") }
		if r := run(t, c, 150, 50); r.Errors[0].Text != "wrong answer: not the answer" {
			t.Errorf("%+v", r)
		}
	}
}

// TestTimeout: requests without an answer fail when their time is over, also
// those that could not even be sent.
func TestTimeout(t *testing.T) {
	release := make(chan struct{})
	address := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-release:
		case <-r.Context().Done():
		}
	})
	defer close(release)
	c := config(address, "x")
	c.Concurrency, c.Rate, c.Count = 2, 1000, 100
	c.Timeout = 150 * time.Millisecond
	r := run(t, c, 0, 100)
	got := make(map[string]int64)
	for _, e := range r.Errors {
		got[e.Text] = e.Count
	}
	if got[errTimeout.Error()] < 2 || got[errQueued.Error()] == 0 {
		t.Errorf("%v", r.Errors)
	}
}

// TestServerGone: a server that goes away fails requests, and one that comes
// back gets them again.
func TestServerGone(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	address := l.Addr().String()
	var answered atomic.Int64
	var second atomic.Bool
	handler := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { answered.Add(1) })
	s := &http.Server{Handler: handler}
	go func() { _ = s.Serve(l) }()
	c := config(address, "x")
	c.Rate, c.Count = 1000, 600
	c.CheckEvery = 1
	c.Check = func(int, []byte) error {
		if answered.Load() >= 100 && second.CompareAndSwap(false, true) {
			_ = s.Close()
			time.AfterFunc(100*time.Millisecond, func() {
				again, err := net.Listen("tcp", address)
				if err != nil {
					t.Error(err)
					return
				}
				s := &http.Server{Handler: handler}
				t.Cleanup(func() { _ = s.Close() })
				go func() { _ = s.Serve(again) }()
			})
		}
		return nil
	}
	r := run(t, c, -1, -1)
	if r.OK+r.Failed != 600 || r.Failed == 0 || r.OK < 200 {
		t.Errorf("%+v", r)
	}
}

func TestNobodyThere(t *testing.T) {
	l := listen(t, "tcp", "127.0.0.1:0")
	_ = l.Close()
	for _, p := range []Protocol{HTTP, GRPC} {
		c := config(l.Addr().String(), "x")
		c.Protocol = p
		_, err := Run(context.Background(), c)
		if err == nil || !strings.Contains(err.Error(), "cannot connect to "+l.Addr().String()) {
			t.Errorf("%s: %v", p, err)
		}
	}
}

// TestCancel: a run ends at once and keeps what it has.
func TestCancel(t *testing.T) {
	h, g := startEcho(t)
	for _, address := range []string{h, g} {
		for _, rate := range []float64{0, 500} {
			c := config(address, "x")
			if address == g {
				c.Protocol, c.Requests[0].Path = GRPC, echo.Method
			}
			c.Rate, c.Count, c.Duration = rate, 0, time.Hour
			ctx, cancel := context.WithCancel(context.Background())
			var seen atomic.Int64
			c.Check = func(int, []byte) error {
				if seen.Add(1) == 20 {
					cancel()
				}
				return nil
			}
			r, err := Run(ctx, c)
			if !errors.Is(err, context.Canceled) || r.OK < 16 || r.Elapsed > time.Minute {
				t.Errorf("%v: %+v", err, r)
			}
		}
	}
}

func TestPrint(t *testing.T) {
	h, _ := startEcho(t)
	c := config(h, "x")
	c.Rate = 5000
	r := run(t, c, 200, 0)
	r.Errors = []ErrorCount{{"odd", 3}}
	r.LimitedBy, r.LimitedWhy = LoadGenerator, "it slept"
	var b strings.Builder
	if err := r.Print(&b); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"5000/s on schedule", "200 in ", "status 200", "3: odd", "p99.9",
		"sent late", "load generator: it slept"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, &b)
		}
	}
	text, err := json.Marshal(r)
	var back Result
	if err == nil {
		err = json.Unmarshal(text, &back)
	}
	if err != nil || back.OK != 200 || back.Latency != r.Latency {
		t.Errorf("%v: %s", err, text)
	}
}

// BenchmarkClosedLoop shows what the generator and the echo server do together.
func BenchmarkClosedLoop(b *testing.B) {
	h, _ := startEcho(b)
	c := config(h, strings.Repeat("x", 674))
	c.Concurrency, c.Count = 64, int64(b.N)
	b.ReportAllocs()
	b.ResetTimer()
	r := run(b, c, int64(b.N), 0)
	b.ReportMetric(r.Rate, "answers/s")
}
