// Package apiclient speaks to the control API on the admin port of a server: resources,
// rollouts, uploads of versions, the audit log and backups.
//
// A [Client] may be used concurrently. Its errors say what the server said, or, when no server
// answered, how to start one.
package apiclient

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	"github.com/millrace-ml/millrace/cmd/millrace/client"
	"github.com/millrace-ml/millrace/control"
	"github.com/millrace-ml/millrace/control/api"
	"github.com/millrace-ml/millrace/control/store"
)

// ErrNoServer is returned when nothing answers at the address.
var ErrNoServer = errors.New("apiclient: no control plane answers")

// maxAnswer bounds an answer that is kept in memory, in bytes.
const maxAnswer = 1 << 30

// StatusError is an answer that is not a success.
type StatusError struct {
	Status int
	api.Failure
}

// Error returns what the server said.
func (e *StatusError) Error() string {
	if e.Failure.Error == "" {
		return fmt.Sprintf("the server answers with status %d (%s); is this its admin port?",
			e.Status, http.StatusText(e.Status))
	}
	return e.Failure.Error
}

// Client asks one server.
type Client struct {
	at   client.Address
	user string
	http http.Client
}

// New returns a client of the admin port at address: http://host:port, host:port or
// unix:/path. user stands in the audit log.
func New(address, user string) (*Client, error) {
	at, ok := client.ParseAddress(address)
	if !ok {
		return nil, fmt.Errorf("%q is no address of an admin port; "+
			"give one such as http://127.0.0.1:8002 or unix:/path", address)
	}
	return &Client{at, user, http.Client{Transport: at.Transport}}, nil
}

// Options say how a change is made.
type Options struct {
	DryRun   bool // only say what would be
	TakeOver bool // also what the settings file has
}

func (o Options) query() url.Values {
	q := url.Values{}
	if o.DryRun {
		q.Set("dry_run", "true")
	}
	if o.TakeOver {
		q.Set("take_over", "true")
	}
	return q
}

// List lists the resources of a plural such as "endpoints".
func (c *Client) List(ctx context.Context, plural string) (api.List, error) {
	var list api.List
	return list, c.ask(ctx, call{"GET", path(plural), nil, typed{}}, &list)
}

// Rollouts lists the rollouts of an endpoint, the latest last; only the last ones where there is
// a limit above 0.
func (c *Client) Rollouts(ctx context.Context, endpoint string, limit int) (api.List, error) {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var list api.List
	return list, c.ask(ctx, call{"GET", path("endpoints", endpoint, "rollouts"), q, typed{}}, &list)
}

// Resource reads one resource.
func (c *Client) Resource(ctx context.Context, plural, name string) (store.Resource, error) {
	var r store.Resource
	return r, c.ask(ctx, call{"GET", path(plural, name), nil, typed{}}, &r)
}

// Apply makes or changes the resources of a YAML or JSON text, or none of them.
func (c *Client) Apply(ctx context.Context, text []byte, o Options) (api.Effects, error) {
	var e api.Effects
	return e, c.ask(ctx, call{"POST", path("apply"), o.query(), yaml(text)}, &e)
}

// Diff says what Apply would change.
func (c *Client) Diff(ctx context.Context, text []byte) (api.Effects, error) {
	var e api.Effects
	q := Options{TakeOver: true}.query() // to look is no change
	return e, c.ask(ctx, call{"POST", path("diff"), q, yaml(text)}, &e)
}

// Delete deletes a resource.
func (c *Client) Delete(ctx context.Context, plural, name string, o Options) (api.Effect, error) {
	var e api.Effect
	return e, c.ask(ctx, call{"DELETE", path(plural, name), o.query(), typed{}}, &e)
}

// Command does something with an endpoint's rollout, and returns where it stands then.
func (c *Client) Command(ctx context.Context, endpoint, command string) (string, error) {
	var s api.Sentence
	at := path("endpoints", endpoint, "rollout", command)
	err := c.ask(ctx, call{"POST", at, nil, typed{}}, &s)
	return s.Sentence, err
}

// Trigger does something with a trigger, and returns where it stands then.
func (c *Client) Trigger(ctx context.Context, name, command string, s control.Start) (string,
	error) {
	text, err := json.Marshal(s)
	if err != nil {
		return "", err
	}
	var answer api.Sentence
	err = c.ask(ctx, call{"POST", path("triggers", name, command), nil,
		typed{"application/json", bytes.NewReader(text)}}, &answer)
	return answer.Sentence, err
}

// Run does something with a run of a trigger, and returns where it stands then.
func (c *Client) Run(ctx context.Context, id, command string) (string, error) {
	var s api.Sentence
	err := c.ask(ctx, call{"POST", path("runs", id, command), nil, typed{}}, &s)
	return s.Sentence, err
}

// Runs lists the runs of a trigger, the latest last; only the last ones where there is a limit
// above 0.
func (c *Client) Runs(ctx context.Context, trigger string, limit int) (api.List, error) {
	q := url.Values{}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	var list api.List
	return list, c.ask(ctx, call{"GET", path("triggers", trigger, "runs"), q, typed{}}, &list)
}

// Monitor does something with a monitor, and returns where it stands then.
func (c *Client) Monitor(ctx context.Context, monitor, command string) (string, error) {
	var s api.Sentence
	err := c.ask(ctx, call{"POST", path("monitors", monitor, command), nil, typed{}}, &s)
	return s.Sentence, err
}

// Sync has the server look at a source, and waits for it.
func (c *Client) Sync(ctx context.Context, source string) error {
	return c.ask(ctx, call{"POST", path("sources", source, "sync"), nil, typed{}}, nil)
}

// Audit reads the audit log, the latest change first.
func (c *Client) Audit(ctx context.Context, q store.Query) ([]store.Change, error) {
	v := url.Values{"kind": {q.Kind}, "name": {q.Name}, "who": {q.Who}}
	if q.Limit > 0 {
		v.Set("limit", strconv.Itoa(q.Limit))
	}
	if q.Quiet {
		v.Set("quiet", "true")
	}
	if q.Before > 0 {
		v.Set("before", strconv.FormatUint(q.Before, 10))
	}
	var page api.Changes
	err := c.ask(ctx, call{"GET", path("audit"), v, typed{}}, &page)
	return page.Changes, err
}

// Backup writes a copy of the store. After an error what was written is none.
func (c *Client) Backup(ctx context.Context, w io.Writer) error {
	resp, err := c.send(ctx, call{"GET", path("backup"), nil, typed{}})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(w, resp.Body); err != nil {
		return fmt.Errorf("cannot copy the backup: %w", err)
	}
	return nil
}

// path makes a path of its elements. What looks like a way up is a name here.
func path(elements ...string) string {
	p := api.Prefix
	for _, e := range elements {
		p += "/" + url.PathEscape(e)
	}
	return p
}

// typed is a body.
type typed struct {
	contentType string
	r           io.Reader
}

func yaml(text []byte) typed { return typed{"application/yaml", bytes.NewReader(text)} }

// call is a request.
type call struct {
	method, path string
	query        url.Values
	body         typed
}

// ask sends a request and reads the answer into a value; nil for none.
func (c *Client) ask(ctx context.Context, what call, into any) error {
	resp, err := c.send(ctx, what)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("cannot read the answer: %w", err)
	}
	if into == nil {
		return nil
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("cannot read the answer to %s %s: %w; is %s an admin port of millrace?",
			what.method, what.path, err, c.at.Text)
	}
	return nil
}

// send sends a request and returns a successful answer. Callers close its body.
func (c *Client) send(ctx context.Context, what call) (*http.Response, error) {
	req, err := c.request(ctx, what)
	if err != nil {
		return nil, err
	}
	return c.do(req)
}

func (c *Client) request(ctx context.Context, what call) (*http.Request, error) {
	at := c.at.Base + what.path
	if len(what.query) > 0 {
		at += "?" + what.query.Encode()
	}
	req, err := http.NewRequestWithContext(ctx, what.method, at, what.body.r)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	if what.body.contentType != "" {
		req.Header.Set("Content-Type", what.body.contentType)
	}
	if c.user != "" {
		req.Header.Set(api.UserHeader, c.user)
	}
	return req, nil
}

func (c *Client) do(req *http.Request) (*http.Response, error) {
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &StatusError{Status: resp.StatusCode}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err == nil {
		_ = json.Unmarshal(text, &e.Failure) // what is no JSON has no text for people
	}
	return nil, e
}

func (c *Client) unreachable(err error) error {
	return c.at.Explain(err, fmt.Errorf("%w at %s; start a server with `millrace serve`, or name "+
		"its admin port with --admin or MILLRACE_ADMIN", ErrNoServer, c.at.Text))
}
