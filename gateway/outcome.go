package gateway

import (
	"context"
	"errors"
	"strconv"

	"github.com/valyala/fasthttp"
	"google.golang.org/grpc/codes"

	"github.com/millrace-ml/millrace/gateway/feedback"
	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
)

var (
	// ErrTooLarge is returned for a body or message over the configured bound.
	ErrTooLarge = errors.New("gateway: request too large")
	// ErrTooSlow is returned for a request that did not arrive in time.
	ErrTooSlow = errors.New("the request did not arrive in time")
	// ErrOverloaded is returned when more requests or bytes are in flight than may be.
	ErrOverloaded = errors.New("gateway: too much in flight")
	// ErrLimited is returned for a request over a bound of its endpoint.
	ErrLimited = errors.New("over the endpoint's limit")
	// ErrEncoding is returned for a Content-Encoding that is not known.
	ErrEncoding = errors.New("gateway: unsupported Content-Encoding")
	// ErrContentType is returned for a Content-Type that the path does not take.
	ErrContentType = errors.New("unsupported Content-Type")
	// ErrNotFound is returned for a path that is not served.
	//lint:ignore ST1005 clients of Triton look for this text
	ErrNotFound = errors.New("Not Found")
	// ErrMethod is returned for a verb that the path does not know.
	//lint:ignore ST1005 clients of Triton look for this text
	ErrMethod = errors.New("Method Not Allowed")
	// ErrUnsupported is returned for what the protocol has and this server has not.
	ErrUnsupported = errors.New("not supported")
	// ErrPanic is returned when a handler panicked: a bug of ours.
	ErrPanic = errors.New("gateway: internal error")
	// ErrClosing is returned for requests that come while the server drains.
	ErrClosing = errors.New("gateway: the server is shutting down")
)

// Outcome is what becomes of a request.
type Outcome struct {
	HTTP  int
	GRPC  codes.Code
	Label string // of the metrics
	Text  string // in place of the error's own where a client must not see that, or expects another
	// Fault says that the version or the server failed: not the client, which may have
	// asked for what is not there, nor overload, nor the end of the server.
	Fault bool
}

// OK is the outcome of a request that was answered.
var OK = Outcome{HTTP: 200, GRPC: codes.OK, Label: "ok"}

// outcomes is the only place where an error becomes a status and a label.
// First match wins.
var outcomes = [...]struct {
	err error
	Outcome
}{
	{model.ErrUnknownModel, Outcome{404, codes.NotFound, "unknown_model", "", false}},
	{model.ErrNotReady, Outcome{503, codes.Unavailable, "not_ready", "", true}},
	{model.ErrBadInput, Outcome{400, codes.InvalidArgument, "bad_request", "", false}},
	{model.ErrNotExplicit, Outcome{400, codes.Unavailable, "not_explicit", "", false}},
	{model.ErrLoad, Outcome{400, codes.InvalidArgument, "load_failed", "", false}},
	{model.ErrRun, Outcome{422, codes.InvalidArgument, "model_refused", "", true}},
	{wire.ErrUnsupported, Outcome{501, codes.Unimplemented, "unsupported", "", false}},
	{wire.ErrBadRequest, Outcome{400, codes.InvalidArgument, "bad_request", "", false}},
	{batch.ErrQueueFull,
		Outcome{429, codes.ResourceExhausted, "queue_full", "Exceeds maximum queue size", false}},
	{batch.ErrDeadline,
		Outcome{504, codes.DeadlineExceeded, "deadline", "Request timeout expired", true}},
	{batch.ErrCanceled, Outcome{499, codes.Canceled, "canceled", "", false}},
	{batch.ErrClosed, Outcome{503, codes.Unavailable, "closing", "", false}},
	{context.Canceled, Outcome{499, codes.Canceled, "canceled", "", false}},
	{context.DeadlineExceeded, Outcome{504, codes.DeadlineExceeded, "deadline", "", true}},
	{ErrTooLarge, Outcome{413, codes.ResourceExhausted, "too_large", "", false}},
	{ErrTooSlow, Outcome{408, codes.DeadlineExceeded, "too_slow", "", false}},
	{ErrOverloaded, Outcome{429, codes.ResourceExhausted, "overloaded", "", false}},
	{ErrLimited, Outcome{429, codes.ResourceExhausted, "limited", "", false}},
	{feedback.ErrInvalid, Outcome{400, codes.InvalidArgument, "bad_request", "", false}},
	{feedback.ErrFile, Outcome{503, codes.Unavailable, "not_kept",
		"the feedback could not be kept; give it again later", false}},
	{feedback.ErrClosed, Outcome{503, codes.Unavailable, "closing", "", false}},
	{errNoRequest, Outcome{404, codes.NotFound, "unknown_request", "", false}},
	{errWhich, Outcome{400, codes.InvalidArgument, "bad_request", "", false}},
	{ErrEncoding, Outcome{415, codes.Unimplemented, "bad_encoding", "", false}},
	{ErrContentType, Outcome{415, codes.InvalidArgument, "bad_content_type", "", false}},
	{ErrNotFound, Outcome{404, codes.NotFound, "not_found", "", false}},
	{ErrMethod, Outcome{405, codes.Unimplemented, "bad_method", "", false}},
	{ErrUnsupported, Outcome{501, codes.Unimplemented, "unsupported", "", false}},
	{ErrClosing, Outcome{503, codes.Unavailable, "closing", "", false}},
	{ErrPanic, Outcome{500, codes.Internal, "panic", "internal error", true}},
}

// internal is the outcome of every error that the table does not know.
var internal = Outcome{500, codes.Internal, "internal", "", true}

// Classify returns the outcome of an error, and the text for the client.
func Classify(err error) (Outcome, string) {
	if err == nil {
		return OK, ""
	}
	for i := range outcomes {
		if errors.Is(err, outcomes[i].err) {
			o := outcomes[i].Outcome
			if o.Text != "" {
				return o, o.Text
			}
			return o, clientText(err)
		}
	}
	return internal, clientText(err)
}

// labels lists the labels of all outcomes, for metrics that are made beforehand.
func labels() []string {
	seen := map[string]bool{OK.Label: true, internal.Label: true}
	all := []string{OK.Label, internal.Label}
	for i := range outcomes {
		if l := outcomes[i].Label; !seen[l] {
			seen[l] = true
			all = append(all, l)
		}
	}
	return all
}

// maxText bounds error texts: a client's own names may be in them.
const maxText = 2048

func clientText(err error) string {
	text := err.Error()
	if len(text) > maxText {
		text = text[:maxText] + " ..."
	}
	return text
}

// failure is the answer to a request that failed.
type failure struct {
	status int
	text   string
	retry  bool // the client may try again soon
	last   bool // the connection closes
	form   dialect
}

// failure returns the answer to an error, and logs what is the server's own fault.
func (c *Core) failure(err error, d dialect) failure {
	o, text := Classify(err)
	f := failure{status: o.HTTP, text: text, retry: o.HTTP == 429, form: d}
	if f.retry {
		f.status = c.cfg.ShedStatus
	}
	if f.status == 500 {
		c.log.Error("request failed", "error", err)
	}
	return f
}

// mlflowCodes are what MLflow's clients know a status by.
var mlflowCodes = map[int]string{
	400: "BAD_REQUEST", 404: "RESOURCE_DOES_NOT_EXIST", 405: "BAD_REQUEST", 408: "BAD_REQUEST",
	413: "BAD_REQUEST", 415: "BAD_REQUEST", 422: "INVALID_PARAMETER_VALUE",
	429: "REQUEST_LIMIT_EXCEEDED", 499: "CANCELLED", 501: "NOT_IMPLEMENTED",
	503: "TEMPORARILY_UNAVAILABLE", 504: "DEADLINE_EXCEEDED",
}

// body appends the text in the form that the dialect's clients read.
func (f *failure) body(dst []byte) []byte {
	if f.form != dialectMLflow && f.form != dialectCSV {
		return wire.AppendError(dst, f.text)
	}
	code, ok := mlflowCodes[f.status]
	if !ok {
		code = "INTERNAL_ERROR"
	}
	return wire.AppendMLflowError(dst, code, f.text)
}

// append appends the answer as it is sent.
func (f *failure) append(dst []byte) []byte {
	body := f.body(nil)
	dst = append(dst, "HTTP/1.1 "...)
	dst = strconv.AppendInt(dst, int64(f.status), 10)
	dst = append(dst, ' ')
	dst = append(dst, fasthttp.StatusMessage(f.status)...)
	dst = append(dst, "\r\nContent-Type: application/json"...)
	if f.retry {
		dst = append(dst, "\r\nRetry-After: 1"...)
	}
	if f.last {
		dst = append(dst, "\r\nConnection: close"...)
	}
	dst = append(dst, "\r\nContent-Length: "...)
	dst = strconv.AppendInt(dst, int64(len(body)), 10)
	dst = append(dst, "\r\n\r\n"...)
	return append(dst, body...)
}
