package tap_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// peer takes events and answers with the statuses that it was given, the last
// of them for ever.
type peer struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	heads    []http.Header
	bodies   []string
}

func newPeer(t *testing.T, statuses ...int) *peer {
	p := &peer{statuses: statuses}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

func (p *peer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.heads, p.bodies = append(p.heads, r.Header), append(p.bodies, r.Method+string(body))
	status := p.statuses[min(len(p.heads), len(p.statuses))-1]
	w.Header().Set("Location", "/elsewhere")
	w.WriteHeader(status)
}

func (p *peer) config() tap.EventsConfig {
	return tap.EventsConfig{URL: p.URL, Backoff: time.Microsecond}
}

// send writes one record with its own writer.
func send(t *testing.T, cfg tap.EventsConfig, r tap.Record) (tap.Result, error) {
	t.Helper()
	e, err := tap.NewEvents(cfg)
	if err != nil {
		t.Fatal(err)
	}
	result, sendErr := e.Write(t.Context(), r)
	if _, err := e.Close(t.Context()); err != nil {
		t.Error(err)
	}
	return result, sendErr
}

// wantHead holds attributes against what is wanted. "" wants none.
func wantHead(t *testing.T, h http.Header, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got := h.Get(name); got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
}

func TestEventsOfASample(t *testing.T) {
	p := newPeer(t, 200)
	cfg := p.config()
	cfg.Source, cfg.Namespace = `the "house" 100% é`, "prod"
	s := take(t, tap.NewPool(1, 1<<20), "req-1", sampled{[]tensor.Tensor{floats("x", 1, 2), {}},
		[]tensor.Tensor{floats("y", 1)}})
	r, err := send(t, cfg, tap.Record{Sample: s})
	if err != nil || r.Samples != 1 || r.Failed != 0 || len(p.heads) != 2 {
		t.Fatalf("%+v, %v, %d events", r, err, len(p.heads))
	}
	want := map[string]string{
		"Content-Type": "application/json", "Ce-Specversion": "1.0", "Ce-Id": "req-1",
		"Ce-Source":               "the%20%22house%22%20100%25%20%C3%A9",
		"Ce-Type":                 "org.kubeflow.serving.inference.request",
		"Ce-Time":                 "2026-11-24T19:30:00.123456789Z",
		"Ce-Inferenceservicename": "fraud", "Ce-Namespace": "prod", "Ce-Component": "predictor",
		"Ce-Endpoint": "canary",
	}
	wantHead(t, p.heads[0], want)
	want["Ce-Type"] = "org.kubeflow.serving.inference.response"
	want["Ce-Time"] = "2026-11-24T19:30:00.124956789Z"
	wantHead(t, p.heads[1], want)
	const in = `POST{"id":"req-1",` +
		`"inputs":[{"name":"x","datatype":"FP32","shape":[1,2],"data":[0.0,0.0]}]}`
	const out = `POST{"model_name":"fraud-model","model_version":"3","id":"req-1",` +
		`"outputs":[{"name":"y","datatype":"FP32","shape":[1],"data":[0.0]}]}`
	if p.bodies[0] != in || p.bodies[1] != out {
		t.Errorf("the data is\n%s\n%s, want\n%s\n%s", p.bodies[0], p.bodies[1], in, out)
	}
	if r.Bytes != int64(len(in)+len(out)-8) {
		t.Errorf("%d bytes are counted", r.Bytes)
	}
}

// A request without an answer is one event, and what is redacted is not in it.
func TestEventsWithoutAnswer(t *testing.T) {
	p := newPeer(t, 202)
	e, err := tap.NewEvents(p.config())
	if err != nil {
		t.Fatal(err)
	}
	pool := tap.NewPool(2, 1<<20)
	k := tap.NewSink(tap.SinkConfig{Redact: []string{"x", "id"}}, e, slog.New(slog.DiscardHandler))
	for range 2 {
		s := take(t, pool, "secret", sampled{[]tensor.Tensor{floats("x", 1), floats("z", 1)}, nil})
		s.Endpoint, s.Route = "", ""
		k.Offer(s)
		s.Release()
	}
	if err := k.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	const want = `POST{"inputs":[{"name":"z","datatype":"FP32","shape":[1],"data":[0.0]}]}`
	if len(p.bodies) != 2 || p.bodies[0] != want || p.bodies[1] != want {
		t.Fatalf("the data is %q", p.bodies)
	}
	wantHead(t, p.heads[0], map[string]string{
		"Ce-Inferenceservicename": "fraud-model", "Ce-Endpoint": "", "Ce-Namespace": "",
		"Ce-Source": "millrace",
	})
	a, b := p.heads[0].Get("Ce-Id"), p.heads[1].Get("Ce-Id")
	if a == "" || a == b || strings.Contains(a+b, "secret") {
		t.Errorf("the ids are %q and %q", a, b)
	}
}

// The data of a request's event is a request that has the same tensors.
func TestEventsCanBeSentAgain(t *testing.T) {
	p := newPeer(t, 200)
	in := everything(false)
	in[tensor.Bytes-1] = everything(true)[tensor.Bytes-1] // not all of it is UTF-8
	s := take(t, tap.NewPool(1, 1<<20), "a", sampled{in, nil})
	if _, err := send(t, p.config(), tap.Record{Sample: s}); err != nil {
		t.Fatal(err)
	}
	sig := &tensor.Signature{}
	for i := range in {
		shape := make([]int64, len(in[i].Shape))
		for k := range shape {
			shape[k] = -1
		}
		sig.Inputs = append(sig.Inputs, tensor.Spec{Name: in[i].Name, Datatype: in[i].Datatype,
			Shape: shape, BatchAxis: -1})
	}
	var r wire.Request
	body := []byte(strings.TrimPrefix(p.bodies[0], "POST"))
	if err := wire.Decode(&r, sig, body, -1); err != nil {
		t.Fatal(err)
	}
	for i := range in {
		if got := r.Inputs[i]; string(got.Data) != string(in[i].Data) {
			t.Errorf("%s is\n%x, want\n%x", got.Name, got.Data, in[i].Data)
		}
	}
}

func TestEventsOfFeedback(t *testing.T) {
	p := newPeer(t, 200)
	reward := 1.0
	r, err := send(t, p.config(), tap.Record{Feedback: &tap.Feedback{
		ID: "req-1", Endpoint: "fraud", Model: "m", Version: "3", Route: "stable",
		Time: time.Unix(1e9, 0), Reward: &reward, Label: []any{"a", 1.0},
	}})
	if err != nil || r.Feedback != 1 || len(p.heads) != 1 {
		t.Fatalf("%+v, %v, %d events", r, err, len(p.heads))
	}
	wantHead(t, p.heads[0], map[string]string{
		"Ce-Type": "io.millrace.feedback", "Ce-Id": "req-1", "Ce-Inferenceservicename": "fraud",
		"Ce-Endpoint": "stable", "Ce-Time": "2001-09-09T01:46:40Z",
	})
	var got map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(p.bodies[0], "POST")), &got); err != nil {
		t.Fatal(err)
	}
	want := "map[endpoint:fraud id:req-1 kind:feedback label:[a 1] model:m reward:1 route:stable " +
		"time:2001-09-09T01:46:40.000000Z version:3]"
	if fmt.Sprint(got) != want {
		t.Errorf("the data is %v, want %v", got, want)
	}
}

// What may go better the next time is tried again, some times.
func TestEventsRetry(t *testing.T) {
	f := func(attempts int, text string, statuses ...int) {
		t.Helper()
		p := newPeer(t, statuses...)
		r, err := send(t, p.config(), tap.Record{Feedback: &tap.Feedback{ID: "a"}})
		if len(p.heads) != attempts {
			t.Errorf("%v: %d attempts, want %d", statuses, len(p.heads), attempts)
		}
		if text == "" && (err != nil || r.Feedback != 1 || r.Failed != 0) ||
			text != "" && (err == nil || !strings.Contains(err.Error(), text) || r.Failed != 1) {
			t.Errorf("%v: %+v, %v, want %q", statuses, r, err, text)
		}
	}
	f(1, "", 200)
	f(1, "", 204)
	f(2, "", 500, 202)
	f(4, "", 429, 503, 504, 200)
	f(4, "429", 429)
	f(4, "502", 502)
	f(1, "400", 400)
	f(2, "404", 500, 404)
	f(1, "302", 302) // not followed
	f(1, "308", 308)
}

// A sample whose second event is lost is lost.
func TestEventsInPart(t *testing.T) {
	p := newPeer(t, 200, 400)
	s := take(t, tap.NewPool(1, 1<<20), "a", sampled{nil, []tensor.Tensor{floats("y", 1)}})
	r, err := send(t, p.config(), tap.Record{Sample: s})
	if err == nil || r.Samples != 0 || r.Failed != 1 || len(p.heads) != 2 {
		t.Errorf("%+v, %v, %d events", r, err, len(p.heads))
	}
}

// Nobody listens: each record counts as failed after its attempts.
func TestEventsToNobody(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := ln.Addr().String()
	ln.Close()
	e, err := tap.NewEvents(tap.EventsConfig{URL: "http://" + address, Backoff: time.Microsecond})
	if err != nil {
		t.Fatal(err)
	}
	p := tap.NewPool(100, 1<<20)
	k := tap.NewSink(tap.SinkConfig{Queue: 8}, e, slog.New(slog.DiscardHandler))
	for range 50 {
		offer(t, p, k, "a")
	}
	if err := k.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if s := k.Stats(); s.Failed+s.Dropped != 50 || s.Failed < 8 || p.Bytes() != 0 {
		t.Errorf("50 samples became %+v; %d bytes are held", s, p.Bytes())
	}
}

// A peer that never answers: offers return at once, the queue stays bounded, an
// attempt ends at its timeout, and Close at its own.
func TestEventsToASlowPeer(t *testing.T) {
	gate, arrived := make(chan struct{}), make(chan struct{}, 100)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		select {
		case <-gate:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(gate)
	start := func(timeout time.Duration) (*tap.Pool, *tap.Sink) {
		e, err := tap.NewEvents(tap.EventsConfig{URL: server.URL, Timeout: timeout, Attempts: 2,
			Backoff: time.Microsecond})
		if err != nil {
			t.Fatal(err)
		}
		return tap.NewPool(100, 1<<20), tap.NewSink(tap.SinkConfig{Queue: 5}, e,
			slog.New(slog.DiscardHandler))
	}
	p, k := start(time.Hour)
	offer(t, p, k, "a")
	<-arrived
	for range 50 {
		offer(t, p, k, "a")
	}
	wantStats(t, k, tap.Stats{Queued: 5, Dropped: 45})
	if got := p.Bytes(); got > 6*(3*64+1) {
		t.Errorf("six samples hold %d bytes", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := k.Close(ctx); err == nil {
		t.Error("Close wrote what nobody took")
	}
	wantStats(t, k, tap.Stats{Failed: 1, Dropped: 50})

	p, k = start(10 * time.Millisecond)
	offer(t, p, k, "a")
	if err := k.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantStats(t, k, tap.Stats{Failed: 1})
	if len(arrived) != 2 || p.Bytes() != 0 {
		t.Errorf("%d attempts arrived; %d bytes are held", len(arrived), p.Bytes())
	}
}

func TestNewEventsRefuses(t *testing.T) {
	for _, address := range []string{
		"", "ftp://a/b", "a.example:80", "http://", "http://a\n", "/x"} {
		if _, err := tap.NewEvents(tap.EventsConfig{URL: address}); err == nil {
			t.Errorf("%q is taken", address)
		}
	}
}
