package drift_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/performance"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// crowd draws rows of numbers that share a part.
type crowd struct {
	columns int
	rho     float64
}

func (c crowd) draw(r *rand.Rand, row []sketch.Value) {
	z := r.NormFloat64()
	for i := range row {
		x := math.Sqrt(c.rho)*z + math.Sqrt(1-c.rho)*r.NormFloat64()
		row[i] = sketch.Number(x)
	}
}

func (c crowd) names() []string {
	names := make([]string, c.columns)
	for i := range names {
		names[i] = fmt.Sprint("x", i)
	}
	return names
}

func (c crowd) window(t testing.TB, r *rand.Rand, rows int) (*reference.Profile, *drift.Window) {
	t.Helper()
	build, err := reference.NewCollector(c.names(), reference.Options{})
	if err != nil {
		t.Fatal(err)
	}
	row := make([]sketch.Value, c.columns)
	for range rows {
		c.draw(r, row)
		if err := build.Add(time.Time{}, row); err != nil {
			t.Fatal(err)
		}
	}
	p, err := build.Build()
	if err != nil {
		t.Fatal(err)
	}
	w, err := drift.NewWindow(p, c.names())
	if err != nil {
		t.Fatal(err)
	}
	return p, w
}

// TestOutliers wants rows like those of the reference to be above a threshold as often
// as it says, and spoiled ones nearly always.
func TestOutliers(t *testing.T) {
	f := func(name string, c crowd, least float64, spoil func(row []sketch.Value)) {
		t.Helper()
		r := rand.New(rand.NewPCG(4, 6))
		p, w := c.window(t, r, 10_000)
		threshold, ok := p.OutlierThreshold(.01)
		if !ok {
			t.Fatal("there is no threshold")
		}
		const n = 20_000
		row := make([]sketch.Value, c.columns)
		mean, clean, found := 0.0, 0, 0
		for i := range 2 * n {
			if c.draw(r, row); i%2 == 1 {
				spoil(row)
			}
			if err := w.Add(row); err != nil {
				t.Fatal(err)
			}
			above := w.Score() > threshold.Score
			switch {
			case i%2 == 0:
				mean += w.Score() / n
				if above {
					clean++
				}
			case above:
				found++
			}
		}
		share := float64(clean) / n
		t.Logf("%-24s score %.2f, above %.1f: %.4f of rows, expected %.4f; of spoiled %.3f", name,
			mean, threshold.Score, share, threshold.Share(), float64(found)/n)
		e := math.Sqrt(threshold.Share() * (1.0/n + 1.0/10_000))
		if share > threshold.Share()+3*e || share < .005 {
			t.Errorf("%s: %.4f of the rows are above the threshold, expected are %.4f", name, share,
				threshold.Share())
		}
		if float64(found)/n < least {
			t.Errorf("%s: %.3f of the spoiled rows are found, want %.3f", name, float64(found)/n,
				least)
		}
	}
	one, fifty := crowd{1, 0}, crowd{50, .5}
	f("1 of 1 far out", one, 1, func(row []sketch.Value) { row[0] = sketch.Number(1e6) })
	f("1 of 50 far out", fifty, 1, func(row []sketch.Value) { row[7] = sketch.Number(1e6) })
	f("1 of 50 missing", fifty, 1, func(row []sketch.Value) { row[7] = sketch.Missing() })
	f("1 of 50 is a text", fifty, 1, func(row []sketch.Value) {
		row[7] = sketch.Text([]byte("n/a"))
	})
	f("all of 50 by 2 deviations", fifty, .3, func(row []sketch.Value) {
		for i, v := range row {
			row[i] = sketch.Number(v.Float() + 2)
		}
	})
	f("signs that do not fit", crowd{4, .95}, .8, func(row []sketch.Value) {
		row[0] = sketch.Number(-row[1].Float() - math.Copysign(1, row[1].Float()))
	})
}

// TestOutlierRate feeds the detector of harm with outliers: it promises the time between
// false alarms, and sees when outliers become frequent.
func TestOutlierRate(t *testing.T) {
	const promise, horizon, streams = 500, 1500, 60
	c := crowd{10, .3}
	quiet, delay := 0.0, 0.0
	for stream := range streams {
		r := rand.New(rand.NewPCG(uint64(stream), 46))
		p, w := c.window(t, r, 5000)
		threshold, ok := p.OutlierThreshold(.01)
		if !ok {
			t.Fatal("there is no threshold")
		}
		run := func(spoiled float64) int {
			h, err := performance.NewHarm(performance.Losses{Rows: threshold.Rows,
				Sum: float64(threshold.Above)}, drift.Config{FalseAlarmEvery: promise})
			if err != nil {
				t.Fatal(err)
			}
			row := make([]sketch.Value, c.columns)
			for tick := range horizon {
				var l performance.Losses
				for range 5 {
					if c.draw(r, row); r.Float64() < spoiled {
						row[3] = sketch.Number(99)
					}
					_ = w.Add(row)
					loss := 0.0
					if w.Score() > threshold.Score {
						loss = 1
					}
					_ = l.Add(loss)
				}
				if err := h.Tick(l); err != nil {
					t.Fatal(err)
				}
				if h.Report().Alarm {
					return tick + 1
				}
			}
			return horizon
		}
		quiet += float64(run(0)) / streams
		delay += float64(run(.05)) / streams
	}
	t.Logf("a false alarm every %.0f ticks, 5 %% outliers are seen after %.1f", quiet, delay)
	if quiet < promise || delay > 40 {
		t.Errorf("a false alarm every %.0f ticks, promised are %d; delay %.1f", quiet, promise,
			delay)
	}
}

func BenchmarkScore(b *testing.B) {
	c := crowd{50, .5}
	r := rand.New(rand.NewPCG(1, 1))
	_, w := c.window(b, r, 5000)
	row := make([]sketch.Value, c.columns)
	c.draw(r, row)
	if err := w.Add(row); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		_ = w.Score()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/50, "ns/value")
}
