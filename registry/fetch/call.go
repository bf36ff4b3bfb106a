package fetch

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Request is what to ask for.
type Request struct {
	Method string // empty is GET
	URL    string
	Header http.Header // not sent any more once a redirect has left the URL's origin
	Body   []byte
	// The call may be repeated though its method is POST or PATCH.
	Idempotent bool
	// The bytes that the file has to have; 0 where that is not known.
	Size int64
	// The bytes that are there already. The answer begins after them if the server
	// can do that; see Response.Offset.
	Offset int64
}

// Response is an answer with a status of 2xx. Close its Body.
type Response struct {
	Status int
	Header http.Header
	URL    string // that has answered after redirects, as Redact writes it
	Offset int64  // of the Body's first byte in the file: Request.Offset or 0
	Size   int64  // of the file, offset included; -1 where that is not known
	Body   io.ReadCloser
}

// call is one Request on its way, with all its repetitions.
type call struct {
	c      *Client
	req    Request
	url    *url.URL
	ctx    context.Context
	cancel context.CancelFunc
}

// errTotal and errIdle are the causes of a call's end when it takes too long.
var (
	errTotal = fmt.Errorf("%w: the call has not ended in time (timeout)", ErrTimeout)
	errIdle  = fmt.Errorf("%w: nothing came for too long (idle_timeout)", ErrTimeout)
)

// newCall checks a request. The caller ends the call by its cancel.
func (c *Client) newCall(ctx context.Context, req Request) (*call, error) {
	if req.Method == "" {
		req.Method = http.MethodGet
	}
	u, err := parse(req.URL)
	if err != nil {
		return nil, &Error{Method: req.Method, URL: "this URL", Kind: ErrRefused, Cause: err}
	}
	if req.Offset < 0 || req.Size < 0 {
		return nil, &Error{Method: req.Method, URL: Redact(u), Kind: ErrRefused,
			Detail: "a negative offset or size"}
	}
	k := &call{c: c, req: req, url: u}
	k.ctx, k.cancel = context.WithTimeoutCause(ctx, c.cfg.Timeout, errTotal)
	return k, nil
}

func (k *call) fail(kind error, format string, args ...any) *Error {
	return &Error{Method: k.req.Method, URL: Redact(k.url), Kind: kind,
		Detail: fmt.Sprintf(format, args...)}
}

// failed makes an Error of one of the transport's.
func (k *call) failed(ctx context.Context, kind, err error) *Error {
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	for _, known := range []error{ErrTimeout, ErrRefused, ErrOpen, ErrCredentials} {
		if errors.Is(err, known) {
			kind = known
		}
	}
	if timeout, ok := errors.AsType[net.Error](err); ok && timeout.Timeout() {
		kind = ErrTimeout
	}
	e := &Error{Method: k.req.Method, URL: Redact(k.url), Kind: kind, Cause: err}
	if err == kind {
		e.Cause = nil
	}
	return e
}

// Do asks, and asks again while that may help, until there is an answer. What
// goes wrong with the body later is an error of its Read.
func (c *Client) Do(ctx context.Context, req Request) (*Response, error) {
	k, err := c.newCall(ctx, req)
	if err != nil {
		return nil, err
	}
	var a *answer
	fault := k.retry(func() (fault *Error) {
		a, fault = k.attempt(req.Offset, "")
		if fault != nil && fault.Status == http.StatusRequestedRangeNotSatisfiable {
			a, fault = k.attempt(0, "") // the file is shorter than what was there
		}
		return fault
	})
	if fault == nil && req.Size > 0 && a.size >= 0 && a.size != req.Size {
		a.close()
		fault = k.fail(ErrSize, "it has %d bytes, not %d", a.size, req.Size)
	}
	if fault == nil && a.size > c.cfg.MaxBytes {
		a.close()
		fault = k.fail(ErrTooLarge, "it has %d bytes, %d at most (max_bytes)", a.size,
			c.cfg.MaxBytes)
	}
	if fault != nil {
		k.cancel()
		return nil, fault
	}
	resp := &Response{Status: a.StatusCode, Header: a.Header, URL: Redact(a.Request.URL),
		Offset: a.offset, Size: a.size, Body: http.NoBody}
	if req.Method == http.MethodHead {
		a.close()
		k.cancel()
		return resp, nil
	}
	resp.Body = &body{call: k, answer: a, at: a.offset, size: a.size,
		validator: validator(a.Header), left: c.cfg.Attempts - 1}
	return resp, nil
}

// Get asks for a file.
func (c *Client) Get(ctx context.Context, url string) (*Response, error) {
	return c.Do(ctx, Request{URL: url})
}

// maxJSON bounds an answer that is read into memory, in bytes.
const maxJSON = 64 << 20

// JSON asks for a document and reads it into v, or reads it away if v is nil.
func (c *Client) JSON(ctx context.Context, req Request, v any) error {
	k, err := c.newCall(ctx, req)
	if err != nil {
		return err
	}
	defer k.cancel()
	fault := k.retry(func() *Error {
		a, fault := k.attempt(0, "")
		if fault != nil {
			return fault
		}
		defer a.close()
		return k.decode(a, v)
	})
	if fault != nil {
		return fault
	}
	return nil
}

func (k *call) decode(a *answer, v any) *Error {
	limit := min(k.c.cfg.MaxBytes, maxJSON)
	text, err := io.ReadAll(io.LimitReader(a, limit+1))
	if err != nil {
		return k.failed(a.ctx, ErrCut, err)
	}
	if int64(len(text)) > limit {
		return k.fail(ErrTooLarge, "it has more than %d bytes", limit)
	}
	if v == nil {
		return nil
	}
	kind := a.Header.Get("Content-Type")
	if isHTML(kind, text) || len(text) == 0 {
		return k.fail(ErrContent, "%s came where JSON was expected", describe(kind, text))
	}
	if err := json.Unmarshal(text, v); err != nil {
		e := k.fail(ErrContent, "%q came where other JSON was expected", describe(kind, text))
		e.Cause = err
		return e
	}
	return nil
}

// retry calls f until it succeeds or to call it again is of no use.
func (k *call) retry(f func() *Error) *Error {
	for n := 1; ; n++ {
		fault := f()
		if fault == nil || !k.repeatable() || !transient(fault) || n >= k.c.cfg.Attempts ||
			!k.pause(n, fault.RetryAfter) {
			return fault
		}
	}
}

func (k *call) repeatable() bool {
	return k.req.Idempotent || slices.Contains([]string{http.MethodGet, http.MethodHead,
		http.MethodPut, http.MethodDelete, http.MethodOptions}, k.req.Method)
}

// transient says whether the same call may succeed later.
func transient(e *Error) bool {
	switch e.Kind {
	case ErrStatus:
		return e.Status == http.StatusTooManyRequests || unavailable(e.Status)
	case ErrConnection, ErrTimeout, ErrCut:
		dns, isDNS := errors.AsType[*net.DNSError](e.Cause)
		_, isCert := errors.AsType[*tls.CertificateVerificationError](e.Cause)
		return !isCert && !(isDNS && dns.IsNotFound)
	}
	return false
}

// unavailable says whether a status means that the host cannot work for now.
func unavailable(status int) bool {
	return status == http.StatusBadGateway || status == http.StatusServiceUnavailable ||
		status == http.StatusGatewayTimeout
}

// pause waits before the repetition after the nth attempt, and says whether there
// is to be one. The pause is random between 0 and backoff * 2^(n-1), so that
// those who failed together do not come back together (M. Brooker, "Exponential
// Backoff And Jitter", AWS 2015: full jitter), but as long as the host asks.
func (k *call) pause(n int, asked time.Duration) bool {
	if asked > k.c.cfg.MaxBackoff {
		return false
	}
	most := k.c.cfg.MaxBackoff
	if shifted := k.c.cfg.Backoff << (n - 1); shifted > 0 && shifted < most {
		most = shifted
	}
	timer := time.NewTimer(max(rand.N(most), asked))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-k.ctx.Done():
		return false
	}
}

// attempt asks once and follows redirects. from is the first byte wanted;
// validator, if not empty, names the content that it must be a part of.
func (k *call) attempt(from int64, validator string) (*answer, *Error) {
	ctx, cancel := context.WithCancelCause(k.ctx)
	a, fault := k.follow(ctx, from, validator)
	if fault != nil {
		cancel(nil)
		return nil, fault
	}
	a.ctx, a.cancel = ctx, cancel
	a.timer = time.AfterFunc(k.c.cfg.IdleTimeout, func() { cancel(errIdle) })
	a.timer.Stop()
	if fault = k.check(a, from); fault != nil {
		a.close()
		return nil, fault
	}
	return a, nil
}

// follow makes round trips until one does not lead on.
func (k *call) follow(ctx context.Context, from int64, validator string) (*answer, *Error) {
	u, home := k.url, true // home: no redirect has left the first origin so far
	for n := 0; ; n++ {
		r, err := k.request(ctx, u, home)
		if err != nil {
			return nil, k.failed(ctx, ErrRefused, err)
		}
		if from > 0 {
			r.Header.Set("Range", "bytes="+strconv.FormatInt(from, 10)+"-")
			if validator != "" {
				r.Header.Set("If-Range", validator)
			}
		}
		resp, err := k.c.throughBreaker(r)
		if err != nil {
			return nil, k.failed(ctx, ErrConnection, err)
		}
		if !slices.Contains([]int{301, 302, 303, 307, 308}, resp.StatusCode) {
			return &answer{Response: resp}, nil
		}
		resp.Body.Close()
		next, fault := k.next(u, resp)
		if fault == nil && n >= k.c.cfg.MaxRedirects {
			fault = k.fail(ErrRedirect, "more than %d", k.c.cfg.MaxRedirects)
		}
		if fault != nil {
			return nil, fault
		}
		u, home = next, home && sameOrigin(next, k.url)
	}
}

// request makes one hop's request. What may be secret goes along only while home.
func (k *call) request(ctx context.Context, u *url.URL, home bool) (*http.Request, error) {
	r, err := http.NewRequestWithContext(ctx, k.req.Method, u.String(),
		bytes.NewReader(k.req.Body))
	if err != nil {
		return nil, errors.New("it cannot be asked for")
	}
	r.Header.Set("User-Agent", "millrace")
	if !home {
		return r, nil
	}
	for key, values := range k.req.Header {
		r.Header[http.CanonicalHeaderKey(key)] = values
	}
	return r, k.c.authorize(r)
}

// next returns where an answer redirects to, if one may go there.
func (k *call) next(u *url.URL, resp *http.Response) (*url.URL, *Error) {
	if k.req.Method != http.MethodGet && k.req.Method != http.MethodHead {
		return nil, k.fail(ErrRedirect, "status %d to a %s", resp.StatusCode, k.req.Method)
	}
	next, err := u.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, k.fail(ErrRedirect, "status %d without a Location that can be read",
			resp.StatusCode)
	}
	if _, err := parse(next.String()); err != nil {
		return nil, k.fail(ErrRedirect, "it leads to %s: %v", Redact(next), err)
	}
	if u.Scheme == "https" && next.Scheme != "https" {
		return nil, k.fail(ErrRedirect, "it leads from https to %s", Redact(next))
	}
	return next, nil
}

// answer is one answer with its body, whose Read does not wait for ever.
type answer struct {
	*http.Response
	ctx    context.Context
	cancel context.CancelCauseFunc
	timer  *time.Timer // ends the call when nothing comes
	idle   time.Duration
	offset int64 // of the body in the file
	size   int64 // of the file; -1 where that is not known
}

func (a *answer) Read(p []byte) (int, error) {
	a.timer.Reset(a.idle)
	n, err := a.Body.Read(p)
	a.timer.Stop()
	return n, err
}

func (a *answer) close() {
	a.cancel(nil)
	a.timer.Stop()
	a.Body.Close()
}

// check holds an answer against what was asked for, and sets its offset and size.
func (k *call) check(a *answer, from int64) *Error {
	a.idle = k.c.cfg.IdleTimeout
	a.size = a.ContentLength
	status := a.StatusCode
	start, size, ok := contentRange(a.Header.Get("Content-Range"))
	switch {
	case status == http.StatusPartialContent && (from == 0 || !ok || start != from):
		return k.fail(ErrContent, "the range %.100q came, not the one from byte %d",
			a.Header.Get("Content-Range"), from)
	case status == http.StatusPartialContent:
		a.offset, a.size = start, size
	case status == http.StatusRequestedRangeNotSatisfiable && from > 0 && size == from:
		// All of it is there already.
		a.offset, a.size = from, size
		a.Body.Close()
		a.Body = http.NoBody
		a.StatusCode = http.StatusPartialContent
	case status < 200 || status > 299:
		return k.badStatus(a)
	}
	if e := a.Header.Get("Content-Encoding"); e != "" && e != "identity" {
		return k.fail(ErrContent, "it is encoded as %.40q, which was not asked for", e)
	}
	return nil
}

// badStatus makes an Error of an answer that is no success.
func (k *call) badStatus(a *answer) *Error {
	text, _ := io.ReadAll(io.LimitReader(a, maxErrorBody)) // the status says enough
	e := k.fail(ErrStatus, "%s", describe(a.Header.Get("Content-Type"), text))
	e.Status, e.Header, e.Body = a.StatusCode, a.Header, text
	e.RetryAfter = retryAfter(a.Header, time.Now())
	if e.RetryAfter > 0 {
		e.Detail += fmt.Sprintf(" (asks to wait %v)", e.RetryAfter)
	}
	return e
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(h http.Header, now time.Time) time.Duration {
	const most = 365 * 24 * time.Hour
	text := h.Get("Retry-After")
	if seconds, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(most/time.Second))) * time.Second
	}
	if at, err := http.ParseTime(text); err == nil {
		return min(max(at.Sub(now), 0), most)
	}
	return 0
}

// contentRange reads "bytes 5-9/10", "bytes 5-9/*" and "bytes */10". size is -1
// for the second, start for the third.
func contentRange(text string) (start, size int64, ok bool) {
	text, found := strings.CutPrefix(text, "bytes ")
	part, whole, cut := strings.Cut(text, "/")
	if !found || !cut {
		return -1, -1, false
	}
	size = -1
	var err error
	if whole != "*" {
		if size, err = strconv.ParseInt(whole, 10, 64); err != nil || size < 0 {
			return -1, -1, false
		}
	}
	if part == "*" {
		return -1, size, false
	}
	first, last, _ := strings.Cut(part, "-")
	start, err = strconv.ParseInt(first, 10, 64)
	end, err2 := strconv.ParseInt(last, 10, 64)
	if err != nil || err2 != nil || start < 0 || end < start || size >= 0 && end >= size {
		return -1, -1, false
	}
	return start, size, true
}
