// Package alert tells Alertmanager of alarms, by its API v2.
//
// A [Client] belongs to one Alertmanager, which may be a cluster: then each member gets all alerts,
// as from Prometheus, since members tell each other whom they have notified, and no alerts. It
// remembers nothing: whoever has an alert that is on posts it again and again, and once more when
// it is over. Calls go through package fetch, which repeats them, and leaves a server alone that
// fails all the time.
//
// All methods may be called concurrently.
package alert

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
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
	log     *slog.Logger
	members []*member
}

// member is a server of a cluster.
type member struct {
	client  *fetch.Client
	url     string
	failing atomic.Bool // since the last post
}

// timeout bounds one post: the next alert waits for it.
const timeout = 10 * time.Second

// New returns a client of the Alertmanager with these members. It asks nobody yet.
func New(members []fetch.Config, log *slog.Logger) (*Client, error) {
	if len(members) == 0 {
		return nil, errors.New("alert: the Alertmanager has no address")
	}
	c := &Client{log: log}
	for _, cfg := range members {
		cfg.Timeout, cfg.IdleTimeout, cfg.Attempts = timeout, timeout, 2
		f, err := fetch.New(cfg)
		if err != nil {
			c.Close()
			return nil, fmt.Errorf("cannot ask Alertmanager: %w", err)
		}
		c.members = append(c.members, &member{client: f,
			url: strings.TrimSuffix(cfg.Origin, "/") + "/api/v2/alerts"})
	}
	return c, nil
}

// Post tells all members of alerts. It fails when none has taken them; that one of several fails
// is logged. To repeat it does no harm.
func (c *Client) Post(ctx context.Context, alerts ...Alert) error {
	body, err := json.Marshal(alerts)
	if err != nil {
		return fmt.Errorf("alert: cannot write an alert: %w", err)
	}
	faults := make([]error, len(c.members))
	var wait sync.WaitGroup
	for i, m := range c.members {
		wait.Go(func() { faults[i] = m.post(ctx, body) })
	}
	wait.Wait()
	if !slices.Contains(faults, nil) {
		return fmt.Errorf("cannot tell Alertmanager: %w", errors.Join(faults...))
	}
	for i, m := range c.members {
		failing := faults[i] != nil
		switch was := m.failing.Swap(failing); {
		case failing && !was:
			c.log.Warn("a member of Alertmanager's cluster takes no alerts; another one does",
				"error", faults[i])
		case was && !failing:
			c.log.Info("a member of Alertmanager's cluster takes alerts again", "member", m.url)
		}
	}
	return nil
}

func (m *member) post(ctx context.Context, body []byte) error {
	resp, err := m.client.Do(ctx, fetch.Request{Method: http.MethodPost, URL: m.url, Body: body,
		Idempotent: true, Header: http.Header{"Content-Type": {"application/json"}}})
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, io.LimitReader(resp.Body, 1<<16)) // so that the connection lasts
	return resp.Body.Close()
}

// Close closes the connections that wait for more calls.
func (c *Client) Close() {
	for _, m := range c.members {
		m.client.Close()
	}
}
