package bench

import (
	"math"
	"time"
)

// A plan says when one sender sends its share of the requests. All instants are
// ns since the run's start. A plan keeps count of what it has handed out and
// belongs to one goroutine.
type plan struct {
	start    time.Time // of the run; monotonic
	interval float64   // ns between this sender's requests; 0 in a closed loop
	offset   float64   // ns; the senders take turns
	from     int64     // measured from here
	end      int64     // nothing is due from here on
	count    int64     // measured requests left to hand out
	next     int64     // how many were handed out
}

// newPlan returns the plan of sender i of n.
func newPlan(c *Config, start time.Time, i, n int) plan {
	p := plan{start: start, from: int64(c.Warmup), end: math.MaxInt64, count: math.MaxInt64}
	if c.Duration > 0 {
		p.end = int64(c.Warmup + c.Duration)
	}
	if c.Count > 0 {
		p.count = (c.Count + int64(n-1-i)) / int64(n)
	}
	if c.Rate > 0 {
		p.offset = float64(i) * 1e9 / c.Rate
		p.interval = float64(n) * 1e9 / c.Rate
	}
	return p
}

func (p *plan) now() int64 { return int64(time.Since(p.start)) }

// due returns the instant of the next request. In a closed loop that is now.
// ok is false when there is none left.
func (p *plan) due(now int64) (at int64, ok bool) {
	if at = now; p.interval > 0 {
		at = int64(p.offset + float64(p.next)*p.interval)
	}
	return at, at < p.end && p.count > 0
}

// take hands out the request that due returned, and its number.
func (p *plan) take(at int64) (number int64) {
	if p.measured(at) {
		p.count--
	}
	p.next++
	return p.next - 1
}

// within says whether that instant lies in the measured time.
func (p *plan) within(now int64) bool { return p.from <= now && now < p.end }

// measured says whether a request that was due at that instant counts.
func (p *plan) measured(at int64) bool { return at >= p.from }
