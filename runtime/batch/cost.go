package batch

import (
	"math"
	"math/bits"
	"time"
)

// costs is what has been seen of a model's running time t(b), for b rows.
//
// Two views are kept. The line t(b) = alpha + beta*b, by least squares with
// forgetting, answers for sizes that were never run. The table of time a row,
// by power of two of the size and by number of runs at once, finds the best
// size: on real models the line misses that a convolution falls out of the
// cache from some size on, and is then slower by up to a half.
//
// Guarded by Batcher.mu.
type costs struct {
	n, b, t, bb, bt float64          // sums over runs, each multiplied by forget at every run
	row             [maxLog]estimate // time a row at sizes of 1, 2-3, 4-7, ... rows
	best            int              // rows of the largest size that is worth it
	runs            uint64
}

// estimate is a smoothed time a row, in ns, and how often it was seen.
type estimate struct {
	ns   float64
	seen int
}

const (
	maxLog = 17    // sizes up to 2^16 rows
	forget = 0.999 // a run counts half after 700 more

	// worth is how much cheaper a row must get for a larger batch to be
	// chosen: below this the wait of the first rows costs more.
	worth = 0.98
	// trust is how often a size is run before its time is believed.
	trust = 4
	// again says after how many runs the next larger size is tried once more:
	// the machine's other work, the input's shape or the clock may have changed.
	again = 512
)

// observe takes in one run of b rows that took d.
func (c *costs) observe(b int, d time.Duration) {
	t := float64(d)
	c.n = c.n*forget + 1
	c.b = c.b*forget + float64(b)
	c.t = c.t*forget + t
	c.bb = c.bb*forget + float64(b)*float64(b)
	c.bt = c.bt*forget + float64(b)*t
	c.runs++
	e := &c.row[min(bits.Len(uint(b))-1, maxLog-1)]
	row := t / float64(b)
	switch {
	case e.seen == 0:
		e.ns = row
	case row > 4*e.ns:
		// Preempted or paging: what the model costs is not seen. Move a little,
		// so that a lasting change is still learned.
		e.ns *= 1.05
	default:
		e.ns += (row - e.ns) * max(0.05, 1/float64(e.seen+1))
	}
	e.seen++
	c.choose()
}

// choose sets best: from 1 on, sizes double as long as a row gets cheaper.
// A size that was not run often enough is tried.
func (c *costs) choose() {
	size, cost := 0, math.Inf(1)
	for k := range c.row {
		e := &c.row[k]
		if k > size+1 {
			break // the last doubling was not worth it
		}
		if e.seen < trust {
			c.best = 1<<(k+1) - 1
			return
		}
		if e.ns < cost*worth {
			size, cost = k, e.ns
		}
	}
	c.best = 1<<(size+1) - 1
	if c.runs%again == 0 {
		c.best = 1<<(size+2) - 1
	}
}

// line returns alpha and beta of t(b) = alpha + beta*b, in ns; ok is false
// before two different sizes were seen.
func (c *costs) line() (alpha, beta float64, ok bool) {
	det := c.n*c.bb - c.b*c.b
	if c.n < 2 || det < 1e-6*c.n*c.bb {
		return 0, 0, false
	}
	beta = max(0, (c.n*c.bt-c.b*c.t)/det)
	alpha = max(0, (c.t-beta*c.b)/c.n)
	return alpha, beta, true
}

// limit returns the most rows of a run that keep to the latency target: a
// request may just miss one run and then be in the next, so that two runs must
// fit (the rule of Nexus, SOSP 2019: half of the time is spent in batching).
func (c *costs) limit(target time.Duration) int {
	alpha, beta, ok := c.line()
	if target <= 0 || !ok || beta == 0 {
		return math.MaxInt
	}
	return max(1, int((float64(target)/2-alpha)/beta))
}
