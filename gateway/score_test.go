package gateway_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/millrace-ml/millrace/gateway"
	"github.com/millrace-ml/millrace/gateway/cache"
	"github.com/millrace-ml/millrace/gateway/route"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// firstNumber scores answers of version 1 of simple by the first number of the first input, times
// so much: from 10 on they are outliers, of 99 there is no score, and 98 panics. Numbers are below
// 128. It wants the sum in the first output.
func firstNumber(t testing.TB, times float64) *route.Scorer {
	return &route.Scorer{Model: "simple", Version: "1",
		Score: func(inputs, outputs []tensor.Tensor) (float64, bool, bool) {
			x, y := inputs[0].Data[0], inputs[1].Data[0]
			if sum := outputs[0].Data[0]; sum != x+y {
				t.Errorf("the outputs are of another request: %d, want %d", sum, x+y)
			}
			if x == 98 {
				panic("98")
			}
			return times * float64(x), x >= 10, x != 99
		}}
}

// withFirst is a request for simple with a first number.
func withFirst(x int) string {
	return strings.Replace(zeros, `"data":[0`, fmt.Sprintf(`"data":[%d`, x), 1)
}

// scored is a server with endpoints of simple, whose scores are set before the endpoints are.
func scored(t testing.TB) *server {
	t.Helper()
	s := serve(t, model.ModeNone, twoVersions(t), nil)
	s.core.SetScorers(map[string]*route.Scorer{"e": firstNumber(t, 1.0/3)})
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", 0), Rules: []route.RuleSpec{
		{Header: "x-team", Exact: "risk", Arm: "canary"}}},
		route.Spec{Name: "other", Arms: arms("2", 0)})
	return s
}

func TestScores(t *testing.T) {
	s := scored(t)
	for _, w := range s.ways() {
		t.Run(w.name, func(t *testing.T) {
			// want is what the headers say, and parameters what the body does, empty for neither.
			f := func(path, body, want, parameters string) {
				t.Helper()
				var header []string
				if path == askE && want == "" {
					header = []string{"x-team: risk"}
				}
				resp, text := w.infer(t, path, body, header...)
				got := strings.TrimSpace(resp.Header.Get("x-millrace-outlier-score") + " " +
					resp.Header.Get("x-millrace-outlier"))
				if resp.StatusCode != 200 || got != want || !strings.Contains(text, parameters) ||
					parameters == "" && strings.Contains(text, "outlier") {
					t.Errorf("%s: %d %v %s, want %s and %s", path, resp.StatusCode, resp.Header,
						text, want, parameters)
				}
			}
			const third = `"parameters":{"outlier_score":0.3333333333333333,"outlier":false}`
			const ten = `"parameters":{"outlier_score":10,"outlier":true}`
			inBinary := strings.TrimSuffix(withFirst(30), "}") +
				`,"parameters":{"binary_data_output":true}}`
			columns := `{"inputs":{"INPUT0":[[` + sixteen(12) + `]],"INPUT1":[[` + sixteen(1) +
				`]]}}`
			row := `{"INPUT0":[` + sixteen(3) + `],"INPUT1":[` + sixteen(1) + `]}`
			f(askE, withFirst(1), "0.3333 false", third)
			f("/v2/models/e/versions/1/infer", withFirst(30), "10.0000 true", ten)
			f(askE, inBinary, "10.0000 true", ten)
			f("/v1/models/e:predict", columns, "4.0000 true", "")
			f("/e/invocations", columns, "4.0000 true", "")
			f("/predict/e", row, "1.0000 false", "")
			f(askE, withFirst(1), "", "") // the canary
			f("/v2/models/e/versions/2/infer", withFirst(1), "", "")
			f("/v2/models/e/versions/1/infer", withFirst(99), "", "")
			f("/v2/models/e/versions/1/infer", withFirst(98), "", "")
			f("/v2/models/simple/infer", withFirst(1), "", "")
			f("/v2/models/other/infer", withFirst(1), "", "")
			if resp, text := w.infer(t, askE, `{}`); resp.StatusCode != 400 ||
				resp.Header.Get("x-millrace-outlier") != "" {
				t.Errorf("a bad request: %d %v %s", resp.StatusCode, resp.Header, text)
			}
		})
	}
}

// sixteen are 16 numbers for JSON, of which the first is x and the others are 1.
func sixteen(x int) string { return fmt.Sprint(x) + strings.Repeat(",1", 15) }

// Scorers go on when endpoints change, come with those that are new, and go when they are taken
// away.
func TestSetScorers(t *testing.T) {
	s := scored(t)
	w := s.ways()[0]
	f := func(what, path, want string) {
		t.Helper()
		if resp, _ := w.infer(t, path, withFirst(3)); resp.Header.Get(
			"x-millrace-outlier-score") != want {
			t.Errorf("%s: %v, want %q", what, resp.Header, want)
		}
	}
	const askOther = "/v2/models/other/infer"
	f("at first", askE, "1.0000")
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", 0),
		Limits: route.LimitSpec{Concurrency: 100}})
	f("with other limits", askE, "1.0000")
	s.core.SetScorers(map[string]*route.Scorer{"e": firstNumber(t, 2), "other": firstNumber(t, 1)})
	f("with another scorer", askE, "6.0000")
	s.set(t, nil, route.Spec{Name: "other", Arms: arms("2", 0)})
	f("of a new endpoint", askOther, "3.0000")
	s.set(t, nil, route.Spec{Name: "e", Arms: arms("2", 0)})
	f("of one that was away", askE, "6.0000")
	s.core.SetScorers(nil)
	f("without", askE, "")
}

// Answers from the cache, and those to equal requests at a time, have the score of their request,
// and a new one as soon as there is another scorer.
func TestCachedScores(t *testing.T) {
	s := scored(t)
	err := s.core.SetCaches(map[string]cache.Config{"simple": {MaxBytes: 1 << 20}})
	if err != nil {
		t.Fatal(err)
	}
	for i, w := range s.ways() {
		f := func(cached, score string) {
			t.Helper()
			resp, text := w.infer(t, askE, withFirst(30+3*i))
			if resp.Header.Get("x-millrace-cache") != cached ||
				resp.Header.Get("x-millrace-outlier-score") != score ||
				!strings.Contains(text, `"outlier":true`) {
				t.Errorf("%s: %v %s, want a %s with %s", w.name, resp.Header, text, cached, score)
			}
		}
		s.core.SetScorers(map[string]*route.Scorer{"e": firstNumber(t, 1.0/3)})
		f("miss", fmt.Sprintf("%d.0000", 10+i))
		f("hit", fmt.Sprintf("%d.0000", 10+i))
		s.core.SetScorers(map[string]*route.Scorer{"e": firstNumber(t, 1)})
		f("hit", fmt.Sprintf("%d.0000", 30+3*i))
		s.core.SetScorers(nil)
		if resp, text := w.infer(t, askE, withFirst(30+3*i)); strings.Contains(text, "outlier") ||
			resp.Header.Get("x-millrace-cache") != "hit" {
			t.Errorf("%s: without a scorer: %v %s", w.name, resp.Header, text)
		}
	}
	s.core.SetScorers(map[string]*route.Scorer{"e": firstNumber(t, 1)})
	var wait sync.WaitGroup
	for i := range 8 {
		wait.Go(func() {
			c := connect(t, s.ways()[i%2])
			for n := range 30 {
				body := withFirst(n)
				c.send(fmt.Sprintf("POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s",
					askE, len(body), body))
				resp, text := c.receive("POST")
				if got := resp.Header.Get("x-millrace-outlier-score"); got !=
					fmt.Sprintf("%d.0000", n) {
					t.Errorf("%d has the score %s: %s", n, got, text)
					return
				}
			}
		})
	}
	wait.Wait()
}

// encoded returns a request for an endpoint from Begin to Finish, with its answer but without a
// run of its model.
func (s *server) encoded(t testing.TB, endpoint string) func() {
	name, body := []byte(endpoint), []byte(withFirst(3))
	var h route.Headers = user("somebody")
	sum := []tensor.Tensor{{Name: "OUTPUT0", Datatype: tensor.Int32, Shape: []int64{1, 16},
		Data: append([]byte{3}, make([]byte, 63)...)}, {Name: "OUTPUT1"}}
	var out, head []byte
	return func() {
		x, err := s.core.Begin(gateway.Query{Name: name, Headers: h}, gateway.ProtocolHTTP)
		if err != nil {
			t.Fatal(err)
		}
		if err = s.core.Decode(x, body, -1); err == nil {
			x.Answer.Model, x.Answer.Version = endpoint, "1"
			x.Answer.Sig, x.Answer.Outputs = x.Version.Signature(), sum
			out, _, err = s.core.Encode(out[:0], x)
		}
		if err != nil || x.Answer.Scored != (endpoint == "e") {
			t.Fatalf("%v: %s", err, out)
		}
		head = head[:0]
		x.Headers(func(name string, value []byte) {
			head = append(append(head, name...), value...)
		})
		s.core.Finish(x, nil)
	}
}

func TestScoreDoesNotAllocate(t *testing.T) {
	s := scored(t)
	for _, endpoint := range []string{"e", "other"} {
		if n := testing.AllocsPerRun(1000, s.encoded(t, endpoint)); n != 0 {
			t.Errorf("%s: %v allocations", endpoint, n)
		}
	}
}

// BenchmarkScored is a request from Begin to Finish, but for the run of its model: of an endpoint
// without a scorer, and of one whose scorer takes no time.
func BenchmarkScored(b *testing.B) {
	s := scored(b)
	for _, c := range []struct{ name, endpoint string }{{"without", "other"}, {"scored", "e"}} {
		b.Run(c.name, func(b *testing.B) {
			ask := s.encoded(b, c.endpoint)
			b.ReportAllocs()
			for b.Loop() {
				ask()
			}
		})
	}
}
