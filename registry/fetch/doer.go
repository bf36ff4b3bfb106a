package fetch

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Doer carries out requests for packages that are written for an http.Client. An
// answer of any status but those of redirects is no error, as there.
type Doer struct{ c *Client }

// Doer returns the client as a Doer.
func (c *Client) Doer() Doer { return Doer{c} }

// maxBody bounds the body of a request, which is kept to be sent again.
const maxBody = 64 << 20

// Do carries out a request by Client.Do. Its body is read into memory. As with
// net/http, a header Idempotency-Key says that it may be repeated. Of an answer
// that is no success the first 16 KiB are kept.
func (d Doer) Do(r *http.Request) (*http.Response, error) {
	req := Request{Method: r.Method, URL: r.URL.String(), Header: r.Header.Clone()}
	if r.Body != nil {
		var err error
		req.Body, err = io.ReadAll(io.LimitReader(r.Body, maxBody+1))
		if err := errors.Join(err, r.Body.Close()); err != nil {
			return nil, err
		}
	}
	if len(req.Body) > maxBody {
		return nil, &Error{Method: r.Method, URL: Redact(r.URL), Kind: ErrTooLarge,
			Detail: "the request's body"}
	}
	_, req.Idempotent = r.Header["Idempotency-Key"]
	first, isRange := strings.CutPrefix(r.Header.Get("Range"), "bytes=")
	if first, open := strings.CutSuffix(first, "-"); isRange && open {
		if n, err := strconv.ParseInt(first, 10, 64); err == nil && n > 0 {
			req.Offset = n
		}
	}
	req.Header.Del("Range")
	answer := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r}
	resp, err := d.c.Do(r.Context(), req)
	var e *Error
	switch {
	case err == nil:
		answer.StatusCode, answer.Header, answer.Body = resp.Status, resp.Header, resp.Body
		answer.ContentLength = max(resp.Size-resp.Offset, -1)
	case errors.As(err, &e) && e.Kind == ErrStatus:
		answer.StatusCode, answer.Header = e.Status, e.Header
		answer.Body = io.NopCloser(bytes.NewReader(e.Body))
		answer.ContentLength = int64(len(e.Body))
	default:
		return nil, err
	}
	answer.Status = strconv.Itoa(answer.StatusCode) + " " + http.StatusText(answer.StatusCode)
	return answer, nil
}
