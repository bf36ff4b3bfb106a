package monitor_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/millrace-ml/millrace/control/monitor"
	"github.com/millrace-ml/millrace/drift/performance"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// A scorer finds the outliers that a monitor counts, with a column that is computed too, and of
// several rows in a request the one that is the most unusual.
func TestScorer(t *testing.T) {
	s := newSource(33, 6)
	cfg := monitor.Config{Every: 1e6, Tolerance: 0.1, Outliers: 0.01, Learn: 5000,
		Derived: []monitor.Derived{{Name: "difference", Watched: true,
			Of: func(row []sketch.Value) (float64, bool) {
				return row[1].Float() - row[2].Float(), true
			}}}}
	b := newBench(t, cfg, 6, nil)
	b.tick(s.request(4000))
	if b.m.Reference() != nil {
		t.Fatal("there is a reference before it is learned")
	}
	b.tick(s.request(1000))
	scorer, err := monitor.NewScorer(cfg, signature(6), b.m.Reference())
	if err != nil {
		t.Fatal(err)
	}
	above := uint64(0)
	for range 300 {
		in, out := s.request(10)
		copy(in[0].Data[8*(6*s.IntN(10)+1):], encode(50*s.Float64()))
		greatest, any := 0.0, false
		for i := range 10 {
			one, of := in[0], out[0]
			one.Shape, one.Data = []int64{1, 6}, one.Data[48*i:48*(i+1)]
			of.Shape, of.Data = []int64{1, 1}, of.Data[8*i:8*(i+1)]
			in, out := append(in[:0:0], one), append(out[:0:0], of)
			x, outlier, ok := scorer.Score(in, out)
			if !ok {
				t.Fatal("a row has no score")
			}
			if greatest, any = max(greatest, x), any || outlier; outlier {
				above++
			}
		}
		if x, outlier, ok := scorer.Score(in, out); x != greatest || outlier != any || !ok {
			t.Fatalf("all rows have %v %v, the greatest is %v %v", x, outlier, greatest, any)
		}
		b.tick(in, out)
	}
	if o := b.status.Last.Outliers; o.Above != above || above < 100 || o.Rows != 3000 {
		t.Errorf("%d outliers, the monitor has counted %d of %d", above, o.Above, o.Rows)
	}
	if _, outlier, ok := scorer.Score(s.request(0)); outlier || ok {
		t.Error("a request without rows has a score")
	}
	if _, outlier, ok := scorer.Score(nil, nil); outlier || ok {
		t.Error("a request without tensors has a score")
	}
}

// What a reference does not say is an error, as it is of its monitor.
func TestScorerFaults(t *testing.T) {
	s := newSource(34, 3)
	f := func(columns int, spoil func(p *reference.Profile), want error) {
		t.Helper()
		p := s.profile(t, 5000)
		spoil(p)
		_, err := monitor.NewScorer(monitor.Config{Outliers: 0.01}, signature(columns), p)
		if !errors.Is(err, want) {
			t.Errorf("%v, want %v", err, want)
		}
	}
	f(3, func(p *reference.Profile) { p.Outliers = nil }, performance.ErrReference)
	f(2, func(*reference.Profile) {}, reference.ErrColumn)
}

// scorerOf is a scorer for standard normal rows.
func scorerOf(t testing.TB, s *source) *monitor.Scorer {
	t.Helper()
	scorer, err := monitor.NewScorer(monitor.Config{Outliers: 0.01}, signature(s.columns),
		s.profile(t, 10_000))
	if err != nil {
		t.Fatal(err)
	}
	return scorer
}

func TestScorerDoesNotAllocate(t *testing.T) {
	s := newSource(35, 50)
	scorer := scorerOf(t, s)
	in, out := s.request(10)
	if n := testing.AllocsPerRun(100, func() { scorer.Score(in, out) }); n != 0 {
		t.Errorf("a request allocates %v times", n)
	}
}

// BenchmarkScorer is what a request pays for its score.
func BenchmarkScorer(b *testing.B) {
	for _, columns := range []int{4, 50} {
		for _, rows := range []int{1, 32} {
			b.Run(fmt.Sprintf("%d_features/%d_rows", columns, rows), func(b *testing.B) {
				s := newSource(36, columns)
				scorer := scorerOf(b, s)
				in, out := s.request(rows)
				b.ReportAllocs()
				for b.Loop() {
					scorer.Score(in, out)
				}
				b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*rows), "ns/row")
			})
		}
	}
}
