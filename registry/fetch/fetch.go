// Package fetch asks HTTP servers that may be slow, broken or hostile.
//
// A [Client] belongs to one source of files. It sends the source's credentials to
// the source's own origin and to nobody else, checks each address that it dials
// against the networks it may reach, follows redirects of GET and HEAD under the
// same rules, and bounds bytes, time and silence. Calls that may be repeated are,
// with growing random pauses; a host that fails all the time is left alone for a
// while. A body that breaks off goes on where it has stopped if the server can do
// that and says that the file is still the same.
//
// All methods of a Client may be called concurrently. Every error is an [Error],
// whose text may be shown to people: it names the URL without secrets and says
// what came instead of what was asked for.
package fetch

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

// Config says whom a Client may ask, as whom, and how patiently.
type Config struct {
	// The URL of the source. Credentials go to its scheme, host and port only.
	Origin string `yaml:"uri"`
	// Networks ("10.0.0.0/8"), addresses and host names that may be reached though
	// they are not public. A name lets private and loopback addresses pass.
	Allow []string `yaml:"allow"`
	// PEM file of the authorities to trust in place of the system's.
	CAFile string `yaml:"ca_file"`

	Username     string `yaml:"username"`
	PasswordFile string `yaml:"password_file"` // read at each call, as all below
	PasswordEnv  string `yaml:"password_env"`  // name of an environment variable
	TokenFile    string `yaml:"token_file"`
	TokenEnv     string `yaml:"token_env"`

	MaxBytes     int64         `yaml:"max_bytes"`     // of one body
	Timeout      time.Duration `yaml:"timeout"`       // of one call, with repetitions and body
	IdleTimeout  time.Duration `yaml:"idle_timeout"`  // without a byte
	MaxRedirects int           `yaml:"max_redirects"` // of one call
	Attempts     int           `yaml:"attempts"`      // of one call, the first included
	Backoff      time.Duration `yaml:"backoff"`       // the first pause is random up to this
	MaxBackoff   time.Duration `yaml:"max_backoff"`   // so are later ones, up to this
	// Failures in a row after which a host is left alone, and for how long.
	BreakerFailures int           `yaml:"breaker_failures"`
	BreakerTimeout  time.Duration `yaml:"breaker_timeout"`
}

// DefaultConfig has all but the origin.
func DefaultConfig() Config {
	return Config{
		MaxBytes:        20 << 30,
		Timeout:         2 * time.Hour,
		IdleTimeout:     60 * time.Second,
		MaxRedirects:    5,
		Attempts:        5,
		Backoff:         200 * time.Millisecond,
		MaxBackoff:      20 * time.Second,
		BreakerFailures: 10,
		BreakerTimeout:  30 * time.Second,
	}
}

// Validate lists all faults.
func (c Config) Validate() error {
	var faults []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			faults = append(faults, fmt.Errorf(format, args...))
		}
	}
	if _, err := parse(c.Origin); err != nil {
		faults = append(faults, fmt.Errorf("uri: %w", err))
	}
	if _, err := newGuard(c.Allow); err != nil {
		faults = append(faults, fmt.Errorf("allow: %w", err))
	}
	set := 0
	for _, s := range []string{c.PasswordFile, c.PasswordEnv, c.TokenFile, c.TokenEnv} {
		if s != "" {
			set++
		}
	}
	check(set <= 1, "password_file, password_env, token_file, token_env: more than one is set")
	check((c.Username != "") == (c.PasswordFile+c.PasswordEnv != ""),
		"username: goes together with password_file or password_env")
	check(c.MaxBytes > 0, "max_bytes: %d; must be positive", c.MaxBytes)
	check(c.Timeout > 0, "timeout: %v; must be positive", c.Timeout)
	check(c.IdleTimeout > 0, "idle_timeout: %v; must be positive", c.IdleTimeout)
	check(c.MaxRedirects >= 0 && c.MaxRedirects <= 20, "max_redirects: %d; 0 to 20 are allowed",
		c.MaxRedirects)
	check(c.Attempts >= 1 && c.Attempts <= 20, "attempts: %d; 1 to 20 are allowed", c.Attempts)
	check(c.Backoff > 0 && c.Backoff <= c.MaxBackoff,
		"backoff: %v; must be positive and at most max_backoff, %v", c.Backoff, c.MaxBackoff)
	check(c.BreakerFailures >= 1, "breaker_failures: %d; must be positive", c.BreakerFailures)
	check(c.BreakerTimeout > 0, "breaker_timeout: %v; must be positive", c.BreakerTimeout)
	return errors.Join(faults...)
}

// Client asks servers. Close it after use.
type Client struct {
	cfg       Config
	origin    *url.URL
	transport *http.Transport

	mu       sync.Mutex
	breakers map[string]*breaker // by origin. Guarded by mu.
}

type breaker = gobreaker.CircuitBreaker[*http.Response]

// New returns a client. It starts nothing and asks nobody yet.
func New(cfg Config) (*Client, error) {
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("fetch: %w", err)
	}
	origin, err := parse(cfg.Origin)
	if err != nil {
		return nil, fmt.Errorf("fetch: uri: %w", err)
	}
	g, err := newGuard(cfg.Allow)
	if err != nil {
		return nil, fmt.Errorf("fetch: allow: %w", err)
	}
	t := &http.Transport{
		// No proxy: it would be the one that dials, without the guard.
		DialContext:            g.dial,
		TLSClientConfig:        &tls.Config{MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout:    dialTimeout,
		ResponseHeaderTimeout:  cfg.IdleTimeout,
		MaxResponseHeaderBytes: 1 << 20,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        90 * time.Second,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // sizes and ranges are those of the file itself
	}
	if cfg.CAFile != "" {
		pem, err := os.ReadFile(cfg.CAFile)
		if err != nil {
			return nil, fmt.Errorf("fetch: ca_file: %w", err)
		}
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("fetch: ca_file: %s holds no certificate in PEM", cfg.CAFile)
		}
	}
	return &Client{cfg: cfg, origin: origin, transport: t,
		breakers: make(map[string]*breaker)}, nil
}

// Close closes the connections that wait for more calls.
func (c *Client) Close() { c.transport.CloseIdleConnections() }

// parse reads a URL that may be asked. Its error does not repeat the URL, which
// may hold secrets.
func parse(text string) (*url.URL, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return nil, errors.New("not a URL")
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, fmt.Errorf("the scheme is %.20q; http and https are allowed", u.Scheme)
	case u.Hostname() == "":
		return nil, errors.New("the host is missing")
	case u.User != nil:
		return nil, errors.New("holds a user name or password; " +
			"set username and password_file or password_env instead")
	}
	return u, nil
}

// sameOrigin compares scheme, host and port.
func sameOrigin(a, b *url.URL) bool { return originOf(a) == originOf(b) }

func originOf(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443"}[u.Scheme]
	}
	return u.Scheme + "://" + strings.ToLower(u.Hostname()) + " " + port
}

// maxBreakers bounds the hosts whose failures are counted, since redirects can
// lead to any number of them.
const maxBreakers = 256

// breaker returns the one of an origin. It counts answers that say that the host
// cannot work, and no answer at all; a call that was given up or shed, and a
// host that must not be asked, count neither way.
func (c *Client) breaker(origin string) *breaker {
	c.mu.Lock()
	defer c.mu.Unlock()
	b := c.breakers[origin]
	if b == nil {
		if len(c.breakers) >= maxBreakers {
			clear(c.breakers)
		}
		b = gobreaker.NewCircuitBreaker[*http.Response](gobreaker.Settings{
			Name:    origin,
			Timeout: c.cfg.BreakerTimeout,
			ReadyToTrip: func(n gobreaker.Counts) bool {
				return int64(n.ConsecutiveFailures) >= int64(c.cfg.BreakerFailures)
			},
			IsExcluded: func(err error) bool {
				return errors.Is(err, context.Canceled) || errors.Is(err, ErrRefused) ||
					errors.Is(err, errShed)
			},
		})
		c.breakers[origin] = b
	}
	return b
}

// errShed and errDown tell a breaker about an answer's status.
var (
	errShed = errors.New("shed")
	errDown = errors.New("down")
)

// throughBreaker makes one round trip, if the host is not left alone.
func (c *Client) throughBreaker(r *http.Request) (*http.Response, error) {
	var answer *http.Response
	_, err := c.breaker(originOf(r.URL)).Execute(func() (*http.Response, error) {
		var err error
		answer, err = c.transport.RoundTrip(r)
		if err != nil {
			return nil, err
		}
		switch {
		case answer.StatusCode == http.StatusTooManyRequests:
			return nil, errShed
		case unavailable(answer.StatusCode):
			return nil, errDown
		}
		return nil, nil
	})
	if answer != nil {
		return answer, nil
	}
	if errors.Is(err, gobreaker.ErrOpenState) || errors.Is(err, gobreaker.ErrTooManyRequests) {
		err = ErrOpen
	}
	return nil, err
}

// maxSecret bounds the file of a password or token, in bytes.
const maxSecret = 64 << 10

// authorize adds the credentials to a request for the source's own origin.
func (c *Client) authorize(r *http.Request) error {
	if !sameOrigin(r.URL, c.origin) {
		return nil
	}
	cfg := &c.cfg
	file, env := cfg.PasswordFile+cfg.TokenFile, cfg.PasswordEnv+cfg.TokenEnv
	if file == "" && env == "" {
		return nil
	}
	secret, err := Secret(file, env)
	if err != nil {
		return err
	}
	if cfg.Username != "" {
		r.SetBasicAuth(cfg.Username, secret)
	} else {
		r.Header.Set("Authorization", "Bearer "+secret)
	}
	return nil
}

// Secret reads a password or token, one line: from a file, or where that is empty from the
// environment variable of a name. Its error is ErrCredentials and does not hold it.
func Secret(file, env string) (string, error) {
	text := os.Getenv(env)
	if file != "" {
		var err error
		if text, err = readSecret(file); err != nil {
			return "", fmt.Errorf("%w: %w", ErrCredentials, err)
		}
	}
	text = strings.TrimSpace(text)
	if text == "" || strings.ContainsFunc(text, func(r rune) bool { return r < ' ' }) {
		return "", fmt.Errorf("%w: %s%s holds none, or more than a line", ErrCredentials, file, env)
	}
	return text, nil
}

func readSecret(file string) (string, error) {
	info, err := os.Stat(file)
	if err != nil {
		return "", err
	}
	if !info.Mode().IsRegular() || info.Size() > maxSecret {
		return "", fmt.Errorf("%s is no file of at most %d bytes", file, maxSecret)
	}
	text, err := os.ReadFile(file)
	return string(text), err
}
