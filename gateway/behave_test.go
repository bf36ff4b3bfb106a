package gateway_test

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/runtime/model"
)

// own makes a repository of models of other tests, each with a configuration.
func own(t *testing.T, configs map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, config := range configs {
		file, err := os.ReadFile(filepath.Join("../runtime/ort/testdata", name+".onnx"))
		if err != nil {
			t.Fatal(err)
		}
		version := filepath.Join(dir, name, "1")
		if err := os.MkdirAll(version, 0o755); err != nil {
			t.Fatal(err)
		}
		for path, content := range map[string][]byte{
			filepath.Join(version, "model.onnx"):     file,
			filepath.Join(dir, name, "config.pbtxt"): []byte(config),
		} {
			if err := os.WriteFile(path, content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// loop is a request for the model loop, which runs for as long as it is told.
func loop(times int64, parameters string) string {
	return fmt.Sprintf(`{"parameters":{%s},"inputs":[`+
		`{"name":"times","shape":[],"datatype":"INT64","data":[%d]},`+
		`{"name":"x","shape":[1],"datatype":"FP32","data":[1]}]}`, parameters, times)
}

const (
	loopPath = "/v2/models/loop/infer"
	endless  = math.MaxInt64
)

// TestTimeouts sends requests whose answer does not come in their time.
func TestTimeouts(t *testing.T) {
	s := serve(t, model.ModeNone, own(t, map[string]string{"loop": ""}), nil)
	short := serve(t, model.ModeNone, own(t, map[string]string{"loop": ""}),
		func(c *gateway.Config, _ *gateway.HTTPConfig) { c.RequestTimeout = 20_000_000 })
	for i, w := range s.ways() {
		f := func(w way, headers, body string) {
			t.Helper()
			c := connect(t, w)
			resp, text := c.send(raw(loopPath, headers, body)).receive("POST")
			if resp.StatusCode != 504 {
				t.Errorf("%s: %q, %s is answered with %d: %s", w.name, headers, body,
					resp.StatusCode, text)
			}
			wantError(t, text, "Request timeout expired")
			resp, text = c.send(raw(loopPath, "", loop(1, ""))).receive("POST")
			if resp.StatusCode != 200 || !strings.Contains(text, `"data":[2]`) {
				t.Errorf("%s: then comes %d: %s", w.name, resp.StatusCode, text)
			}
		}
		f(w, "", loop(endless, `"timeout":20000`))
		f(w, "", loop(endless, `"timeout":"20000"`))
		f(w, "", loop(endless, `"timeout":1,"priority":1`))
		f(w, "X-Request-Timeout-Ms: 20\r\n", loop(endless, ""))
		f(w, "X-Request-Timeout-Ms: 20\r\n", loop(endless, `"timeout":90000000`))
		f(w, "X-Request-Timeout-Ms: 90000\r\n", loop(endless, `"timeout":20000`))
		f(short.ways()[i], "", loop(endless, ""))
		for _, bad := range []string{"0x1", "-1", "1.5", "99999999999999999999"} {
			c := connect(t, w)
			c.send(raw(loopPath, "X-Request-Timeout-Ms: "+bad+"\r\n", loop(1, "")))
			if resp, text := c.receive("POST"); resp.StatusCode != 400 ||
				!strings.Contains(text, "X-Request-Timeout-Ms") {
				t.Errorf("%s: a timeout of %q is answered with %d: %s", w.name, bad,
					resp.StatusCode, text)
			}
		}
	}
	wantNothingLeft(t, s)
}

// hold starts a request, so that n are under way, that runs for a while; the
// returned function waits for its end.
func hold(t *testing.T, s *server, w way, n int64) (release func()) {
	t.Helper()
	c := connect(t, w)
	c.send(raw(loopPath, "", loop(endless, `"timeout":400000`)))
	wantSoon(t, func() error {
		if got := s.core.InFlight(); got != n {
			return fmt.Errorf("%s: %d requests are in flight, want %d", w.name, got, n)
		}
		return nil
	})
	return func() {
		if resp, text := c.receive("POST"); resp.StatusCode != 504 {
			t.Errorf("a request that was under way ends with %d: %s", resp.StatusCode, text)
		}
	}
}

// TestShedding fills every bound and asks for one more.
func TestShedding(t *testing.T) {
	const one = `instance_group [ { count: 1 } ]
dynamic_batching { default_queue_policy { max_queue_size: 1 } }`
	type bound struct {
		set    func(*gateway.Config)
		held   int // requests that fill it
		status int
		words  string
	}
	for _, b := range []bound{
		{func(c *gateway.Config) { c.MaxInFlight = 1 }, 1, 429, "in flight"},
		{func(c *gateway.Config) { c.MaxInFlight, c.ShedStatus = 1, 503 }, 1, 503, "in flight"},
		{func(c *gateway.Config) { c.MaxBytesInFlight = 300 }, 1, 429, "in flight"},
		{func(*gateway.Config) {}, 2, 429, "Exceeds maximum queue size"},
	} {
		s := serve(t, model.ModeNone, own(t, map[string]string{"loop": one}),
			func(c *gateway.Config, _ *gateway.HTTPConfig) { b.set(c) })
		for _, w := range s.ways() {
			wantNothingLeft(t, s)
			var releases []func()
			for i := range b.held {
				releases = append(releases, hold(t, s, w, int64(i+1)))
			}
			c := connect(t, w)
			resp, text := c.send(raw(loopPath, "", loop(1, ""))).receive("POST")
			if resp.StatusCode != b.status || resp.Header.Get("Retry-After") != "1" {
				t.Errorf("%s: one too many is answered with %d, %v: %s", w.name, resp.StatusCode,
					resp.Header, text)
			}
			wantError(t, text, b.words)
			for _, release := range releases {
				release()
			}
			wantNothingLeft(t, s)
			resp, text = c.send(raw(loopPath, "", loop(1, ""))).receive("POST")
			if resp.StatusCode != 200 {
				t.Errorf("%s: when there is room again: %d: %s", w.name, resp.StatusCode, text)
			}
		}
	}
}

// TestTooManyConnections opens one more than may be open.
func TestTooManyConnections(t *testing.T) {
	for i := range 2 {
		s := serve(t, model.ModeNone, sampleModels,
			func(_ *gateway.Config, c *gateway.HTTPConfig) { c.Connections = 2 })
		w := s.ways()[i]
		a, b := connect(t, w), connect(t, w)
		a.wantGoodEnd(&http.Response{})
		b.wantGoodEnd(&http.Response{})
		c := connect(t, w)
		resp, text := c.receive("POST")
		if resp.StatusCode != 503 || !resp.Close || resp.Header.Get("Retry-After") != "1" {
			t.Errorf("%s: the third of two connections is told %d, %v: %s", w.name, resp.StatusCode,
				resp.Header, text)
		}
		wantError(t, text, "too many connections|2")
		c.wantGoodEnd(resp)
		_ = a.Close()
		wantSoon(t, func() error {
			c := connect(t, w)
			defer c.Close()
			_, _ = io.WriteString(c, raw(simplePath, "", simpleBody))
			resp, err := http.ReadResponse(c.r, nil)
			if err != nil || resp.StatusCode != 200 {
				return fmt.Errorf("%s: one has closed, and still: %v, %v", w.name, resp, err)
			}
			return nil
		})
		_ = b.Close()
	}
}

// TestKindsOfRequests sends requests that are right and unusual.
func TestKindsOfRequests(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	for _, w := range s.ways() {
		f := func(request string, want bool) {
			t.Helper()
			c := connect(t, w)
			resp, text := c.send(request).receive("POST")
			if resp.StatusCode != 200 || !strings.Contains(text, `"data":[2,2`) ||
				resp.Close != want {
				t.Errorf("%s: %.100q is answered with %d, %v: %s", w.name, request,
					resp.StatusCode, resp.Header, text)
			}
			c.wantGoodEnd(resp)
		}
		n := len(simpleBody)
		whole := raw(simplePath, "", simpleBody)
		f(whole, false)
		f(strings.Replace(whole, simplePath, "http://h"+simplePath, 1), false)
		f(strings.Replace(whole, simplePath, simplePath+"?a=b", 1), false)
		f(strings.Replace(whole, simplePath, "/v2/models/simple/versions/1/infer", 1), false)
		f(strings.Replace(whole, simplePath, "/v2/models/s%69mple/infer", 1), false)
		f(strings.Replace(whole, "HTTP/1.1", "HTTP/1.0", 1), true)
		f(strings.Replace(whole, "HTTP/1.1", "HTTP/1.0\r\nConnection: keep-alive", 1), false)
		f(raw(simplePath, "Connection: close\r\n", simpleBody), true)
		f(raw(simplePath, "Connection: keep-alive\r\n", simpleBody), false)
		f(raw(simplePath, "Content-Type: text/plain\r\nX-Y: ü\r\n", simpleBody), false)
		f(fmt.Sprintf("POST %s HTTP/1.1\r\nhost: h\r\ncontent-length:%d\r\n\r\n%s", simplePath, n,
			simpleBody), false)

		c := connect(t, w)
		c.send(strings.TrimSuffix(raw(simplePath, "Expect: 100-continue\r\n", simpleBody),
			simpleBody))
		if resp, err := http.ReadResponse(c.r, nil); err != nil || resp.StatusCode != 100 {
			t.Fatalf("%s: a client that waits is told %v, %v", w.name, resp, err)
		}
		if resp, text := c.send(simpleBody).receive("POST"); resp.StatusCode != 200 {
			t.Errorf("%s: after 100 comes %d: %s", w.name, resp.StatusCode, text)
		}
	}
}

// TestAllocations holds that a request on the lane takes nothing from the heap.
func TestAllocations(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	const warm, n = 2000, 10_000
	c := connect(t, s.ways()[0])
	request := []byte(raw(simplePath, "", simpleBody))
	var answer []byte
	round := func() {
		if _, err := c.Write(request); err != nil {
			t.Fatal(err)
		}
		if answer == nil {
			answer = make([]byte, 4096)
			got, err := c.Read(answer)
			if err != nil {
				t.Fatal(err)
			}
			answer = answer[:got]
			return
		}
		if _, err := io.ReadFull(c, answer); err != nil {
			t.Fatal(err)
		}
	}
	for range warm {
		round()
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		round()
	}
	runtime.ReadMemStats(&after)
	if !strings.HasPrefix(string(answer), "HTTP/1.1 200 OK\r\n") {
		t.Fatalf("the answer is %s", answer)
	}
	if each := float64(after.Mallocs-before.Mallocs) / n; each > 0.02 {
		t.Errorf("a request allocates %v times", each)
	}
}
