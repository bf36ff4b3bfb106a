package client

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
)

// Address is where a port of a server is, and how it is reached.
type Address struct {
	Text      string            // as people wrote it
	Base      string            // what the path of a call follows
	Transport http.RoundTripper // nil is that of net/http
}

// ParseAddress reads http://host:port, host:port or unix:/path; ok is false for all else.
func ParseAddress(text string) (a Address, ok bool) {
	a.Text = text
	if path, ok := strings.CutPrefix(text, "unix:"); ok {
		a.Base = "http://unix"
		a.Transport = &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			},
		}
		return a, true
	}
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return a, false
	}
	a.Base = strings.TrimSuffix(u.String(), "/")
	return a, true
}

// Explain says for people why a call got no answer. nobody is the error for when nothing
// listens there.
func (a Address) Explain(err, nobody error) error {
	switch {
	case errors.Is(err, syscall.ECONNREFUSED), errors.Is(err, syscall.ENOENT):
		return nobody
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%s did not answer in time: %w", a.Text, context.DeadlineExceeded)
	}
	return fmt.Errorf("cannot reach %s: %w", a.Text, err)
}
