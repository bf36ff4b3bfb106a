package batch

import (
	"math"
	"math/bits"
	"slices"
	"time"
)

// costs is what has been seen of a model's running time t(b), for b rows, and
// what follows from it: how many rows a run should have, and how many runs
// should be under way at once.
//
// Two views are kept. The line t(b) = alpha + beta*b, by least squares with
// forgetting, is for people (Stats). The table of the engine's time a row, by
// power of two of the size and of the number of runs at once, decides: on real
// models the line misses that a convolution falls out of the cache from some
// size on, and is then slower by up to a half.
//
// Guarded by Batcher.mu.
type costs struct {
	n, b, t, bb, bt float64 // sums over runs, each multiplied by forget at every run

	most   int           // bound of runs at once
	target time.Duration // bound of two runs one after the other; 0 for none
	table  [maxLevel]sizes
	clock  uint64                // counts runs
	ran    [maxSizes / 64]uint64 // sizes that were run before, as bits

	plan  plan
	fewer [maxLevel]int // rows of a run at each level below that of plan; 0 before the first
	level int           // of plan.runs
	own   estimate      // at that level, of runs of any size
	probe probe
}

// plan is what the next run should be like.
type plan struct {
	size int // rows
	runs int // under way at once
}

// probe is the look at another number of runs at once. When it is the better one by what
// runs took before, it is held against the runs right after it too: the machine's other
// work comes and goes.
type probe struct {
	level int                // that is looked at, -1 for none
	back  bool               // the runs after it are looked at
	found [probeRuns]float64 // time a row of the engine at that level, in ns
	after [probeRuns]float64 // the same of the runs after it
	count int                // of found, or of after
	end   uint64             // when it has taken long enough, by costs.clock
	next  uint64             // when the next one is due
	every uint64             // runs between two
	up    bool               // the next one looks at more runs at once
}

// sizes are the estimates for runs of 1, 2-3, 4-7, ... rows.
type sizes [maxLog]estimate

// estimate is a smoothed time a row of the engine, in ns: with n runs at once,
// the n-th part of what a row takes in each.
type estimate struct {
	ns   float64
	seen int
	last uint64 // when it was renewed, by costs.clock
}

const (
	maxLog   = 17    // sizes up to 2^16 rows
	maxLevel = 8     // 1, 2-3, 4-7, ..., from 128 runs at once
	forget   = 0.999 // a run counts half after 700 more

	// around is what a run costs outside of the engine: threads are woken, and
	// caches lose what they held.
	around = 50 * time.Microsecond
	// worth is how much cheaper a row must get for a larger batch, or for more
	// runs at once: below this the wait of the first rows, or the cores that
	// others could use, cost more.
	worth = 0.98
	// trust is how often a size is run before its time is believed.
	trust = 4
	// again says after how many runs the next larger size is tried once more:
	// the machine's other work, the input's shape or the clock may have changed.
	again = 512
	// A probe may cost half of the throughput while it lasts, up to maxProbe
	// runs. The first comes early; while they change nothing, they get rarer.
	firstProbe, lastProbe = 256, 8192
	maxProbe              = 16
	probeRuns             = 5 // are compared; odd, for their median
	// freshRuns is how old what a row costs may be to be compared. It gets
	// older when there are not requests enough: the number does not matter then.
	freshRuns = 64
)

// newCosts returns the costs of a model about which nothing is known.
func newCosts(most int, target time.Duration) costs {
	return costs{
		most: most, target: target, level: index(most, maxLevel),
		plan:  plan{size: 1, runs: most},
		probe: probe{level: -1, next: firstProbe, every: firstProbe},
	}
}

// index returns the place of n among 1, 2-3, 4-7, ....
func index(n, places int) int { return min(bits.Len(uint(n))-1, places-1) }

// observe takes in one run of b rows that took d, with n runs at once; n is 0
// when that number changed meanwhile.
func (c *costs) observe(b, n int, d time.Duration) {
	t := float64(d)
	c.n = c.n*forget + 1
	c.b = c.b*forget + float64(b)
	c.t = c.t*forget + t
	c.bb = c.bb*forget + float64(b)*float64(b)
	c.bt = c.bt*forget + float64(b)*t
	c.clock++
	if first := c.first(b); n > 0 && !first {
		level, row := index(n, maxLevel), t/float64(b*n)
		c.table[level][index(b, maxLog)].add(row, c.clock)
		c.compare(level, row)
	}
	c.decide(n)
}

// compare takes in what a row took at a level, for the probe or what it is held against.
func (c *costs) compare(level int, row float64) {
	switch p := &c.probe; {
	case p.level < 0 && level == c.level:
		c.own.add(row, c.clock)
	case p.count == probeRuns:
	case !p.back && level == p.level:
		p.found[p.count] = row
		p.count++
	case p.back && level == c.level:
		p.after[p.count] = row
		p.count++
	}
}

// first says whether no run of b rows was seen before. ONNX Runtime plans its
// memory in the first run of each size: what a row costs is not seen then.
func (c *costs) first(b int) bool {
	if b >= maxSizes {
		return false
	}
	word, bit := &c.ran[b/64], uint64(1)<<(b%64)
	first := *word&bit == 0
	*word |= bit
	return first
}

// add takes in a time a row. Runs are held up by other work and never sped up,
// so that low values tell more of what the model costs: the first few give
// their least, later ones pull down more than up, and a run that was preempted
// pulls no more than another. A change that lasts is still learned.
func (e *estimate) add(ns float64, now uint64) {
	switch {
	case e.seen == 0:
		e.ns = ns
	case e.seen < trust:
		e.ns = min(e.ns, ns)
	default:
		weight := 0.02
		if ns < e.ns {
			weight = 0.04
		}
		gap := min(ns-e.ns, e.ns/2)
		e.ns += gap * max(weight, 1/float64(e.seen+1))
	}
	e.seen++
	e.last = now
}

// decide renews the plan after a run with n at once, as observe has it.
func (c *costs) decide(n int) {
	c.look()
	c.plan.size = c.renew(c.level, c.plan.size)
	if c.below(n) {
		level := index(n, maxLevel)
		c.fewer[level] = c.renew(level, max(1, c.fewer[level]))
	}
	level := c.level
	if c.probe.level >= 0 && !c.probe.back {
		level = c.probe.level
	}
	c.plan.runs = c.runsOf(level)
}

// below says whether n runs at once, 0 for an unknown number, are fewer than
// are planned: there are not requests enough, or not callers to run them.
func (c *costs) below(n int) bool {
	level := index(n, maxLevel)
	return n > 0 && level < c.level && level != c.probe.level
}

// sizeWith returns how many rows a run should have that is one of n at once.
func (c *costs) sizeWith(n int) int {
	if c.below(n) {
		if size := c.fewer[index(n, maxLevel)]; size > 0 {
			return size
		}
	}
	return c.plan.size
}

// renew returns how many rows a run should have at a level; now and then the
// next larger size is tried. before is what was returned last.
func (c *costs) renew(level, before int) int {
	size := c.sizeAt(level)
	k, old := index(size, maxLog), index(before, maxLog)
	if c.clock%again == 0 && c.probe.level < 0 && k+1 < maxLog && !c.tooLong(level, k, k+1) {
		k++
		size = 2<<k - 1
	}
	if k != old {
		c.table[level][k].doubt(c.clock)
	}
	return size
}

// doubt lets an estimate that is old change quickly.
func (e *estimate) doubt(now uint64) {
	if now-e.last >= again/2 {
		e.seen = min(e.seen, trust)
	}
}

// runsOf returns the largest number of runs at once of a level.
func (c *costs) runsOf(level int) int {
	if level == maxLevel-1 {
		return c.most
	}
	return min(2<<level-1, c.most)
}

// sizeAt returns how many rows a run should have with that many runs at once:
// sizes double as long as a row gets cheaper and the latency target is kept. A
// size that was not run often enough is tried, unless larger ones were: then
// the requests themselves are larger.
func (c *costs) sizeAt(level int) int {
	row := &c.table[level]
	top := maxLog - 1
	for top > 0 && row[top].seen < trust {
		top--
	}
	best, known, cost := 0, -1, math.Inf(1)
	for k := range row {
		if known >= 0 && c.tooLong(level, known, k) {
			break
		}
		if row[k].seen < trust {
			if k < top {
				continue
			}
			best = k
			break
		}
		ns := row[k].ns + float64(around)/float64(int(1)<<k*c.runsOf(level))
		if ns >= cost*worth {
			break
		}
		best, known, cost = k, k, ns
	}
	size := 2<<best - 1
	if c.target > 0 && known >= 0 {
		size = min(size, max(1<<best, int(c.rowsWithin(level, known))))
	}
	return size
}

// tooLong says whether runs of the size with index k miss the latency target.
// When that size is not known it goes by the smaller one with index known, and
// takes a row to get cheaper as it does where batching pays.
func (c *costs) tooLong(level, known, k int) bool {
	if c.target == 0 {
		return false
	}
	if c.table[level][k].seen >= trust {
		return c.rowsWithin(level, k) < float64(int(1)<<k)
	}
	return c.rowsWithin(level, known) < 0.6*float64(int(1)<<k)
}

// rowsWithin returns the most rows of a run that keep to the latency target by
// the time of a row at the size with index k: a request may just miss one run
// and then be in the next, so that two runs must fit (the rule of Nexus, SOSP
// 2019: half of the time is spent in batching).
func (c *costs) rowsWithin(level, k int) float64 {
	row := max(1, c.table[level][k].ns*float64(c.runsOf(level)))
	return min(float64(c.target)/2/row, math.MaxInt32)
}

// look compares numbers of runs at once, by probes: what a row costs when so
// many runs take what there is. With fewer of them there is more for each, so
// that runs of one size would not tell. Other times would not tell either:
// there may be fewer requests, or more other work on the cores.
func (c *costs) look() {
	p := &c.probe
	if p.level >= 0 {
		if p.count < probeRuns && c.clock < p.end {
			return
		}
		switch {
		case p.count < probeRuns:
		case p.back, p.level < c.level && c.misses(c.level): // which is no matter of luck
			c.judge()
		case c.better(middle(p.found), c.own.ns):
			p.back, p.count, p.end = true, 0, c.clock+maxProbe
			return
		}
		p.level, p.back = -1, false
		p.next = c.clock + p.every
	}
	if c.most == 1 || c.clock < p.next {
		return
	}
	p.every = min(2*p.every, lastProbe)
	p.next = c.clock + p.every
	if c.own.seen >= trust && c.clock-c.own.last < freshRuns {
		p.level, p.count, p.end = c.neighbour(), 0, c.clock+maxProbe
	}
}

// neighbour returns the level to look at, in turn the next higher and lower.
func (c *costs) neighbour() int {
	top := index(c.most, maxLevel)
	c.probe.up = !c.probe.up
	if c.level == 0 || c.probe.up && c.level < top {
		return c.level + 1
	}
	return c.level - 1
}

// judge changes to the level that was looked at if it is the better one.
func (c *costs) judge() {
	p := &c.probe
	if found := middle(p.found); c.better(found, middle(p.after)) {
		c.level = p.level
		c.own = estimate{ns: found, seen: trust, last: c.clock}
		p.every = firstProbe
	}
}

// better says whether the level that was looked at, where a row took found, is better than
// that of the plan, where it takes own. More runs at once must be worth it, and keep to the
// latency target.
func (c *costs) better(found, own float64) bool {
	if c.probe.level > c.level {
		return found < own*worth && !c.misses(c.probe.level)
	}
	return found*worth <= own || c.misses(c.level)
}

func middle(times [probeRuns]float64) float64 {
	slices.Sort(times[:])
	return times[probeRuns/2]
}

// misses says whether even the smallest runs at a level miss the latency target.
func (c *costs) misses(level int) bool {
	k := index(c.sizeAt(level), maxLog)
	return c.target > 0 && c.table[level][k].seen >= trust && c.tooLong(level, k, k)
}

// time returns how long a run of b rows takes, 0 while that is not known.
func (c *costs) time(b int) time.Duration {
	alpha, beta, ok := c.line()
	if !ok && c.b > 0 {
		beta = c.t / c.b
	}
	return time.Duration(alpha + beta*float64(b))
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
