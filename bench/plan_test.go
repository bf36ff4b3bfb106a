package bench

import (
	"strings"
	"testing"
	"time"
)

// TestSchedule: the senders of a run together are due at even distances.
func TestSchedule(t *testing.T) {
	c := DefaultConfig()
	c.Rate, c.Warmup, c.Duration = 1000, 100*time.Millisecond, 900*time.Millisecond
	const senders = 3
	due := make(map[int64]bool)
	measured := 0
	for i := range senders {
		p := newPlan(&c, time.Now(), i, senders)
		for {
			at, ok := p.due(0)
			if !ok {
				break
			}
			if number := p.take(at); int64(p.next) != number+1 {
				t.Fatalf("request %d was followed by %d", number, p.next)
			}
			due[(at+500)/1000] = true // in us, rounded
			if p.measured(at) {
				measured++
			}
		}
	}
	if len(due) != 1000 || measured != 900 {
		t.Fatalf("%d instants, %d measured; want 1000 and 900", len(due), measured)
	}
	for i := range int64(1000) {
		if !due[1000*i] {
			t.Fatalf("nothing is due at %d ms", i)
		}
	}
}

// TestCount: the count bounds measured requests only and is shared out in full.
func TestCount(t *testing.T) {
	c := DefaultConfig()
	c.Warmup, c.Duration, c.Count = time.Second, 0, 10
	total := 0
	for i := range 3 {
		p := newPlan(&c, time.Now(), i, 3)
		p.take(0) // of the warm-up
		for {
			at, ok := p.due(int64(2 * time.Second))
			if !ok {
				break
			}
			p.take(at)
			total++
		}
	}
	if total != 10 {
		t.Fatalf("%d requests, want 10", total)
	}
}

func TestValidate(t *testing.T) {
	f := func(want string, change func(*Config)) {
		t.Helper()
		c := DefaultConfig()
		c.Address, c.Requests = "127.0.0.1:80", []Request{{Path: "/"}}
		change(&c)
		err := c.Validate()
		if want == "" && err == nil {
			return
		}
		if err == nil || want == "" || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one with %q", err, want)
		}
	}
	f("", func(*Config) {})
	f("", func(c *Config) { c.Address = "unix:/run/x" })
	f("", func(c *Config) { c.Duration, c.Count = 0, 1 })
	f("protocol", func(c *Config) { c.Protocol = "smtp" })
	f("address", func(c *Config) { c.Address = "localhost" })
	f("address", func(c *Config) { c.Address = "unix:" })
	f("no requests", func(c *Config) { c.Requests = nil })
	f("path", func(c *Config) { c.Requests[0].Path = "v2" })
	f("path", func(c *Config) { c.Requests[0].Path = "/a HTTP/1.1\r\n" })
	f("header", func(c *Config) { c.Requests[0].Header = map[string]string{"a:": ""} })
	f("header", func(c *Config) { c.Requests[0].Header = map[string]string{"a": "b\r\nc: d"} })
	f("rate", func(c *Config) { c.Rate = -1 })
	f("concurrency", func(c *Config) { c.Concurrency = 0 })
	f("connections", func(c *Config) { c.Connections = 17 })
	f("workers", func(c *Config) { c.Workers = 17 })
	f("negative", func(c *Config) { c.Warmup = -1 })
	f("duration or count", func(c *Config) { c.Duration = 0 })
	f("timeout", func(c *Config) { c.Timeout = 0 })
	f("lateness", func(c *Config) { c.MaxLateness = 0 })
	f("check every", func(c *Config) { c.CheckEvery = 0 })
}
