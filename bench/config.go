package bench

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"time"
)

// Protocol is what a run speaks.
type Protocol string

// The protocols that Run knows.
const (
	HTTP Protocol = "http"
	GRPC Protocol = "grpc"
)

// unixPrefix marks an address that is the path of a Unix socket.
const unixPrefix = "unix:"

// Request is one request, prepared before the run starts.
type Request struct {
	Method string            // HTTP; "" is POST
	Path   string            // HTTP: path and query; gRPC: /package.Service/Method
	Header map[string]string // HTTP: further header lines; gRPC: metadata
	Body   []byte            // gRPC: the encoded message
}

// Config says what is sent, where to and for how long.
type Config struct {
	Protocol Protocol
	Address  string    // host:port, or unix:PATH
	Requests []Request // sent in turn

	Rate        float64 // requests/s on schedule; 0 sends when the last answer is there
	Concurrency int     // clients; with a rate the most requests under way
	Connections int     // gRPC connections; 0 is one for every 16 clients. HTTP: one a client
	Workers     int     // OS threads that send HTTP requests

	Warmup   time.Duration // sent, but not measured
	Duration time.Duration // measured; 0 when Count bounds the run
	Count    int64         // requests measured at most; 0 when Duration bounds the run
	Timeout  time.Duration // from the scheduled instant to the end of the answer

	// MaxLateness is the 99th percentile of how late the generator may send
	// before the Result says that the generator is the limit.
	MaxLateness time.Duration

	// Check is handed the body of every CheckEvery-th good answer and the index
	// of its request; an error makes the answer a failed one. It runs on the
	// sending thread, for gRPC on several at once. The body is gone when it returns.
	Check      func(request int, body []byte) error
	CheckEvery int
}

// DefaultConfig returns a closed loop of 16 HTTP clients for ten seconds.
func DefaultConfig() Config {
	return Config{
		Protocol: HTTP, Concurrency: 16, Workers: 1, CheckEvery: 1,
		Warmup: time.Second, Duration: 10 * time.Second, Timeout: 10 * time.Second,
		MaxLateness: time.Millisecond,
	}
}

// Bounds that keep a mistyped config from exhausting the machine.
const (
	maxConcurrency = 10_000
	maxRate        = 10_000_000
	maxWorkers     = 64
)

// Validate lists everything that is wrong with the config.
func (c *Config) Validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf("bench: "+format, args...))
		}
	}
	check(c.Protocol == HTTP || c.Protocol == GRPC,
		"protocol is %q, allowed are %q and %q", c.Protocol, HTTP, GRPC)
	if path, ok := strings.CutPrefix(c.Address, unixPrefix); ok {
		check(path != "", "address has no path after %q", unixPrefix)
	} else if _, _, err := net.SplitHostPort(c.Address); err != nil {
		check(false, "address %q is neither host:port nor unix:PATH", c.Address)
	}
	check(len(c.Requests) > 0, "there are no requests to send")
	for i := range c.Requests {
		r := &c.Requests[i]
		check(strings.HasPrefix(r.Path, "/") && !strings.ContainsAny(r.Path, " \r\n"),
			"path %q of request %d must start with / and hold no blanks", r.Path, i)
		for k, v := range r.Header {
			check(k != "" && !strings.ContainsAny(k, " :\r\n") && !strings.ContainsAny(v, "\r\n"),
				"header %q of request %d has a name or value that cannot be sent", k, i)
		}
	}
	check(c.Rate >= 0 && c.Rate <= maxRate, "rate is %v, allowed is 0 to %d", c.Rate, maxRate)
	check(c.Concurrency >= 1 && c.Concurrency <= maxConcurrency,
		"concurrency is %d, allowed is 1 to %d", c.Concurrency, maxConcurrency)
	check(c.Connections >= 0 && c.Connections <= c.Concurrency,
		"connections is %d, allowed is 0 to the concurrency", c.Connections)
	check(c.Workers >= 1 && c.Workers <= maxWorkers && c.Workers <= c.Concurrency,
		"workers is %d, allowed is 1 to %d and no more than the concurrency", c.Workers, maxWorkers)
	check(c.Warmup >= 0 && c.Duration >= 0 && c.Count >= 0,
		"warmup, duration and count cannot be negative")
	check(c.Duration > 0 || c.Count > 0, "duration or count must be set")
	check(c.Timeout > 0, "timeout must be above 0")
	check(c.MaxLateness > 0, "max lateness must be above 0")
	check(c.CheckEvery >= 1, "check every is %d, must be 1 or more", c.CheckEvery)
	return errors.Join(errs...)
}
