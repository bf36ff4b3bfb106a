package gateway_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/model"
)

// twoVersions is a repository with version 1 and 2 of the sample model simple:
// the second is the same.
func twoVersions(t testing.TB) string {
	t.Helper()
	folder := t.TempDir()
	from := filepath.Join(sampleModels, "simple")
	for _, version := range []string{"1", "2"} {
		to := filepath.Join(folder, "simple", version)
		if err := os.CopyFS(to, os.DirFS(filepath.Join(from, "1"))); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile(filepath.Join(from, "config.pbtxt"))
	if err != nil {
		t.Fatal(err)
	}
	text = append(text, "\nversion_policy { all {} }\n"...)
	to := filepath.Join(folder, "simple", "config.pbtxt")
	if err := os.WriteFile(to, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return folder
}

// arms are two versions of the sample model simple.
func arms(canary string, weight int) []route.ArmSpec {
	return []route.ArmSpec{{Name: "stable", Model: "simple", Version: "1"},
		{Name: "canary", Model: "simple", Version: canary, Weight: weight}}
}

// set puts endpoints into force.
func (s *server) set(t testing.TB, aliases route.Aliases, specs ...route.Spec) {
	t.Helper()
	table, err := route.New(specs, aliases)
	if err != nil {
		t.Fatal(err)
	}
	s.core.SetTable(table)
}

// infer sends a request on a connection of its own, one way.
func (w way) infer(t *testing.T, path, body string, header ...string) (*http.Response, string) {
	t.Helper()
	c := connect(t, w)
	lines := append([]string{"POST " + path + " HTTP/1.1", "Host: h",
		fmt.Sprint("Content-Length: ", len(body))}, header...)
	c.send(strings.Join(lines, "\r\n") + "\r\n\r\n" + body)
	return c.receive("POST")
}

const askE = "/v2/models/e/infer"

// zeros asks simple for the sums and differences of zeros, without an id.
var zeros = strings.ReplaceAll(`{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1,16],`+
	`"data":[ZEROS]},{"name":"INPUT1","datatype":"INT32","shape":[1,16],"data":[ZEROS]}]}`,
	"ZEROS", strings.TrimSuffix(strings.Repeat("0,", 16), ","))

func TestEndpointRoutes(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	s.set(t, route.Aliases{"simple": {"champion": "2"}},
		route.Spec{Name: "e", Arms: arms("@champion", 0), Rules: []route.RuleSpec{
			{Header: "X-Team", Exact: "risk", Arm: "canary"},
			{Header: "x-mail", Regexp: `.*@example\.org`, Arm: "canary"}}},
		route.Spec{Name: "sticky", Arms: arms("2", 5000),
			Sticky: &route.StickySpec{Header: "x-user"}},
		route.Spec{Name: "cookie", Arms: arms("2", 5000),
			Sticky: &route.StickySpec{Cookie: "who", Set: time.Hour}},
		route.Spec{Name: "input", Arms: arms("2", 5000),
			Sticky: &route.StickySpec{Input: "INPUT0"}},
		route.Spec{Name: "gone", Arms: arms("9", route.FullWeight)},
		route.Spec{Name: "simple", Arms: []route.ArmSpec{
			{Name: "stable", Model: "simple", Version: "1"}}})
	for _, w := range s.ways() {
		t.Run(w.name, func(t *testing.T) {
			f := func(path, header, version, route string) {
				t.Helper()
				var headers []string
				if header != "" {
					headers = []string{header}
				}
				resp, text := w.infer(t, path, zeros, headers...)
				if resp.StatusCode != 200 || resp.Header.Get("x-millrace-version") != version ||
					resp.Header.Get("x-millrace-route") != route ||
					!strings.Contains(text, `"model_version":"`+version+`"`) {
					t.Errorf("%s with %q is answered with %d %v %s", path, header, resp.StatusCode,
						resp.Header, text)
				}
				if id := resp.Header.Get("x-request-id"); route != "" && len(id) != 32 {
					t.Errorf("%s has the request id %q", path, id)
				}
			}
			f(askE, "", "1", "stable")
			f(askE, "x-team: risk", "2", "canary")
			f(askE, "X-TEAM: risk", "2", "canary")
			f(askE, "x-team: risky", "1", "stable")
			f(askE, "X-Mail: a@example.org", "2", "canary")
			f("/v2/models/e/versions/2/infer", "", "2", "pinned")
			f("/v2/models/e/versions/@champion/infer", "", "2", "pinned")
			f(askE, "x-millrace-version: champion", "2", "pinned")
			f(askE, "x-millrace-version: 2", "2", "pinned")
			f("/v2/models/simple/infer", "", "1", "stable")
			f("/v2/models/gone/infer", "", "1", "stable")
			s.wantSticky(t, w)
		})
	}
	if _, text := s.ask(t, "GET", "/v2/models/e", ""); !strings.Contains(text, `"name":"e"`) ||
		!strings.Contains(text, `"versions":["1","2"]`) {
		t.Errorf("the metadata of an endpoint is %s", text)
	}
	resp, text := s.ways()[0].infer(t, "/v2/models/e/versions/7/infer", zeros)
	if resp.StatusCode != 404 {
		t.Errorf("an unknown version is answered with %d %s", resp.StatusCode, text)
	}
}

// TestStickyBinary asks an endpoint whose key is in a binary tensor: of the requests that are
// decoded again, for the canary, the body is where their tensors are.
func TestStickyBinary(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", 5000),
		Sticky: &route.StickySpec{Input: "INPUT0"}})
	head := `{"inputs":[{"name":"INPUT0","datatype":"INT32","shape":[1,16],"parameters":` +
		`{"binary_data_size":64}},{"name":"INPUT1","datatype":"INT32","shape":[1,16],` +
		`"parameters":{"binary_data_size":64}}],"outputs":[{"name":"OUTPUT0"}]}`
	for _, w := range s.ways() {
		versions := make(map[string]int)
		for user := range int32(40) {
			body := []byte(head)
			var want []string
			for i := range int32(32) {
				n := 1000*user + i
				body = append(body, byte(n), byte(n>>8), byte(n>>16), byte(n>>24))
			}
			for i := range int32(16) {
				want = append(want, strconv.Itoa(int(2000*user+2*i+16)))
			}
			resp, text := w.infer(t, askE, string(body),
				"Inference-Header-Content-Length: "+strconv.Itoa(len(head)))
			if !strings.Contains(text, `"data":[`+strings.Join(want, ",")+`]`) {
				t.Fatalf("%s: user %d is answered with %s", w.name, user, text)
			}
			versions[resp.Header.Get("x-millrace-version")]++
		}
		if versions["1"] < 5 || versions["2"] < 5 {
			t.Errorf("%s: versions answered %v", w.name, versions)
		}
	}
}

// wantSticky asks the sticky endpoints, which have to agree with themselves.
func (s *server) wantSticky(t *testing.T, w way) {
	t.Helper()
	seen := make(map[string]int)
	for i := range 40 {
		user := fmt.Sprintf("x-user: %d", i)
		one, _ := w.infer(t, "/v2/models/sticky/infer", zeros, user)
		two, _ := w.infer(t, "/v2/models/sticky/infer", zeros, user)
		a, b := one.Header.Get("x-millrace-route"), two.Header.Get("x-millrace-route")
		if a != b {
			t.Errorf("user %d went to %s, then to %s", i, a, b)
		}
		seen[a]++

		one, _ = w.infer(t, "/v2/models/cookie/infer", zeros)
		cookie, _, _ := strings.Cut(one.Header.Get("Set-Cookie"), ";")
		if !strings.HasPrefix(cookie, "who=") {
			t.Fatalf("the cookie is %q", one.Header.Get("Set-Cookie"))
		}
		two, _ = w.infer(t, "/v2/models/cookie/infer", zeros, "Cookie: a=b; "+cookie)
		if a, b = one.Header.Get("x-millrace-route"), two.Header.Get("x-millrace-route"); a != b ||
			two.Header.Get("Set-Cookie") != "" {
			t.Errorf("cookie %s went to %s, then to %s", cookie, a, b)
		}
		body := strings.Replace(zeros, `"data":[0`, fmt.Sprintf(`"data":[%d`, i), 1)
		one, text := w.infer(t, "/v2/models/input/infer", body)
		two, again := w.infer(t, "/v2/models/input/infer", body)
		if a, b = one.Header.Get("x-millrace-route"), two.Header.Get("x-millrace-route"); a != b ||
			a == "" || text != again {
			t.Errorf("input %d went to %s, then to %s: %s", i, a, b, text)
		}
		seen["input "+a]++
	}
	for _, name := range []string{"stable", "canary", "input stable", "input canary"} {
		if seen[name] < 5 {
			t.Errorf("of 40 users %d went to %s", seen[name], name)
		}
	}
}

func TestEndpointLimits(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	one := []route.ArmSpec{{Name: "stable", Model: "simple"}}
	s.set(t, nil, route.Spec{Name: "rate", Arms: one, Limits: route.LimitSpec{Requests: 3}},
		route.Spec{Name: "rows", Arms: one, Limits: route.LimitSpec{Rows: 3}},
		route.Spec{Name: "adaptive", Arms: one, Limits: route.LimitSpec{Adaptive: true}},
		route.Spec{Name: "late", Arms: one, Limits: route.LimitSpec{Timeout: 1}})
	for _, w := range s.ways() {
		for _, name := range []string{"rate", "rows"} {
			refused := 0
			for range 20 {
				resp, text := w.infer(t, "/v2/models/"+name+"/infer", zeros)
				switch {
				case resp.StatusCode == 429 && resp.Header.Get("Retry-After") != "" &&
					strings.Contains(text, "a second"):
					refused++
				case resp.StatusCode != 200:
					t.Errorf("%s: %d %s", name, resp.StatusCode, text)
				}
			}
			if refused < 10 {
				t.Errorf("%s: %d of 20 requests are refused", name, refused)
			}
		}
		if resp, text := w.infer(t, "/v2/models/adaptive/infer", zeros); resp.StatusCode != 200 {
			t.Errorf("adaptive: %d %s", resp.StatusCode, text)
		}
		if resp, text := w.infer(t, "/v2/models/late/infer", zeros); resp.StatusCode != 504 {
			t.Errorf("a timeout of 1 ns: %d %s", resp.StatusCode, text)
		}
	}
}

func TestCachedAnswers(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	configs := map[string]cache.Config{"simple": {MaxBytes: 1 << 20}}
	if err := s.core.SetCaches(configs); err != nil {
		t.Fatal(err)
	}
	for i, w := range s.ways() {
		body := strings.Replace(zeros, `"data":[0`, fmt.Sprintf(`"data":[%d`, 100+i), 1)
		first, text := w.infer(t, simplePath, body)
		second, again := w.infer(t, simplePath, body)
		if a, b := first.Header.Get("x-millrace-cache"), second.Header.Get("x-millrace-cache"); a !=
			"miss" || b != "hit" || text != again || first.StatusCode != 200 {
			t.Errorf("%s: a %s and a %s: %s, %s", w.name, a, b, text, again)
		}
		bad := strings.Replace(body, `"shape":[1,16]`, `"shape":[2,8]`, 1)
		if resp, text := w.infer(t, simplePath, bad); resp.StatusCode != 400 {
			t.Errorf("%s: a bad request is answered with %d %s", w.name, resp.StatusCode, text)
		}
		if resp, _ := w.infer(t, simplePath, body); resp.Header.Get("x-millrace-cache") != "hit" {
			t.Errorf("%s: after a bad request the answer is a %s", w.name,
				resp.Header.Get("x-millrace-cache"))
		}
	}
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			w := s.ways()[i%2]
			c := connect(t, w)
			for n := range 50 {
				body := strings.Replace(zeros, `"data":[0`, fmt.Sprintf(`"data":[%d`, n), 1)
				c.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s",
					simplePath, len(body), body))
				resp, text := c.receive("POST")
				if resp.StatusCode != 200 ||
					!strings.Contains(text, fmt.Sprintf(`"data":[%d,`, n)) {
					t.Errorf("%s: %d: %d %s", w.name, n, resp.StatusCode, text)
					return
				}
			}
		})
	}
	wait.Wait()
	if text := s.metrics(t); !strings.Contains(text,
		`millrace_cache_requests_total{model="simple",result="hit"}`) {
		t.Error("the cache is not in the metrics")
	}
	_, text := s.ask(t, "GET", "/v2/models/simple/stats", "")
	var stats struct {
		Models []struct {
			Stats map[string]struct{ Count, NS uint64 } `json:"inference_stats"`
		} `json:"model_stats"`
	}
	if err := json.Unmarshal([]byte(text), &stats); err != nil || len(stats.Models) != 1 {
		t.Fatalf("the statistics are %s: %v", text, err)
	}
	k := stats.Models[0].Stats
	hit, miss := k["cache_hit"], k["cache_miss"]
	if n := hit.Count + miss.Count; n != k["success"].Count+2 || n < 400 || miss.Count < 50 ||
		hit.NS == 0 || miss.NS == 0 {
		t.Errorf("the statistics of a model with a cache are %s", text)
	}
}

// metrics returns what a scrape gets.
func (s *server) metrics(t *testing.T) string {
	t.Helper()
	r, err := http.NewRequest("GET", "/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &page{header: make(http.Header)}
	s.core.Handler().ServeHTTP(w, r)
	return w.String()
}

// page is an answer that is kept as text.
type page struct {
	strings.Builder
	header http.Header
}

func (p *page) Header() http.Header { return p.header }
func (p *page) WriteHeader(int)     {}

func TestFeedback(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	tell := func(body string, status int, want string) {
		t.Helper()
		resp, text := s.ask(t, "POST", "/v2/feedback", body)
		if resp.StatusCode != status || !strings.Contains(text, want) {
			t.Errorf("feedback %s is answered with %d %s", body, resp.StatusCode, text)
		}
	}
	tell(`{"id":"a","reward":1}`, 404, "there are no endpoints")
	cfg := feedback.DefaultConfig()
	cfg.Path = filepath.Join(t.TempDir(), "feedback.db")
	ledger, err := feedback.Open(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ledger.Close() })
	s.core.SetLedger(ledger)
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", route.FullWeight)})
	for _, w := range s.ways() {
		resp, _ := w.infer(t, askE, zeros)
		id := resp.Header.Get("x-request-id")
		tell(`{"id":"`+id+`","reward":0.5,"label":"cat"}`, 200, `"result":"accepted"`)
		tell(`{"id":"`+id+`","reward":0.5}`, 200, `"result":"duplicate"`)
		w.infer(t, askE, zeros, "x-request-id: from-"+w.name)
		tell(`{"id":"from-`+w.name+`","reward":1}`, 200, `"route":"canary"`)
		w.infer(t, askE, `{"id":"body-`+w.name+`",`+zeros[1:], "x-request-id: other")
		tell(`{"request_id":"body-`+w.name+`","label":{"x":[1]}}`, 200, `"result":"accepted"`)
	}
	counts := s.core.ArmCounts("e")
	ways := float64(len(s.ways()))
	if c := counts[1]; len(counts) != 2 || counts[0].Requests != 0 || c.Name != "canary" ||
		c.Version != "2" || c.Weight != route.FullWeight || float64(c.Requests) != 3*ways ||
		c.Rewards != (route.Evidence{N: 2 * ways, Reward: 1.5 * ways}) {
		t.Errorf("%+v", counts)
	}
	if c := s.core.ArmCounts("nobody"); c != nil {
		t.Errorf("%+v", c)
	}
	tell(`{"id":"nobody","reward":1}`, 404, "no answered request")
	tell(`{"id":"nobody","reward":1e9}`, 400, "reward")
	tell(`{"id":"nobody","reward":NaN}`, 400, "")
	tell(`{"id":"nobody"}`, 400, "label")
	tell(`{"reward":1}`, 400, "id")
	tell(`{"id":"a","reward":1,"more":2}`, 400, "more")
	tell(`{"id":"a","reward":1}}`, 400, "follows")
	tell(``, 400, "")
	accepted := `millrace_feedback_total{result="accepted"} 6`
	text := s.metrics(t)
	for _, sum := range []string{"rewards_total", "reward_sum_total"} {
		line := `millrace_feedback_` + sum + `{endpoint="e",model="simple",version="2"} ` +
			map[string]string{"rewards_total": "4", "reward_sum_total": "3"}[sum]
		if !strings.Contains(text, line) {
			t.Errorf("the metrics lack %s", line)
		}
	}
	if !strings.Contains(text, accepted) {
		t.Error("six accepted rewards are not in the metrics")
	}
}

// TestDialects asks the iris model, which has a matrix as its input, in each
// dialect, and holds the answers against one in the Open Inference Protocol.
func TestDialects(t *testing.T) {
	s := serve(t, model.ModeNone, sampleModels, nil)
	kind := "application/json"
	f := func(path, body string, status int, want string) {
		t.Helper()
		for _, w := range s.ways() {
			resp, text := w.infer(t, path, body, "Content-Type: "+kind)
			if resp.StatusCode != status || !strings.Contains(text, want) {
				t.Errorf("%s: %s %s is answered with %d %s, want %s", w.name, path, body,
					resp.StatusCode, text, want)
			}
			if status == 200 && (!json.Valid([]byte(text)) ||
				resp.Header.Get("x-millrace-version") != "1") {
				t.Errorf("%s: %s: %v %s", w.name, path, resp.Header, text)
			}
		}
	}
	f("/v1/models/mlp:predict", `{"instances":[`+row64+`]}`, 200, `{"predictions":[`)
	f("/v1/models/mlp/versions/1:predict", `{"instances":[`+row64+`]}`, 200, `{"predictions":[`)
	f("/v1/models/nobody:predict", `{"instances":[[1]]}`, 404, `{"error":"`)
	f("/v1/models/mlp:predict", `{"instances":[[1]]}`, 400, `{"error":"`)
	f("/v1/models/mlp:predict", `{`, 400, `{"error":"`)
	f("/v1/models/mlp:explain", `{}`, 501, `{"error":"`)
	f("/mlp/invocations", `{"inputs":[`+row64+`]}`, 200, `{"predictions":`)
	f("/mlp/invocations", `{"instances":[`+row64+`,`+row64+`]}`, 200, `{"predictions":`)
	f("/mlp/versions/1/invocations", `{"inputs":[`+row64+`]}`, 200, `{"predictions":`)
	kind = "text/csv"
	f("/mlp/invocations", strings.Repeat("a,", 63)+"b\n"+
		strings.Trim(row64, "[]")+"\n", 200, `{"predictions":`)
	kind = "text/plain"
	f("/mlp/invocations", `x`, 415, `{"error_code":"BAD_REQUEST","message":"`)
	kind = "application/json"
	f("/mlp/invocations", `{"inputs":[[1]]}`, 400, `{"error_code":"BAD_REQUEST","message":"`)
	f("/nobody/invocations", `{"inputs":[[1]]}`, 404,
		`{"error_code":"RESOURCE_DOES_NOT_EXIST","message":"`)
	f("/invocations", `{"inputs":[[1]]}`, 400, "x-millrace-endpoint")
	f("/predict/mlp", `{"x":`+row64+`}`, 200, `{"`)
	f("/predict/mlp", `[{"x":`+row64+`}]`, 200, `[{"`)
	f("/predict/iris", `[5.1,3.5,1.4,0.2]`, 200, `setosa`)
	f("/predict/iris", `{"X":[5.1,3.5,1.4,0.2]}`, 200, `setosa`)
	f("/predict/iris", `{"sepal length (cm)":5.1,"petal length (cm)":1.4,`+
		`"sepal width (cm)":3.5,"petal width (cm)":0.2}`, 200, `setosa`)
	f("/predict/iris", `{"Y":1}`, 400, `sepal width`)
	s.set(t, nil, route.Spec{Name: "only", Arms: []route.ArmSpec{{Name: "stable", Model: "mlp"}}})
	f("/invocations", `{"inputs":[`+row64+`]}`, 200, `{"predictions":`)
	f("/predict", `{"x":`+row64+`}`, 200, `{"`)

	g := func(path, want string) {
		t.Helper()
		if resp, text := s.ask(t, "GET", path, ""); resp.StatusCode != 200 ||
			!strings.Contains(text, want) {
			t.Errorf("%s is answered with %d %s", path, resp.StatusCode, text)
		}
	}
	g("/v1/models", `"only"`)
	g("/v1/models/mlp", `{"name":"mlp","ready":true}`)
	g("/ping", "\n")
	g("/health", "\n")
	g("/version", "")
	g("/openapi.json", `"/predict/only"`)
	g("/docs", "<html")
	g("/", `{"status":"alive"}`)
}

var row64 = "[" + strings.TrimSuffix(strings.Repeat("0.5,", 64), ",") + "]"

// TestEndpointChange moves an endpoint to another version while clients ask.
func TestEndpointChange(t *testing.T) {
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", 0)})
	stop := make(chan struct{})
	var wait sync.WaitGroup
	for i := range 4 {
		wait.Go(func() {
			c := connect(t, s.ways()[i%2])
			for {
				select {
				case <-stop:
					return
				default:
				}
				fmt.Fprintf(c, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", askE,
					len(zeros), zeros)
				resp, err := http.ReadResponse(c.r, nil)
				if err != nil || resp.StatusCode != 200 {
					t.Errorf("while endpoints change: %v, %v", resp, err)
					return
				}
				_, _ = io.Copy(io.Discard, bufio.NewReader(resp.Body))
			}
		})
	}
	for i := range 200 {
		s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", i%2*route.FullWeight),
			Limits: route.LimitSpec{Concurrency: 100 + i%3}})
	}
	close(stop)
	wait.Wait()
	if e := s.core.Table().Endpoint([]byte("e")); e == nil || e.Arms[1].Weight == 0 {
		t.Errorf("the endpoint is %+v", e)
	}
}
