// Package alert tells Alertmanager of alarms, by its API v2.
//
// A [Client] belongs to one Alertmanager. It remembers nothing: whoever has an alert that is on
// posts it again and again, as Prometheus does, and once more when it is over. Calls go through
// package fetch, which repeats them, and leaves a server alone that fails all the time.
//
// All methods may be called concurrently.
package alert

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/registry/fetch"
)

// Alert is an alert as Alertmanager takes it. Its labels say which one it is.
type Alert struct {
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations,omitempty"`
	StartsAt    time.Time         `json:"startsAt"`
	// EndsAt is when it is over if nothing more comes; one in the past ends it.
	EndsAt       time.Time `json:"endsAt"`
	GeneratorURL string    `json:"generatorURL,omitempty"`
}

// Resend is how often an alert that is on is posted, and Lasting how long one that was posted
// lasts: some of them may be lost.
const Resend, Lasting = time.Minute, 5 * time.Minute

// Client posts alerts to an Alertmanager. Close it after use.
type Client struct {
	client *fetch.Client
	url    string
}

// timeout bounds one post: the next alert waits for it.
const timeout = 10 * time.Second

// New returns a client of the Alertmanager at an address. It asks nobody yet.
func New(address string) (*Client, error) {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("alert: the address %q is no URL of an Alertmanager", address)
	}
	cfg := fetch.DefaultConfig()
	cfg.Origin, cfg.Allow = address, []string{u.Hostname()}
	cfg.Timeout, cfg.IdleTimeout, cfg.Attempts = timeout, timeout, 2
	c, err := fetch.New(cfg)
	if err != nil {
		return nil, err
	}
	return &Client{c, strings.TrimSuffix(address, "/") + "/api/v2/alerts"}, nil
}

// Post tells of alerts. To repeat it does no harm.
func (c *Client) Post(ctx context.Context, alerts ...Alert) error {
	body, err := json.Marshal(alerts)
	if err != nil {
		return fmt.Errorf("alert: cannot write an alert: %w", err)
	}
	resp, err := c.client.Do(ctx, fetch.Request{Method: http.MethodPost, URL: c.url, Body: body,
		Idempotent: true, Header: http.Header{"Content-Type": {"application/json"}}})
	if err != nil {
		return fmt.Errorf("cannot tell Alertmanager: %w", err)
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection lasts
	return resp.Body.Close()
}

// Close closes the connections that wait for more calls.
func (c *Client) Close() { c.client.Close() }
