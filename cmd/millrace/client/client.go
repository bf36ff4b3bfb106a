// Package client speaks to a model server by the Open Inference Protocol over
// HTTP: metadata, inference with binary tensors, and the model repository.
//
// A [Client] may be used concurrently. Errors say what the server said, or,
// when no server answered, how to start one.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
)

// ErrNoServer is returned when nothing answers at the address.
var ErrNoServer = errors.New("client: no server answers")

// maxAnswer bounds an answer, in bytes.
const maxAnswer = 4 << 30

// StatusError is an answer that is not a success.
type StatusError struct {
	Status int
	Text   string // what the server said
}

// Error returns what the server said and the status.
func (e *StatusError) Error() string {
	if e.Text == "" {
		return fmt.Sprintf("the server answers with status %d", e.Status)
	}
	return fmt.Sprintf("%s (status %d)", e.Text, e.Status)
}

// Client asks one server.
type Client struct {
	at   Address
	http http.Client
}

// New returns a client of the server at address: http://host:port, host:port
// or unix:/path.
func New(address string) (*Client, error) {
	at, ok := ParseAddress(address)
	if !ok {
		return nil, fmt.Errorf("%q is no address of a server; "+
			"give one such as http://127.0.0.1:8000 or unix:/path", address)
	}
	return &Client{at, http.Client{Transport: at.Transport}}, nil
}

// Server is a server's metadata.
type Server struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Extensions []string `json:"extensions"`
}

// Tensor describes an input or output in a model's metadata.
type Tensor struct {
	Name     string  `json:"name"`
	Datatype string  `json:"datatype"`
	Shape    []int64 `json:"shape"`
}

// Model is a model's metadata.
type Model struct {
	Name     string   `json:"name"`
	Versions []string `json:"versions"`
	Platform string   `json:"platform"`
	Inputs   []Tensor `json:"inputs"`
	Outputs  []Tensor `json:"outputs"`
}

// Entry is one line of the repository's index.
type Entry struct {
	Name    string `json:"name"`
	Version string `json:"version,omitempty"`
	State   string `json:"state,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

// Server asks for the server's metadata.
func (c *Client) Server(ctx context.Context) (Server, error) {
	var s Server
	return s, c.get(ctx, "/v2", &s)
}

// Model asks for a model's metadata. An empty version lets the server pick.
func (c *Client) Model(ctx context.Context, name, version string) (Model, error) {
	var m Model
	return m, c.get(ctx, modelPath(name, version), &m)
}

// Index lists what is in the repository.
func (c *Client) Index(ctx context.Context) ([]Entry, error) {
	var list []Entry
	answer, err := c.do(ctx, "POST", "/v2/repository/index", payload{})
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(answer.body, &list); err != nil {
		return nil, fmt.Errorf("cannot read the server's index: %w", err)
	}
	return list, nil
}

// Load asks the server to load a model. config is a configuration in JSON
// that stands in place of the folder's; "" for none.
func (c *Client) Load(ctx context.Context, name, config string) error {
	var body []byte
	if config != "" {
		var err error
		body, err = json.Marshal(map[string]any{"parameters": map[string]string{"config": config}})
		if err != nil {
			return err
		}
	}
	_, err := c.do(ctx, "POST", "/v2/repository/models/"+url.PathEscape(name)+"/load",
		payload{body: body})
	return err
}

// Unload asks the server to take a model out of service.
func (c *Client) Unload(ctx context.Context, name string) error {
	_, err := c.do(ctx, "POST", "/v2/repository/models/"+url.PathEscape(name)+"/unload", payload{})
	return err
}

func modelPath(name, version string) string {
	path := "/v2/models/" + url.PathEscape(name)
	if version != "" {
		path += "/versions/" + url.PathEscape(version)
	}
	return path
}

func (c *Client) get(ctx context.Context, path string, into any) error {
	answer, err := c.do(ctx, "GET", path, payload{})
	if err != nil {
		return err
	}
	if err := json.Unmarshal(answer.body, into); err != nil {
		return fmt.Errorf("cannot read the answer to %s: %w; is this a server of the "+
			"Open Inference Protocol?", path, err)
	}
	return nil
}

// payload is what a request brings, or an answer.
type payload struct {
	body   []byte
	header http.Header
}

// do sends one request and returns a successful answer.
func (c *Client) do(ctx context.Context, method, path string, p payload) (payload, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.at.Base+path, bytes.NewReader(p.body))
	if err != nil {
		return payload{}, fmt.Errorf("cannot make the request: %w", err)
	}
	for name := range p.header {
		req.Header.Set(name, p.header.Get(name))
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return payload{}, c.unreachable(err)
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return payload{}, fmt.Errorf("cannot read the answer: %w", err)
	}
	if resp.StatusCode/100 != 2 {
		var e struct {
			Error string `json:"error"`
		}
		if json.Unmarshal(answer, &e) != nil {
			e.Error = http.StatusText(resp.StatusCode)
		}
		return payload{}, &StatusError{resp.StatusCode, e.Error}
	}
	return payload{answer, resp.Header}, nil
}

func (c *Client) unreachable(err error) error {
	return c.at.Explain(err, fmt.Errorf("%w at %s; start one with `millrace serve`, "+
		"or name another with --url", ErrNoServer, c.at.Text))
}
