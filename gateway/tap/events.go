package tap

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// EventsConfig says who gets CloudEvents.
type EventsConfig struct {
	URL string // http or https
	// Time for one attempt. 0 is 5s.
	Timeout time.Duration
	// How often an event is sent before it counts as lost. 0 is 4.
	Attempts int
	// Wait before the second attempt; it doubles for each further one, up to
	// maxBackoff. 0 is 100ms.
	Backoff time.Duration
	// Attribute source. "" is "millrace".
	Source string
	// Attribute namespace. "" leaves it out.
	Namespace string
}

const (
	defaultTimeout  = 5 * time.Second
	defaultAttempts = 4
	defaultBackoff  = 100 * time.Millisecond
	maxBackoff      = 5 * time.Second
)

// The types of events. Those of samples are KServe's.
const (
	requestType  = "org.kubeflow.serving.inference.request"
	responseType = "org.kubeflow.serving.inference.response"
	feedbackType = "io.millrace.feedback"
)

// Events sends records as CloudEvents in binary mode over HTTP, as KServe's
// logger does: one event with the request and, where there was an answer, one
// with the response, both with the request's id. Their data is that of the Open
// Inference Protocol. A feedback is an event of its own type with the same id,
// whose data is the object that a JSON Lines file has for it.
type Events struct {
	cfg    EventsConfig
	client *http.Client
}

// errRefused is returned for what is not worth another attempt.
var errRefused = errors.New("refused")

// NewEvents checks the address. Nothing is sent yet.
func NewEvents(cfg EventsConfig) (*Events, error) {
	u, err := url.Parse(cfg.URL)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("tap: events go to %q, must be an http or https URL", cfg.URL)
	}
	cfg.Timeout = cmp.Or(cfg.Timeout, defaultTimeout)
	cfg.Attempts = cmp.Or(cfg.Attempts, defaultAttempts)
	cfg.Backoff = cmp.Or(cfg.Backoff, defaultBackoff)
	cfg.Source = cmp.Or(cfg.Source, "millrace")
	return &Events{cfg: cfg, client: &http.Client{
		Transport: &http.Transport{
			Proxy: http.ProxyFromEnvironment, MaxIdleConns: 1, IdleConnTimeout: time.Minute,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
	}}, nil
}

// Write implements [Writer]. A record is safe when all its events were taken.
func (e *Events) Write(ctx context.Context, r Record) (Result, error) {
	done := Result{Samples: 1}
	if r.Feedback != nil {
		done = Result{Feedback: 1}
	}
	for _, ev := range eventsOf(r) {
		if err := e.send(ctx, ev); err != nil {
			return Result{Failed: 1, Bytes: done.Bytes}, fmt.Errorf("cannot send an event: %w", err)
		}
		done.Bytes += int64(len(ev.data))
	}
	return done, nil
}

// event is what is sent at once.
type event struct {
	kind, id               string
	at                     time.Time
	endpoint, model, route string
	// JSON. It is never used again: a connection may still read it after an answer.
	data []byte
}

// eventsOf returns what tells of a record. Where the request's id is redacted it
// makes one up, for an event must have one.
func eventsOf(r Record) []event {
	if f := r.Feedback; f != nil {
		return []event{{
			kind: feedbackType, id: cmp.Or(f.ID, rand.Text()), at: f.Time,
			endpoint: f.Endpoint, model: f.Model, route: f.Route, data: appendFeedback(nil, f),
		}}
	}
	s := r.Sample
	ev := event{
		kind: requestType, id: cmp.Or(string(s.ID), rand.Text()), at: s.Time,
		endpoint: s.Endpoint, model: s.Model, route: s.Route, data: appendRequest(nil, s),
	}
	if len(s.Outputs) == 0 {
		return []event{ev}
	}
	answer := ev
	answer.kind, answer.at, answer.data = responseType, s.Time.Add(s.Total), appendResponse(nil, s)
	return []event{ev, answer}
}

// Flush implements [Writer]. There is nothing to do.
func (e *Events) Flush(context.Context) (Result, error) { return Result{}, nil }

// Close implements [Writer].
func (e *Events) Close(context.Context) (Result, error) {
	e.client.CloseIdleConnections()
	return Result{}, nil
}

// send delivers an event.
func (e *Events) send(ctx context.Context, ev event) error {
	wait := e.cfg.Backoff
	for attempt := 1; ; attempt++ {
		err := e.post(ctx, ev)
		if err == nil || errors.Is(err, errRefused) || attempt >= e.cfg.Attempts ||
			!pause(ctx, wait) {
			return err
		}
		wait = min(2*wait, maxBackoff)
	}
}

// pause waits for about d, not alike for all that wait. It returns false when
// ctx is over.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d/2 + mathrand.N(d/2+1))
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// post makes one attempt.
func (e *Events) post(ctx context.Context, ev event) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.cfg.URL,
		bytes.NewReader(ev.data))
	if err != nil {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	e.head(req.Header, ev)
	resp, err := e.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	// The rest of a short answer is read, so that the connection can be used again.
	_, _ = io.CopyN(io.Discard, resp.Body, 64<<10)
	switch code := resp.StatusCode; {
	case code >= 200 && code < 300:
		return nil
	case code == http.StatusTooManyRequests || code >= 500:
		return fmt.Errorf("the answer is %s", resp.Status)
	}
	return fmt.Errorf("%w with %s", errRefused, resp.Status)
}

// head sets the attributes.
func (e *Events) head(h http.Header, ev event) {
	h.Set("Content-Type", "application/json")
	for _, attribute := range [...][2]string{
		{"specversion", "1.0"}, {"type", ev.kind}, {"id", ev.id}, {"source", e.cfg.Source},
		{"time", ev.at.UTC().Format(time.RFC3339Nano)},
		{"inferenceservicename", cmp.Or(ev.endpoint, ev.model)},
		{"namespace", e.cfg.Namespace}, {"component", "predictor"}, {"endpoint", ev.route},
	} {
		if attribute[1] != "" {
			h.Set("Ce-"+attribute[0], escape(attribute[1]))
		}
	}
}

// escape writes an attribute as the value of a header: what is not printable
// ASCII, spaces, quotes and percent signs are percent-encoded.
func escape(text string) string {
	const hex = "0123456789ABCDEF"
	var out []byte
	for i := range len(text) {
		c := text[i]
		if c > ' ' && c < 0x7f && c != '"' && c != '%' {
			out = append(out, c)
		} else {
			out = append(out, '%', hex[c>>4], hex[c&15])
		}
	}
	return string(out)
}

// appendRequest appends the request in the form of the Open Inference Protocol.
func appendRequest(dst []byte, s *Sample) []byte {
	dst = append(dst, '{')
	if len(s.ID) > 0 {
		dst = append(appendText(append(dst, `"id":`...), s.ID), ',')
	}
	return append(appendTensors(append(dst, `"inputs":`...), s.Inputs), '}')
}

// appendResponse appends the answer in the same form.
func appendResponse(dst []byte, s *Sample) []byte {
	dst = appendText(append(dst, `{"model_name":`...), s.Model)
	dst = appendMember(dst, "model_version", s.Version)
	if len(s.ID) > 0 {
		dst = appendText(append(dst, `,"id":`...), s.ID)
	}
	return append(appendTensors(append(dst, `,"outputs":`...), s.Outputs), '}')
}

// appendTensors appends an array of the tensors, but those that are redacted.
func appendTensors(dst []byte, tensors []tensor.Tensor) []byte {
	dst = append(dst, '[')
	from := len(dst)
	for i := range tensors {
		t := &tensors[i]
		if t.Datatype == tensor.Invalid || t.Data == nil {
			continue
		}
		if len(dst) > from {
			dst = append(dst, ',')
		}
		dst = appendText(append(dst, `{"name":`...), t.Name)
		dst = appendMember(dst, "datatype", t.Datatype.String())
		dst = tensor.AppendShape(append(dst, `,"shape":`...), t.Shape)
		binary := !isText(t)
		if binary {
			dst = append(dst, `,"parameters":{"content_type":"base64"}`...)
		}
		dst = append(appendValues(append(dst, `,"data":`...), t, binary), '}')
	}
	return append(dst, ']')
}
