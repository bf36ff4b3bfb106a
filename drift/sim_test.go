package drift

import (
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// source draws rows: one value for each column.
type source func(r *rand.Rand, row []sketch.Value)

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("x%d", i)
	}
	return all
}

// each draws independent values of one kind.
func each(draw func(r *rand.Rand) sketch.Value) source {
	return func(r *rand.Rand, row []sketch.Value) {
		for i := range row {
			row[i] = draw(r)
		}
	}
}

func normal(mean, deviation float64) source {
	return each(func(r *rand.Rand) sketch.Value {
		return sketch.Number(mean + deviation*r.NormFloat64())
	})
}

// cauchy draws values whose tails are so heavy that they have no mean.
var cauchy = each(func(r *rand.Rand) sketch.Value {
	return sketch.Number(math.Tan(math.Pi * (r.Float64() - 0.5)))
})

// tied draws values of which most are zero and the others few.
var tied = each(func(r *rand.Rand) sketch.Value {
	if r.IntN(10) < 6 {
		return sketch.Number(0)
	}
	return sketch.Number(float64(r.IntN(5)+r.IntN(5)) / 10)
})

// category draws from 20 categories of falling frequency, with a share of new ones
// and of missing values.
func category(unseen, missing float64) source {
	var texts [21][]byte
	for i := range texts {
		texts[i] = fmt.Appendf(nil, "c%d", i)
	}
	return each(func(r *rand.Rand) sketch.Value {
		switch x := r.Float64(); {
		case x < unseen:
			return sketch.Text(texts[20])
		case x < unseen+missing:
			return sketch.Missing()
		}
		return sketch.Text(texts[int(20*math.Pow(r.Float64(), 2))])
	})
}

// correlated draws standard normal features that share a part, of which the first
// takes the opposite after a flip.
func correlated(rho float64, flip bool) source {
	return func(r *rand.Rand, row []sketch.Value) {
		z := r.NormFloat64()
		for i := range row {
			common := z
			if flip && i == 0 {
				common = -z
			}
			row[i] = sketch.Number(math.Sqrt(rho)*common + math.Sqrt(1-rho)*r.NormFloat64())
		}
	}
}

// dependent draws values that depend on those of the row before: a standard normal
// autoregression.
func dependent(rho float64) source {
	return func(r *rand.Rand, row []sketch.Value) {
		for i, before := range row {
			x := r.NormFloat64()
			if before.IsNumber() {
				x = rho*before.Float() + math.Sqrt(1-rho*rho)*x
			}
			row[i] = sketch.Number(x)
		}
	}
}

// profile builds a reference of rows of a source.
func profile(t testing.TB, r *rand.Rand, size [2]int, draw source) *reference.Profile {
	t.Helper()
	c, err := reference.NewCollector(names(size[1]), reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	row := make([]sketch.Value, size[1])
	for i := range size[0] {
		draw(r, row)
		if err := c.Add(noon.Add(time.Duration(i)*time.Second), row); err != nil {
			t.Fatal(err)
		}
	}
	p, err := c.Build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// stream is a simulated endpoint: it draws from before until it changes, after so
// many ticks, and from after then.
type stream struct {
	size          [2]int // rows and columns of the reference
	before, after source
	clean         int // ticks
	rows          int // a tick
	horizon       int // ticks after which it ends in any case
	shared        int // streams on one reference
	tolerance     float64
}

const promise = 1000 // ticks between false alarms

// run returns after how many ticks from the change on there is an alarm. Alarms before
// are reset.
func (s stream) run(t *testing.T, r *rand.Rand, p *reference.Profile) int {
	w, err := NewWindow(p, names(s.size[1]))
	if err != nil {
		t.Error(err)
	}
	m, err := NewMonitor(p, Config{promise, s.tolerance})
	if err != nil {
		t.Error(err)
	}
	row := make([]sketch.Value, s.size[1])
	for tick := range s.clean + s.horizon {
		w.Reset()
		draw := s.before
		if tick >= s.clean {
			draw = s.after
		}
		for range s.rows {
			draw(r, row)
			_ = w.Add(row)
		}
		report, err := m.Tick(w, noon)
		if err != nil {
			t.Error(err)
			break
		}
		if report.Alarm && tick >= s.clean {
			return tick - s.clean + 1
		}
		if report.Alarm {
			m.Reset()
		}
	}
	return s.horizon
}

// runs returns the mean of run over many streams and its standard error.
func (s stream) runs(t *testing.T, n int) (mean, deviation float64) {
	lengths := make([]float64, n)
	var wait sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	shared := max(s.shared, 1)
	for worker := range workers {
		wait.Go(func() {
			for group := worker * shared; group < n; group += workers * shared {
				r := rand.New(rand.NewPCG(uint64(group), 26))
				p := profile(t, r, s.size, s.before)
				for i := group; i < min(group+shared, n); i++ {
					lengths[i] = float64(s.run(t, r, p))
				}
			}
		})
	}
	wait.Wait()
	square := 0.0
	for _, l := range lengths {
		mean += l / float64(n)
		square += l * l / float64(n)
	}
	return mean, math.Sqrt((square - mean*mean) / float64(n))
}

// count returns how many streams there are: fewer when tests must be short.
func count(all int) int {
	if testing.Short() {
		return all / 10
	}
	return all
}

// TestRunLength wants the mean time to a false alarm to be as long as promised. It is
// cut off at the horizon, so that it is longer still. Command bench measures the same on five
// times as many streams.
func TestRunLength(t *testing.T) {
	f := func(name string, s stream) {
		t.Helper()
		if s.after == nil {
			s.after = s.before
		}
		n := count(80)
		mean, e := s.runs(t, n)
		t.Logf("%-22s %4.0f +- %2.0f ticks in %d streams, cut off at %d", name, mean, e, n,
			s.horizon)
		if mean < promise-3*e {
			t.Errorf("%s: false alarms every %.0f +- %.0f ticks, promised are %d", name, mean, e,
				promise)
		}
	}
	f("normal", stream{size: [2]int{10_000, 1}, before: normal(0, 1), rows: 1, horizon: 2000})
	f("normal, 20 rows", stream{size: [2]int{10_000, 1}, before: normal(0, 1), rows: 20,
		horizon: 1500})
	f("heavy tails", stream{size: [2]int{10_000, 1}, before: cauchy, rows: 1, horizon: 2000})
	f("ties", stream{size: [2]int{10_000, 1}, before: tied, rows: 1, horizon: 2000})
	f("categories", stream{size: [2]int{10_000, 1}, before: category(0, 0.01), rows: 1,
		horizon: 2000})
	f("small reference", stream{size: [2]int{300, 1}, before: normal(0, 1), rows: 1,
		horizon: 2000})
	f("small, categories", stream{size: [2]int{300, 1}, before: category(0, 0.01), rows: 5,
		horizon: 1500})
	f("shift 0.1, tolerated", stream{size: [2]int{10_000, 1}, before: normal(0, 1),
		after: normal(0.1, 1), tolerance: 0.1, rows: 20, horizon: 1500, shared: 4})
	f("missing 1 -> 2 %, too", stream{size: [2]int{10_000, 1}, before: category(0, 0.01),
		after: category(0, 0.02), tolerance: 0.1, rows: 20, horizon: 1500, shared: 4})
	f("autocorrelation 0.3", stream{size: [2]int{10_000, 1}, before: dependent(0.3), rows: 1,
		horizon: 2000})
	f("autocorrelation 0.8", stream{size: [2]int{10_000, 1}, before: dependent(0.8), rows: 20,
		horizon: 1500})
	f("the same, 5 features", stream{size: [2]int{10_000, 5}, before: dependent(0.8), rows: 20,
		horizon: 1500, shared: 5})
	f("50 correlated", stream{size: [2]int{5000, 50}, before: correlated(0.5, false), rows: 1,
		horizon: 1200, shared: 10})
}

// TestDelay measures how long drift goes unseen, after 200 ticks without.
func TestDelay(t *testing.T) {
	f := func(name string, s stream, most float64) {
		t.Helper()
		s.clean, s.rows, s.horizon, s.shared = 200, 1, 20_000, 10
		n := count(60)
		mean, e := s.runs(t, n)
		t.Logf("%-34s %6.1f +- %4.1f rows", name, mean, e)
		if mean > most+3*e {
			t.Errorf("%s: seen after %.1f rows, want %.1f", name, mean, most)
		}
	}
	one, fifty := [2]int{10_000, 1}, [2]int{10_000, 50}
	f("shift 0.25", stream{size: one, before: normal(0, 1), after: normal(0.25, 1)}, 130)
	f("shift 0.5", stream{size: one, before: normal(0, 1), after: normal(0.5, 1)}, 50)
	f("shift 1", stream{size: one, before: normal(0, 1), after: normal(1, 1)}, 20)
	f("variance x2", stream{size: one, before: normal(0, 1), after: normal(0, math.Sqrt2)}, 60)
	f("new category, 10 %", stream{size: one, before: category(0, 0), after: category(0.1, 0)}, 50)
	f("missing 1 % -> 10 %", stream{size: one, before: category(0, 0.01),
		after: category(0, 0.1)}, 200)
	f("correlation 0.8 flips, 2 features", stream{size: [2]int{10_000, 2},
		before: correlated(0.8, false), after: correlated(0.8, true)}, 30)
	f("correlation 0.8 flips, 1 of 50", stream{size: fifty, before: correlated(0.8, false),
		after: correlated(0.8, true)}, 1000)
	f("shift 0.5 in all of 50", stream{size: fifty, before: normal(0, 1),
		after: normal(0.5, 1)}, 60)
}
