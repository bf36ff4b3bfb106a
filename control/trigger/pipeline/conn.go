package pipeline

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/control/trigger"
	"github.com/millrace-ml/millrace/registry/fetch"
)

// secret is one that is read from a file or an environment variable at each use.
type secret struct{ file, env string }

// read returns the secret. Its error does not hold it.
func (s secret) read() (string, error) {
	text, err := fetch.Secret(s.file, s.env)
	if err != nil {
		return "", &trigger.Fault{Text: "cannot read a secret: " + err.Error()}
	}
	return text, nil
}

// set says whether there is a secret at all.
func (s secret) set() bool { return s.file != "" || s.env != "" }

// validate wants one place, if it is needed any.
func (s secret) validate(key string, needed bool) error {
	switch {
	case s.file != "" && s.env != "":
		return fmt.Errorf("%s_file, %s_env: both are set", key, key)
	case needed && !s.set():
		return fmt.Errorf("%s_file or %s_env: is missing", key, key)
	}
	return nil
}

// conn makes the calls of one pipeline.
type conn struct {
	client  *fetch.Client
	base    string // without a slash at its end
	secrets []secret
	user    string
	// headers adds what all calls need; may be nil.
	headers func(context.Context) (http.Header, error)
}

// dial returns a conn of a server, to be closed by close. More secrets than those of the
// server's settings are taken out of texts as well.
func dial(server fetch.Config, more ...secret) (*conn, error) {
	client, err := fetch.New(server)
	if err != nil {
		return nil, err
	}
	c := &conn{client: client, base: strings.TrimRight(server.Origin, "/"),
		secrets: append(more, passwordOf(server), secret{server.TokenFile, server.TokenEnv}),
		user:    server.Username}
	return c, nil
}

// close closes the connections that wait for more calls.
func (c *conn) close() { c.client.Close() }

func passwordOf(server fetch.Config) secret {
	return secret{server.PasswordFile, server.PasswordEnv}
}

// request is one call.
type request struct {
	method string // empty is GET
	path   string // after the base; query included
	header http.Header
	body   any  // url.Values are sent as a form, []byte as they are, all else as JSON
	repeat bool // POST or PATCH may be repeated
	starts bool // after an error nobody knows whether it has started a run
}

// answer is what came.
type answer struct {
	status int
	header http.Header
	body   []byte
}

// call makes one call and reads the answer into out, if that is not nil and there is a
// body. Its errors are Faults; the answer says more where there was one.
func (c *conn) call(ctx context.Context, r request, out any) (answer, error) {
	req := fetch.Request{Method: r.method, URL: c.base + r.path, Header: http.Header{},
		Idempotent: r.repeat}
	if c.headers != nil {
		h, err := c.headers(ctx)
		if err != nil {
			return answer{}, err
		}
		req.Header = h.Clone()
	}
	if err := encode(&req, r.body); err != nil {
		return answer{}, &trigger.Fault{Kind: trigger.ErrRefused, Text: err.Error()}
	}
	for key, values := range r.header {
		req.Header[key] = values
	}
	resp, err := c.client.Do(ctx, req)
	if err != nil {
		a := answer{header: http.Header{}}
		if e, ok := errors.AsType[*fetch.Error](err); ok && e.Kind == fetch.ErrStatus {
			a = answer{e.Status, e.Header, e.Body}
		}
		return a, c.fault(err, r.starts)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return answer{}, c.fault(err, r.starts)
	}
	a := answer{resp.Status, resp.Header, text}
	if out == nil || len(bytes.TrimSpace(text)) == 0 {
		return a, nil
	}
	if err := json.Unmarshal(text, out); err != nil {
		what := "an answer that cannot be read came from " + resp.URL + ": " + err.Error()
		if bytes.HasPrefix(bytes.TrimSpace(text), []byte("<")) {
			what = "a web page, perhaps to sign in, came from " + resp.URL
		}
		f := &trigger.Fault{Text: c.scrub(what)}
		if r.starts {
			f.Kind = trigger.ErrUncertain
		}
		return a, f
	}
	return a, nil
}

// encode writes the body of a request.
func encode(req *fetch.Request, body any) (err error) {
	switch b := body.(type) {
	case nil:
	case []byte:
		req.Body = b
		req.Header.Set("Content-Type", "application/json")
	case url.Values:
		req.Body = []byte(b.Encode())
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	default:
		req.Body, err = json.Marshal(b)
		req.Header.Set("Content-Type", "application/json")
	}
	return err
}

// fault says for the state machine what an error of a call means.
func (c *conn) fault(err error, starts bool) error {
	f := &trigger.Fault{Text: c.scrub(err.Error())}
	e, ok := errors.AsType[*fetch.Error](err)
	if !ok {
		e = &fetch.Error{Kind: fetch.ErrCut, Cause: err}
	}
	f.RetryAfter = e.RetryAfter
	switch e.Kind {
	case fetch.ErrOpen, fetch.ErrCredentials:
		return f // it was not asked
	case fetch.ErrRefused, fetch.ErrRedirect:
		f.Kind = trigger.ErrRefused
		return f
	case fetch.ErrStatus:
		return statusFault(f, e, starts)
	}
	op, ok := errors.AsType[*net.OpError](err)
	if starts && !(ok && op.Op == "dial") {
		f.Kind = trigger.ErrUncertain
	}
	return f
}

// statusFault is fault for an answer that is no success.
func statusFault(f *trigger.Fault, e *fetch.Error, starts bool) *trigger.Fault {
	retry := []int{http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests}
	switch {
	case slices.Contains(retry, e.Status):
	case e.Status >= 500 && starts:
		f.Kind = trigger.ErrUncertain // a proxy may say so of a call that it has passed on
	case e.Status >= 500:
	case e.Status == http.StatusNotFound && !starts:
		f.Kind = trigger.ErrGone
	default:
		f.Kind = trigger.ErrRefused
	}
	return f
}

// scrub takes the secrets out of a text, as they are and as they are sent.
func (c *conn) scrub(text string) string {
	for _, s := range c.secrets {
		if !s.set() {
			continue
		}
		value, err := s.read()
		if err != nil || len(value) < 4 { // shorter ones would eat letters of all texts
			continue
		}
		for _, form := range []string{value, url.QueryEscape(value),
			base64.StdEncoding.EncodeToString([]byte(c.user + ":" + value))} {
			text = strings.ReplaceAll(text, form, "...")
		}
	}
	return text
}
