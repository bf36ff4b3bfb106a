// Package mlflow talks to an MLflow server, 2.x or 3.x, over its REST API: models
// and versions with their aliases, stages and tags, the files of a version through
// the server's artifact proxy, and experiments with their runs.
//
// A Client builds requests, decodes answers and names what went wrong (see Error).
// It never repeats a request: timeouts, repetition, certificates and which
// addresses may be dialled are the business of the Doer it is given. All methods
// may be called concurrently.
//
// Files that do not lie behind the proxy (s3://, gs://, file:// ...) are not
// fetched here: ErrDirect says so, and Resolve says where they lie.
package mlflow

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/url"
	"strings"
)

// Doer carries out a request. An http.Client is one.
type Doer interface {
	Do(*http.Request) (*http.Response, error)
}

// Config says which server is meant and who asks.
type Config struct {
	URI      string `yaml:"uri"`      // with the server's --static-prefix, if it has one
	Username string `yaml:"username"` // of basic authentication
	Password string `yaml:"password"`
	Token    string `yaml:"token"` // sent as a bearer, instead of a user name
}

// Validate says what is wrong with a Config.
func (c Config) Validate() error {
	var faults []error
	u, err := url.Parse(c.URI)
	switch {
	case err != nil:
		faults = append(faults, errors.New("uri: it is not a URL"))
	case u.Scheme != "http" && u.Scheme != "https" || u.Host == "":
		faults = append(faults, fmt.Errorf("uri: %q has to be like http://host:5000",
			u.Redacted()))
	case u.User != nil:
		faults = append(faults, errors.New("uri: put the user into username and password"))
	case u.RawQuery != "" || u.Fragment != "":
		faults = append(faults, errors.New("uri: it must have no query and no fragment"))
	}
	if c.Token != "" && c.Username != "" {
		faults = append(faults, errors.New("token, username: only one of them may be set"))
	}
	if c.Username == "" && c.Password != "" {
		faults = append(faults, errors.New("password: there is no username"))
	}
	return errors.Join(faults...)
}

// Client is a client of one MLflow server.
type Client struct {
	cfg  Config
	base string // no slash at the end
	host string // with the port, as in the URI
	doer Doer
}

// New returns a Client that sends its requests through doer.
func New(cfg Config, doer Doer) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("cannot use the MLflow server: %w", err)
	}
	u, err := url.Parse(cfg.URI)
	if err != nil {
		return nil, err
	}
	return &Client{cfg: cfg, base: strings.TrimRight(cfg.URI, "/"), host: u.Host, doer: doer}, nil
}

// Bounds of what is read. A page of a search has megabytes where descriptions and tags
// are long.
const (
	maxAnswer = 32 << 20 // bytes of JSON
	maxFault  = 64 << 10 // bytes of an answer that is an error
)

// call makes one call of the API. op is its method and its path below /api/2.0/;
// in is url.Values for a GET and what becomes the JSON body for the others. out
// may be nil.
func (c *Client) call(ctx context.Context, op string, in, out any) error {
	method, path, _ := strings.Cut(op, " ")
	var body io.Reader
	if query, ok := in.(url.Values); ok {
		path += "?" + query.Encode()
	} else {
		text, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("cannot %s: %w", op, err)
		}
		body = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.base+"/api/2.0/"+path, body)
	if err != nil {
		return fmt.Errorf("cannot %s: %w", op, err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.send(req, op)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	return decode(resp, op, out)
}

// send sends a request. What is no success becomes an Error.
func (c *Client) send(req *http.Request, op string) (*http.Response, error) {
	switch {
	case c.cfg.Token != "":
		req.Header.Set("Authorization", "Bearer "+c.cfg.Token)
	case c.cfg.Username != "":
		req.SetBasicAuth(c.cfg.Username, c.cfg.Password)
	}
	resp, err := c.doer.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot %s: %w", op, err)
	}
	if resp.Request != nil && resp.Request.Method != req.Method {
		_ = resp.Body.Close()
		return nil, &Error{Op: op, Status: resp.StatusCode, Err: ErrForeign,
			Message: "the request was redirected; use the URI that it leads to"}
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer func() { _ = resp.Body.Close() }()
	return nil, fault(resp, op)
}

// decode reads an answer, which has to be one JSON object. Where nothing is wanted
// of it, it may be empty.
func decode(resp *http.Response, op string, out any) error {
	limited := &io.LimitedReader{R: resp.Body, N: maxAnswer}
	r := bufio.NewReader(limited)
	fail := func(class error, text string) error {
		return &Error{Op: op, Status: resp.StatusCode, Message: text, Err: class}
	}
	start, err := firstByte(r)
	switch {
	case err == io.EOF && out == nil:
		return nil
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fail(ErrTruncated, "the answer is empty")
	case err != nil:
		return fmt.Errorf("cannot %s: %w", op, err)
	case start != '{':
		text, _ := io.ReadAll(io.LimitReader(r, maxFault))
		return fail(ErrForeign, "no JSON object but "+excerpt(text))
	}
	if out == nil {
		out = &struct{}{}
	}
	dec := json.NewDecoder(r)
	if err = dec.Decode(out); err == nil {
		switch _, err = dec.Token(); err {
		case io.EOF:
			return nil
		case nil:
			return fail(ErrForeign, "something follows the JSON object")
		}
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case limited.N == 0:
		return fail(ErrForeign, fmt.Sprintf("the answer has more than %d bytes", maxAnswer))
	case errors.Is(err, io.ErrUnexpectedEOF):
		return fail(ErrTruncated, "the answer is cut off")
	case errors.As(err, &syntax), errors.As(err, &kind):
		return fail(ErrForeign, err.Error())
	}
	return fmt.Errorf("cannot %s: %w", op, err)
}

// firstByte returns the first byte that is no white space, and leaves it there.
func firstByte(r *bufio.Reader) (byte, error) {
	for {
		b, err := r.ReadByte()
		if err != nil {
			return 0, err
		}
		if !strings.ContainsRune(" \t\r\n", rune(b)) {
			return b, r.UnreadByte()
		}
	}
}

// maxPages bounds a search whose page tokens never end.
const maxPages = 10_000

// pages goes through a search. load asks for the page that a token names, and
// returns its entries and the token of the next.
func pages[T any](load func(token string) ([]T, string, error)) iter.Seq2[*T, error] {
	return func(yield func(*T, error) bool) {
		token := ""
		for range maxPages {
			list, next, err := load(token)
			if err != nil {
				yield(nil, err)
				return
			}
			for i := range list {
				if !yield(&list[i], nil) {
					return
				}
			}
			if next == "" {
				return
			}
			if token == next {
				break
			}
			token = next
		}
		yield(nil, fmt.Errorf("%w: a search has no last page", ErrForeign))
	}
}
