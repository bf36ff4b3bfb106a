package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/valyala/fasthttp"

	"github.com/millrace-ml/millrace/gateway/wire"
)

// HTTPConfig bounds what the HTTP front takes in before it knows anything.
type HTTPConfig struct {
	HeaderBytes int           // of one request's header
	Connections int           // open at once
	ReadTimeout time.Duration // for header and body of one request
	IdleTimeout time.Duration // between two requests
	Pollers     int           // goroutines that take plain requests in
}

// DefaultHTTPConfig returns the values for a server about which nothing is known.
func DefaultHTTPConfig() HTTPConfig {
	return HTTPConfig{
		HeaderBytes: 16 << 10, Connections: 16 << 10,
		ReadTimeout: time.Minute, IdleTimeout: 5 * time.Minute,
		Pollers: runtime.NumCPU(),
	}
}

// HTTP serves the REST dialects on a Core. It may be used concurrently.
//
// Connections are with the lane, which answers plain inference requests;
// all others go to one fasthttp server. See docs/architecture.md.
type HTTP struct {
	core   *Core
	log    *slog.Logger
	server fasthttp.Server
	lane   *lane

	described described
	notKept   atomic.Bool // the last feedback could not be written
}

// NewHTTP returns a front on core; Serve starts it, Shutdown ends it.
func NewHTTP(core *Core, cfg HTTPConfig, log *slog.Logger) (*HTTP, error) {
	h := &HTTP{core: core, log: log}
	h.server = fasthttp.Server{
		Handler:               h.handle,
		ErrorHandler:          h.refuse,
		ConnState:             track,
		Logger:                quiet{},
		NoDefaultServerHeader: true,
		NoDefaultContentType:  true,
		NoDefaultDate:         true,
		CloseOnShutdown:       true,
		StreamRequestBody:     true,
		// Forms are not read: their files would go to the disk, without a bound.
		DisablePreParseMultipartForm: true,
		ReadBufferSize:               cfg.HeaderBytes,
		Concurrency:                  cfg.Connections,
		ReadTimeout:                  cfg.ReadTimeout,
		IdleTimeout:                  cfg.IdleTimeout,
		// Bodies are read by the handler, which bounds them; see readBody.
		MaxRequestBodySize: 1 << 40,
	}
	var err error
	if h.lane, err = newLane(core, cfg, log); err != nil {
		return nil, err
	}
	go func() {
		if err := h.server.Serve(&h.lane.other); err != nil {
			log.Error("HTTP has ended", "error", err)
		}
	}()
	return h, nil
}

// quiet drops fasthttp's log lines: each is about one client's connection and
// is counted as an outcome.
type quiet struct{}

func (quiet) Printf(string, ...any) {}

// Serve answers requests on ln until Shutdown; after it ln is only closed.
func (h *HTTP) Serve(ln net.Listener) error {
	if err := h.lane.serve(ln); err != nil {
		return fmt.Errorf("cannot serve HTTP on %s: %w", ln.Addr(), err)
	}
	return nil
}

// Shutdown stops listening, answers what is under way, and closes what is left
// open when ctx is done.
func (h *HTTP) Shutdown(ctx context.Context) error {
	h.lane.refuse()
	err := h.lane.shutdown(ctx)
	return errors.Join(err, h.server.ShutdownWithContext(ctx))
}

// refuse answers what fasthttp could not read as a request.
func (h *HTTP) refuse(ctx *fasthttp.RequestCtx, err error) {
	var small *fasthttp.ErrSmallBuffer
	status, text := 400, "cannot read the request: malformed HTTP"
	switch {
	case errors.As(err, &small):
		status, text = 431, "request header is larger than "+
			strconv.Itoa(h.server.ReadBufferSize)+" bytes"
	case isTimeout(err):
		status, text = 408, ErrTooSlow.Error()
	case errors.Is(err, fasthttp.ErrBodyTooLarge):
		status, text = 413, h.core.tooLarge().Error()
	}
	h.core.metrics.refuse(status)
	leftUnread(ctx)
	h.writeError(ctx, &failure{status: status, text: text})
}

// handle is the one handler. A panic in it would end the process.
func (h *HTTP) handle(ctx *fasthttp.RequestCtx) {
	defer func() {
		if p := recover(); p != nil {
			h.log.Error("handler panicked", "panic", p, "path", string(ctx.Path()))
			h.fail(ctx, ErrPanic)
		}
	}()
	if err := checkFraming(&ctx.Request.Header); err != nil {
		leftUnread(ctx)
		h.fail(ctx, err)
		return
	}
	var p target
	if err := p.parse(ctx.Request.Header.RequestURI()); err != nil {
		h.fail(ctx, err)
		return
	}
	if err := allow(ctx, p.action); err != nil {
		h.failAs(ctx, err, p.dialect)
		return
	}
	if p.action == actionInfer {
		h.infer(ctx, &p)
		return
	}
	if err := h.control(ctx, &p); err != nil {
		h.fail(ctx, err)
	}
}

var (
	contentJSON   = []byte("application/json")
	contentBinary = []byte("application/octet-stream")
)

// fail answers with the status and text of err.
func (h *HTTP) fail(ctx *fasthttp.RequestCtx, err error) { h.failAs(ctx, err, dialectOIP) }

// failAs is fail in a dialect.
func (h *HTTP) failAs(ctx *fasthttp.RequestCtx, err error, d dialect) {
	f := h.core.failure(err, d)
	if f.retry {
		ctx.Response.Header.Set("Retry-After", "1")
	}
	if f.status == 415 {
		ctx.Response.Header.Set("Accept-Encoding", "gzip, deflate")
	}
	// What is left of the body is not read: the connection cannot be used again.
	if n := ctx.Request.Header.ContentLength(); n == -1 || n > prefetched {
		leftUnread(ctx)
	}
	h.writeError(ctx, &f)
}

func (h *HTTP) writeError(ctx *fasthttp.RequestCtx, f *failure) {
	ctx.SetStatusCode(f.status)
	ctx.Response.Header.SetContentTypeBytes(contentJSON)
	body := ctx.Response.SwapBody(nil)
	ctx.Response.SwapBody(f.body(body[:0]))
}

// action is what a path asks for.
type action uint8

const (
	actionInfer action = iota
	actionServerMetadata
	actionLive
	actionServerReady
	actionModelMetadata
	actionModelReady
	actionModelConfig
	actionModelStats
	actionAllStats
	actionIndex
	actionLoad
	actionUnload
	actionLogging
	actionUnsupported
	actionFeedback
	actionV1Models
	actionV1Model
	actionPing
	actionVersion
	actionOpenAPI
	actionPage
	actionRoot // a page for browsers, a sign of life for programs
)

// target is the parsed path of a request. Its names alias the request.
type target struct {
	action         action
	dialect        dialect // of an inference
	lacking        string  // what actionUnsupported is about
	model, version []byte
}

func (p *target) unsupported(what string) { p.action, p.lacking = actionUnsupported, what }

const traceSettings = "trace settings; there are metrics and statistics of all requests"

// parse reads a request's target: a path, or a whole URL as proxies send it. A
// name is what stands between two slashes, percent-decoded once; the
// normalisation that fasthttp's own URI does is not done.
func (p *target) parse(uri []byte) error {
	path, _, _ := bytes.Cut(uri, []byte("?"))
	if len(path) > 0 && path[0] != '/' {
		_, rest, _ := bytes.Cut(path, []byte("://"))
		path = rest[min(uint(bytes.IndexByte(rest, '/')), uint(len(rest))):]
	}
	rest, ok := bytes.CutPrefix(path, []byte("/v2"))
	if !ok || len(rest) > 0 && rest[0] != '/' {
		return p.parseOther(path)
	}
	return p.parseRest(rest)
}

func (p *target) parseRest(rest []byte) error {
	rest = bytes.TrimSuffix(rest, []byte("/"))
	models, ok := bytes.CutPrefix(rest, []byte("/models/"))
	if !ok {
		return p.parseServer(rest)
	}
	if string(models) == "stats" {
		p.action = actionAllStats
		return nil
	}
	var err error
	name, rest, _ := bytes.Cut(models, []byte("/"))
	if p.model, err = unescape(name); err != nil {
		return err
	}
	if versions, ok := bytes.CutPrefix(rest, []byte("versions/")); ok {
		var v []byte
		v, rest, _ = bytes.Cut(versions, []byte("/"))
		if p.version, err = unescape(v); err != nil {
			return err
		}
		if len(p.version) == 0 {
			return ErrNotFound
		}
	}
	switch string(rest) {
	case "infer":
		p.action = actionInfer
	case "":
		p.action = actionModelMetadata
	case "ready":
		p.action = actionModelReady
	case "config":
		p.action = actionModelConfig
	case "stats":
		p.action = actionModelStats
	case "trace/setting":
		p.unsupported(traceSettings)
	case "generate", "generate_stream":
		p.unsupported("text generation; send the request to infer")
	default:
		return ErrNotFound
	}
	return nil
}

func (p *target) parseServer(rest []byte) error {
	switch string(rest) {
	case "":
		p.action = actionServerMetadata
	case "/health/live":
		p.action = actionLive
	case "/health/ready":
		p.action = actionServerReady
	case "/logging":
		p.action = actionLogging
	case "/feedback":
		p.action = actionFeedback
	case "/trace/setting":
		p.unsupported(traceSettings)
	default:
		return p.parseRepository(rest)
	}
	return nil
}

func (p *target) parseRepository(rest []byte) error {
	if bytes.HasPrefix(rest, []byte("/systemsharedmemory/")) ||
		bytes.HasPrefix(rest, []byte("/cudasharedmemory/")) {
		p.unsupported("shared memory; send the tensors in the request")
		return nil
	}
	rest, ok := bytes.CutPrefix(rest, []byte("/repository/"))
	if !ok {
		return ErrNotFound
	}
	if string(rest) == "index" {
		p.action = actionIndex
		return nil
	}
	models, ok := bytes.CutPrefix(rest, []byte("models/"))
	if !ok {
		p.unsupported("a repository by its name; leave the name out")
		return nil
	}
	name, verb, _ := bytes.Cut(models, []byte("/"))
	var err error
	if p.model, err = unescape(name); err != nil {
		return err
	}
	switch string(verb) {
	case "load":
		p.action = actionLoad
	case "unload":
		p.action = actionUnload
	default:
		return ErrNotFound
	}
	return nil
}

// unescape decodes %XX. It allocates only where there is one.
func unescape(s []byte) ([]byte, error) {
	if bytes.IndexByte(s, '%') < 0 {
		return s, nil
	}
	out := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			out = append(out, s[i])
			continue
		}
		if i+2 >= len(s) {
			return nil, fmt.Errorf("%w: the path ends within a %%XX", wire.ErrBadRequest)
		}
		b, err := strconv.ParseUint(string(s[i+1:i+3]), 16, 8)
		if err != nil {
			return nil, fmt.Errorf("%w: bad %%XX in the path", wire.ErrBadRequest)
		}
		out = append(out, byte(b))
		i += 2
	}
	return out, nil
}
