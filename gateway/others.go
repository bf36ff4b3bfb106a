package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	"github.com/valyala/fasthttp"

	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/openapi"
	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/model"
)

// modelsV1 answers what KServe's first protocol asks about models.
func (h *HTTP) modelsV1(ctx *fasthttp.RequestCtx, p *target) error {
	if p.action == actionV1Models {
		names := h.core.names()
		return reply(ctx, map[string]any{"models": names})
	}
	v, err := h.core.Served(p.model, p.version)
	if err != nil {
		return err
	}
	v.Release()
	return reply(ctx, map[string]any{"name": string(p.model), "ready": true})
}

// names lists what clients may call: endpoints, and models that no endpoint hides.
func (c *Core) names() []string {
	r := c.routing.Load()
	names := make([]string, 0, len(r.endpoints))
	for _, e := range r.table.Endpoints() {
		names = append(names, e.Name)
	}
	last := ""
	c.models.Each(func(v *model.Version) {
		if v.Name() != last && r.endpoints[v.Name()] == nil {
			names = append(names, v.Name())
		}
		last = v.Name()
	})
	return names
}

// mlflow answers what MLflow's scoring protocol has beside the scoring.
func (h *HTTP) mlflow(ctx *fasthttp.RequestCtx, p *target) error {
	text := "\n"
	switch {
	case p.action == actionVersion:
		text = h.core.ServerVersion()
	case !h.core.Ready():
		return model.ErrNotReady
	case len(h.core.names()) == 0:
		return model.ErrUnknownModel
	}
	ctx.Response.Header.SetContentType("text/plain; charset=utf-8")
	ctx.SetBodyString(text)
	return nil
}

// maxFeedback bounds the body of a feedback: an id, a reward and a label.
const maxFeedback = 1 << 20

// feedback takes a reward or a label for a request that was answered.
func (h *HTTP) feedback(ctx *fasthttp.RequestCtx) error {
	ledger := h.core.ledger.Load()
	if ledger == nil {
		return fmt.Errorf("%w: there are no endpoints; see endpoints in the settings", errNoRequest)
	}
	if ctx.Request.Header.ContentLength() > maxFeedback {
		return fmt.Errorf("%w: a feedback may have at most %d bytes", ErrTooLarge, maxFeedback)
	}
	var body []byte
	if stream := ctx.RequestBodyStream(); stream != nil {
		var err error
		if body, err = io.ReadAll(io.LimitReader(stream, maxFeedback+1)); err != nil {
			return errShortBody
		}
	}
	given, err := parseFeedback(body)
	if err != nil {
		return err
	}
	f, result, err := ledger.Give(given)
	switch failing := errors.Is(err, feedback.ErrFile); {
	case failing && h.notKept.CompareAndSwap(false, true):
		h.log.Error("feedback cannot be kept; clients are told so until it can", "error", err)
	case err == nil && h.notKept.CompareAndSwap(true, false):
		h.log.Info("feedback is kept again")
	}
	if err != nil {
		return err
	}
	switch result {
	case feedback.Unknown:
		return fmt.Errorf("%w: '%.64s'", errNoRequest, given.ID)
	case feedback.Accepted:
		h.core.offerFeedback(&f)
	}
	answer := map[string]any{"id": given.ID, "result": result.String()}
	if f.Endpoint != "" {
		answer["endpoint"], answer["route"], answer["version"] = f.Endpoint, f.Route, f.Version
	}
	return reply(ctx, answer)
}

// errNoRequest is returned for feedback on a request that nobody remembers.
var errNoRequest = errors.New("feedback: no answered request of an endpoint has this id, " +
	"or it is too long ago")

// parseFeedback reads {"id": ..., "reward": 0 to 1, "label": anything}.
func parseFeedback(body []byte) (feedback.Given, error) {
	var b struct {
		ID        string          `json:"id"`
		RequestID string          `json:"request_id"`
		Reward    *float64        `json:"reward"`
		Label     json.RawMessage `json:"label"`
	}
	dec := json.NewDecoder(strings.NewReader(string(body)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&b); err != nil {
		return feedback.Given{}, fmt.Errorf("%w: a feedback is "+
			`{"id": "...", "reward": 0 to 1, "label": ...}: %w`, wire.ErrBadRequest, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return feedback.Given{}, fmt.Errorf("%w: something follows the feedback",
			wire.ErrBadRequest)
	}
	if b.ID == "" {
		b.ID = b.RequestID
	}
	return feedback.Given{ID: b.ID, Reward: b.Reward, Label: b.Label}, nil
}

// describe answers with the description of the server, for programs or for people.
func (h *HTTP) describe(ctx *fasthttp.RequestCtx, p *target) error {
	switch accept := ctx.Request.Header.Peek("Accept"); {
	case p.action == actionRoot && !bytes.Contains(accept, []byte("html")):
		return reply(ctx, map[string]string{"status": "alive"})
	case p.action != actionOpenAPI:
		ctx.Response.Header.SetContentType("text/html; charset=utf-8")
		ctx.Response.Header.Set("Content-Security-Policy", openapi.CSP)
		ctx.SetBody(openapi.Page())
		return nil
	}
	text, err := h.described.document(h.core)
	if err != nil {
		return fmt.Errorf("cannot describe the server: %w", err)
	}
	ctx.Response.Header.SetContentTypeBytes(contentJSON)
	ctx.SetBody(text)
	return nil
}

// described is the server's description as it was made last.
type described struct {
	mu       sync.Mutex
	services []openapi.Service // Guarded by mu.
	text     []byte            // Guarded by mu.
}

// document returns the description of what can be called now. The text must not
// be changed.
func (d *described) document(c *Core) ([]byte, error) {
	services := c.services()
	d.mu.Lock()
	defer d.mu.Unlock()
	same := func(a, b openapi.Service) bool {
		return a.Name == b.Name && a.Kind == b.Kind && a.Version == b.Version &&
			a.Signature == b.Signature
	}
	if d.text != nil && slices.EqualFunc(services, d.services, same) {
		return d.text, nil
	}
	info := openapi.Info{Title: c.ServerName(), Version: c.ServerVersion()}
	text, err := openapi.Document(info, services)
	if err == nil {
		d.services, d.text = services, text
	}
	return text, err
}

// services lists what clients may call, with what it takes and gives.
func (c *Core) services() []openapi.Service {
	var list []openapi.Service
	r := c.routing.Load()
	for _, name := range c.names() {
		v, err := c.Served([]byte(name), nil)
		if err != nil {
			continue // nobody can call it now
		}
		s := openapi.Service{Name: name, Kind: openapi.KindModel, Version: v.Version(),
			Signature: v.Signature()}
		if r.endpoints[name] != nil {
			s.Kind = openapi.KindEndpoint
		}
		list = append(list, s)
		v.Release()
	}
	return list
}
