package batch

import (
	"math/rand/v2"
	"testing"
	"time"
)

// curve is the true time of a run of b rows, in us, with n runs at once.
type curve func(b, n int) float64

// line is t(b) = alpha + beta*b on cores that do not disturb each other.
func line(alpha, beta float64) curve {
	return func(b, _ int) float64 { return alpha + beta*float64(b) }
}

// rows is a time a row by power of two of the size; the last holds on.
func rows(us ...float64) curve {
	return func(b, _ int) float64 { return float64(b) * us[min(index(b, maxLog), len(us)-1)] }
}

// slowdown is how much longer a run takes beside others: the values for 1, 2,
// ... runs at once.
func (c curve) slowdown(by ...float64) curve {
	return func(b, n int) float64 { return c(b, n) * by[min(n, len(by))-1] }
}

// load replays a model under saturation: as many runs at once as the plan
// says, of as many rows as it says and clients have.
type load struct {
	costs   costs
	random  *rand.Rand
	clients int
	rows    int     // of a request
	noise   float64 // relative, one-sided: a run is held up, never sped up
	stalls  float64 // share of runs that are preempted for long

	time, done float64 // us that all runs took together, by runs at once; rows
}

func newLoad(most int) *load {
	return &load{costs: newCosts(most, 0), random: rand.New(rand.NewPCG(1, 2)), clients: 64,
		rows: 1, noise: 0.1, stalls: 0.01}
}

func (l *load) run(c curve, runs int) {
	for range runs {
		n := l.costs.plan.runs
		size := max(1, min(l.costs.plan.size, 64, l.clients*l.rows/n)/l.rows) * l.rows
		t := c(size, n) * (1 + l.noise*l.random.ExpFloat64())
		l.time += t / float64(n)
		l.done += float64(size)
		if l.random.Float64() < l.stalls {
			t *= 1 + 40*l.random.Float64()
		}
		l.costs.observe(size, n, time.Duration(t*1000))
	}
}

// rate returns rows per us since the last call.
func (l *load) rate() float64 {
	rate := l.done / l.time
	l.done, l.time = 0, 0
	return rate
}

// best returns the rate of the best plan that never looks at others.
func (l *load) best(c curve, most int) float64 {
	best := 0.0
	for n := 1; n <= most; n++ {
		for size := l.rows; size <= min(64, l.clients*l.rows/n); size += l.rows {
			best = max(best, float64(size*n)/c(size, n))
		}
	}
	return best / (1 + l.noise)
}

var (
	smallMLP = line(4.3, 0.8)
	largeMLP = line(79, 23)
	oneOp    = line(0.95, 0.0007)
	forest   = line(2.1, 0.84)
	convNet  = rows(210, 200, 250, 330, 430, 520)
	textLine = rows(595, 600, 601, 602, 600)
	detector = rows(13483, 13873, 14000)
	voice    = line(43, 32)
)

// want is the plan that a test asks for: rows from low to high, and runs at once.
type want struct{ low, high, runs int }

func (w want) holds(p plan) bool {
	size := min(p.size, 64) // the most that load sends
	return size >= w.low && size <= w.high && p.runs == w.runs
}

// TestPlanOfKnownCurves replays the models that were measured and holds the
// plan after 2000 runs against the best.
func TestPlanOfKnownCurves(t *testing.T) {
	f := func(name string, c curve, most int, w want) {
		t.Helper()
		for seed := range uint64(10) {
			l := newLoad(most)
			l.random = rand.New(rand.NewPCG(seed, 3))
			l.run(c, 2000)
			if p := l.costs.plan; !w.holds(p) {
				t.Errorf("%s, seed %d: plan %+v, want %+v", name, seed, p, w)
			}
		}
	}
	f("small MLP", smallMLP, 2, want{31, 64, 2})
	f("large MLP", largeMLP, 2, want{31, 64, 2})
	f("forest", forest, 2, want{15, 64, 2})
	f("voice", voice, 2, want{7, 64, 2})
	f("convolutions", convNet, 2, want{2, 3, 2})
	f("text line", textLine, 2, want{1, 7, 2})
	f("detector", detector, 2, want{1, 3, 2})
	f("one core", smallMLP, 1, want{63, 64, 1})

	f("a lock in the engine", smallMLP.slowdown(1, 2), 2, want{31, 64, 1})
	f("falls out of the cache", convNet.slowdown(1, 2.6), 2, want{2, 3, 1})
	f("operators use all cores", largeMLP.slowdown(1, 2.05), 2, want{31, 64, 1})
	// 64 clients fill 63 rows of one run, or 32 of each of two.
	f("larger batches beat more runs", smallMLP.slowdown(1, 1.95), 2, want{63, 64, 1})
	f("scales a little", largeMLP.slowdown(1, 1.7), 2, want{31, 64, 2})
	f("eight cores", convNet, 8, want{2, 3, 8})
	f("memory bound on eight cores", convNet.slowdown(1, 1, 1.05, 1.4, 1.9, 2.4, 2.9, 3.4),
		8, want{2, 3, 3})
}

// TestLearningCostsLittle holds the rows a second of all runs, those that only
// looked included, against those of the best plan.
func TestLearningCostsLittle(t *testing.T) {
	f := func(name string, c curve, runs int, least float64) {
		t.Helper()
		l := newLoad(2)
		l.stalls = 0
		l.run(c, 50)
		l.rate()
		l.run(c, runs)
		if share := l.rate() / l.best(c, 2); share < least {
			t.Errorf("%s, %d runs: %.3f of the best rate, want %.3f", name, runs, share, least)
		}
	}
	for _, runs := range [...]int{200, 1000, 20_000} {
		f("small MLP", smallMLP, runs, 0.96)
		f("large MLP", largeMLP, runs, 0.96)
		f("voice", voice, runs, 0.97)
		f("convolutions", convNet, runs, 0.98)
		f("text line", textLine, runs, 0.98)
		f("detector", detector, runs, 0.97)
	}
	f("one operator", oneOp, 20_000, 0.97)
	f("forest", forest, 20_000, 0.97)
	f("falls out of the cache", convNet.slowdown(1, 2.6), 20_000, 0.98)
}

// TestPlanFollowsChange changes the machine or the model under the plan.
func TestPlanFollowsChange(t *testing.T) {
	f := func(name string, before, after curve, w want) {
		t.Helper()
		l := newLoad(2)
		l.run(before, 5000)
		l.run(after, 20_000)
		if p := l.costs.plan; !w.holds(p) {
			t.Errorf("%s: plan %+v, want %+v", name, p, w)
		}
	}
	times := func(by float64) curve {
		return func(b, n int) float64 { return by * convNet(b, n) }
	}
	f("a slower clock", convNet, times(1.6), want{2, 3, 2})
	f("a faster clock", times(1.6), convNet, want{2, 3, 2})
	f("rows get larger", convNet, times(20), want{2, 3, 2})
	f("another model", convNet, smallMLP, want{31, 64, 2})
	f("and back", smallMLP, convNet, want{1, 3, 2})
	f("a neighbour comes", convNet, convNet.slowdown(1, 2.5), want{2, 3, 1})
	f("a neighbour leaves", convNet.slowdown(1, 2.5), convNet, want{2, 3, 2})
}

// TestPlanOfLargeRequests has clients that never send one row alone, or only
// at the start.
func TestPlanOfLargeRequests(t *testing.T) {
	l := newLoad(2)
	l.rows = 4
	l.run(smallMLP, 200)
	if l.costs.plan.size < 31 {
		t.Errorf("requests of 4 rows: plan %+v, want at least 31 rows", l.costs.plan)
	}
	l = newLoad(2)
	l.run(smallMLP, 5)
	l.rows = 5
	l.run(smallMLP, 200)
	if l.costs.plan.size < 31 {
		t.Errorf("5 rows after single ones: plan %+v, want at least 31 rows", l.costs.plan)
	}
}

// TestPlanKeepsLatencyTarget checks that two runs one after the other take no
// longer than the target, and that as many rows are taken as it allows.
func TestPlanKeepsLatencyTarget(t *testing.T) {
	f := func(name string, c curve, target time.Duration, w want) {
		t.Helper()
		l := newLoad(2)
		l.costs = newCosts(2, target)
		l.noise = 0.02
		over := 0
		for range 3000 {
			l.run(c, 1)
			p, most := l.costs.plan, max(1.1*float64(target.Microseconds()), 2.1*c(1, 1))
			if 2*c(min(p.size, 64), p.runs) > most {
				over++
			}
		}
		if p := l.costs.plan; !w.holds(p) || over > firstProbe+maxProbe {
			t.Errorf("%s: plan %+v, %d of 3000 runs over the target; want %+v", name, p, over, w)
		}
	}
	f("wide", largeMLP, 100*time.Millisecond, want{31, 64, 2})
	f("tight", largeMLP, 800*time.Microsecond, want{9, 14, 2})
	f("of a few rows", largeMLP, 300*time.Microsecond, want{2, 3, 2})
	f("below one row", largeMLP, 100*time.Microsecond, want{1, 1, 1})
	f("only one run keeps to it", largeMLP.slowdown(1, 1.6), 230*time.Microsecond, want{1, 1, 1})
}

// TestFirstRunOfASize: the first run of each size teaches nothing of its cost.
func TestFirstRunOfASize(t *testing.T) {
	c := newCosts(1, 0)
	for _, size := range []int{4, 5, 6, 7} {
		c.observe(size, 1, time.Second)
	}
	if e := c.table[0][2]; e.seen != 0 {
		t.Errorf("learned %v ns from %d first runs", e.ns, e.seen)
	}
	c.observe(5, 1, 5*time.Microsecond)
	if e := c.table[0][2]; e.seen != 1 || e.ns != 1000 {
		t.Errorf("learned %v ns from %d runs, want 1000 from 1", e.ns, e.seen)
	}
}

// TestSizesOfFewerRuns: who never has as many runs at once as are planned
// learns how large they should be all the same, and the plan keeps its own.
func TestSizesOfFewerRuns(t *testing.T) {
	f := func(c curve, low, high int) {
		t.Helper()
		costs := newCosts(4, 0)
		for range 2000 {
			size := min(costs.sizeWith(1), 64)
			costs.observe(size, 1, time.Duration(c(size, 1)*1000))
		}
		// The last one may have been a look at a larger size.
		if size := min(costs.sizeAt(0), 64); size < low || size > high {
			t.Errorf("alone: %d rows a run, want %d to %d", size, low, high)
		}
		if size := costs.sizeWith(4); size != 1 {
			t.Errorf("four at once were never seen and have %d rows", size)
		}
	}
	f(line(20, 1), 31, 64)
	f(rows(500, 700, 900), 1, 1)
}

// TestProbesInSlowSpells: other work slows the machine down for a time, again and again. A
// probe after such a spell must not find that fewer runs at once are better.
func TestProbesInSlowSpells(t *testing.T) {
	fast := rows(22000).slowdown(0.6, 1) // two at once give a fifth more rows than one
	slow := rows(22000).slowdown(0.6*1.8, 1.8)
	alone := 0
	const servers, runs = 100, 3000
	for i := range servers {
		l := newLoad(2)
		l.stalls = 0
		for k := range runs {
			c := fast
			if (k+i)/50%2 == 0 {
				c = slow
			}
			l.run(c, 1)
			if l.costs.plan.runs == 1 {
				alone++
			}
		}
	}
	if alone > servers*runs/100 {
		t.Errorf("%d of %d runs had the machine for themselves", alone, servers*runs)
	}
}
