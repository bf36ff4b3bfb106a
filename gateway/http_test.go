package gateway_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/runtime/model"
)

// ask sends one request without special headers on a connection of its own.
func (s *server) ask(t *testing.T, method, path, body string) (*http.Response, string) {
	t.Helper()
	c := connect(t, s.ways()[0])
	c.send(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", method, path,
		len(body), body))
	resp, text := c.receive(method)
	if resp.Close {
		c.wantGoodEnd(resp)
		return resp, text
	}
	c.send("GET /v2/health/live HTTP/1.1\r\nHost: h\r\n\r\n")
	if next, body := c.receive("GET"); next.StatusCode != 200 {
		t.Errorf("after %s %s comes %d: %s", method, path, next.StatusCode, body)
	}
	return resp, text
}

// TestReading gets everything that can be got, and asks for its head.
func TestReading(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, func(c *gateway.Config, _ *gateway.HTTPConfig) {
		c.Name, c.Version = "triton", "1.2.3"
	})
	f := func(path, want string) {
		t.Helper()
		resp, text := s.ask(t, "GET", path, "")
		if resp.StatusCode != 200 || resp.Header.Get("Content-Type") != "application/json" ||
			!json.Valid([]byte(text)) {
			t.Errorf("%s is answered with %d, %v: %s", path, resp.StatusCode, resp.Header, text)
		}
		for _, part := range strings.Split(want, "|") {
			if !strings.Contains(text, part) {
				t.Errorf("%s is %s, want %s in it", path, text, part)
			}
		}
		head, nothing := s.ask(t, "HEAD", path, "")
		if head.StatusCode != 200 || nothing != "" || head.ContentLength != resp.ContentLength {
			t.Errorf("the head of %s is %d, %v", path, head.StatusCode, head.Header)
		}
	}
	f("/v2", `"name":"triton"|"version":"1.2.3"|"extensions":["classification"|"statistics"`)
	f("/v2/", `"name":"triton"`)
	f("/v2?x=1", `"name":"triton"`)
	f("http://somewhere/v2", `"name":"triton"`)
	f("/v2/health/live", `{"live":true}`)
	f("/v2/health/ready", `{"ready":true}`)
	f("/v2/models/simple", `"name":"simple"|"versions":["1"]|"platform":"onnxruntime_onnx"|`+
		`{"name":"INPUT0","datatype":"INT32","shape":[-1,16]}|"outputs":[{"name":"OUTPUT0"`)
	f("/v2/models/simple/versions/1", `"name":"simple"`)
	f("/v2/models/s%69mple", `"name":"simple"`)
	f("/v2/models/simple/ready", `{"name":"simple","ready":true}`)
	f("/v2/models/simple/versions/1/ready", `"ready":true`)
	f("/v2/models/simple/config", `"max_batch_size":|"data_type":|"dims":|"TYPE_INT32"`)
	f("/v2/models/simple/versions/1/config", `"simple"`)
	f("/v2/models/simple/stats", `{"model_stats":[{|"inference_count":0|"batch_stats":[]`)
	post(t, s.network, simplePath, []byte(simpleBody))
	f("/v2/models/simple/versions/1/stats", `"inference_count":1,|"execution_count":1,|`+
		`"success":{"count":1,|"queue":{|"compute_input":{|"compute_infer":{|"compute_output":{|`+
		`"cache_hit":{"count":0,"ns":0}|"cache_miss":{|{"batch_size":1,|"memory_usage":[{`)
	f("/v2/models/stats", `"name":"digits"|"name":"simple"`)
	f("/v2/repository/index", `{"name":"simple","version":"1","state":"READY"}`)
	f("/v2/logging", `"log_info":true|"log_format":"default"|"log_verbose_level":0`)

	s.core.Drain()
	for _, method := range []string{"GET", "HEAD"} {
		if resp, text := s.ask(t, method, "/v2/health/ready", ""); resp.StatusCode != 503 ||
			method == "GET" && text != `{"ready":false}` {
			t.Errorf("a server that drains is ready with %d: %s", resp.StatusCode, text)
		}
	}
	f("/v2/health/live", `{"live":true}`)
}

// TestRefusedControl asks for what is not there or not to be had, in wrong ways.
func TestRefusedControl(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	f := func(ask string, status int, words string) {
		t.Helper()
		part := strings.SplitN(ask+"  ", " ", 3)
		resp, text := s.ask(t, part[0], part[1], strings.TrimSpace(part[2]))
		if resp.StatusCode != status {
			t.Errorf("%s is answered with %d: %s", ask, resp.StatusCode, text)
		}
		if part[0] != "HEAD" {
			wantError(t, text, words)
		}
		if allow := resp.Header.Get("Allow"); (allow != "") != (status == 405) {
			t.Errorf("%s: Allow is %q in an answer of %d", ask, allow, status)
		}
	}
	for _, path := range []string{
		"/v2/health", "/v2/health/alive", "/v2/models", "/v2/x", "/v2/repository", "/metrics",
		"/v2/repository/models/simple/reload", "/v2/models/simple/versions", "/v2/trace",
		"/v2/repository/models/simple", "/v1/models/simple/x", "/v2/models/simple/x",
	} {
		f("GET "+path, 404, "Not Found")
		f("HEAD "+path, 404, "")
		f("POST "+path+" {}", 404, "Not Found")
	}
	for _, path := range []string{"", "/ready", "/config", "/stats", "/versions/1/ready"} {
		f("GET /v2/models/nothing"+path, 404, "unknown model: 'nothing'")
		f("HEAD /v2/models/nothing"+path, 404, "")
	}
	f("GET /v2/models/simple/versions/9/ready", 404, "unknown model: 'simple'|9")
	for _, path := range []string{
		"", "/health/live", "/health/ready", "/models/simple", "/models/simple/ready",
		"/models/stats", "/models/simple/config", "/models/simple/stats",
	} {
		f("POST /v2"+path+" {}", 405, "Method Not Allowed")
		f("DELETE /v2"+path, 405, "Method Not Allowed")
	}
	f("GET "+simplePath, 405, "Method Not Allowed")
	f("HEAD "+simplePath, 405, "")
	f("PUT "+simplePath+" {}", 405, "Method Not Allowed")
	f("BREW "+simplePath+" {}", 405, "Method Not Allowed")
	f("post "+simplePath+" {}", 405, "Method Not Allowed")
	f("GET /v2/repository/models/simple/load", 405, "Method Not Allowed")
	f("PUT /v2/repository/index {}", 405, "Method Not Allowed")
	f("DELETE /v2/logging", 405, "Method Not Allowed")
	for _, path := range []string{
		"/trace/setting", "/models/simple/trace/setting", "/systemsharedmemory/status",
		"/systemsharedmemory/region/x/register", "/cudasharedmemory/region/x/unregister",
		"/models/simple/generate", "/models/simple/generate_stream", "/repository/other/index",
	} {
		f("GET /v2"+path, 501, "not supported")
		f("POST /v2"+path+" {}", 501, "not supported")
	}
	f("POST /v2/repository/models/simple/load", 400, "explicit")
	f("POST /v2/repository/models/simple/unload", 400, "explicit")
	f(`POST /v2/repository/index {"ready":1}`, 400, "'ready'|boolean")
	f("POST /v2/repository/index [", 400, "'ready'")
	f("POST /v2/repository/index []", 400, "'ready'")
	f("POST /v2/logging [", 400, "logging")
	f("POST /v2/logging null", 400, "no object")
	f(`POST /v2/logging {"log_info":"x"}`, 400, "log_info")
	f(`POST /v2/logging {"nothing":true}`, 400, "nothing")
	f(`POST /v2/logging {"log_verbose_level":-1}`, 400, "log_verbose_level")
	f(`POST /v2/logging {"log_file":"/etc/x"}`, 501, "log_file")
	wantNothingLeft(t, s)
}

// TestRepository loads, lists and unloads.
func TestRepository(t *testing.T) {
	s := serve(t, model.ModeExplicit, sampleModels, nil)
	f := func(path, body string, status int, words string) {
		t.Helper()
		resp, text := s.ask(t, "POST", path, body)
		if resp.StatusCode != status {
			t.Errorf("%s %s is answered with %d: %s", path, body, resp.StatusCode, text)
		}
		for _, word := range strings.Split(words, "|") {
			if !strings.Contains(text, word) {
				t.Errorf("%s %s is answered with %q, want %q in it", path, body, text, word)
			}
		}
		if words == "" && text != "" {
			t.Errorf("%s %s is answered with %q", path, body, text)
		}
	}
	const index, simple = "/v2/repository/index", "/v2/repository/models/simple/"
	f(index, "", 200, `{"name":"simple"}`)
	f(index, `{"ready":true}`, 200, `[]`)
	f("/v2/repository/models/nothing/load", "", 404, "failed to load 'nothing'")
	f("/v2/repository/models/nothing/unload", "", 404, "nothing")
	f("/v2/repository/models/..%2f..%2fx/load", "", 404, "failed to load")
	f(simple+"load", "[]", 400, "load")
	f(simple+"load", `{"parameters":{"x":1}}`, 400, "config")
	f(simple+"load", `{"parameters":{"config":7}}`, 400, "config")
	f(simple+"load", `{"parameters":{"config":"{"}}`, 400, "failed to load 'simple'")
	f(simple+"load", `{"parameters":{"config":"{\"max_batch_size\":-1}"}}`, 400, "max_batch_size")
	f(simple+"load", "", 200, "")
	f(index, `{"ready":true}`, 200, `[{"name":"simple","version":"1","state":"READY"}]`)
	f(simplePath, simpleBody, 200, "OUTPUT0")
	f(simple+"unload", "", 200, "")
	f(simplePath, simpleBody, 503, "not ready|simple|unloaded")
	wantNothingLeft(t, s)
}

// TestLogging changes the log's level and reads it.
func TestLogging(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	f := func(body, want string) {
		t.Helper()
		resp, text := s.ask(t, "POST", "/v2/logging", body)
		_, got := s.ask(t, "GET", "/v2/logging", "")
		if resp.StatusCode != 200 || text != got || !strings.Contains(got, want) {
			t.Errorf("%s is answered with %d: %s, then %s", body, resp.StatusCode, text, got)
		}
	}
	f(`{}`, `"log_info":true`)
	f(`{"log_info":false}`, `"log_info":false`)
	f(`{"log_verbose_level":1}`, `"log_verbose_level":1`)
	f(`{"log_verbose_level":0,"log_warning":false,"log_info":false}`, `"log_warning":false`)
	f(`{"log_format":"default","log_file":"","log_info":true}`, `"log_warning":true`)
}
