package drift_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// A scorer says of each row what a window says that counts it.
func TestScorer(t *testing.T) {
	f := func(name string, columns int, spoil func(row []sketch.Value)) {
		t.Helper()
		c, r := crowd{columns, .5}, rand.New(rand.NewPCG(9, uint64(columns)))
		p, w := c.window(t, r, 5000)
		s, err := drift.NewScorer(p, c.names())
		if err != nil {
			t.Fatal(err)
		}
		row := make([]sketch.Value, columns)
		seen := make(map[float64]bool)
		for i := range 1000 {
			if c.draw(r, row); i%2 == 1 {
				spoil(row)
			}
			if err := w.Add(row); err != nil {
				t.Fatal(err)
			}
			got, err := s.Score(row)
			if err != nil || got != w.Score() {
				t.Fatalf("%s: row %d has the score %v, %v, want %v", name, i, got, err, w.Score())
			}
			seen[got] = true
		}
		if len(seen) < 3 {
			t.Errorf("%s: there are %d scores only", name, len(seen))
		}
		if n := testing.AllocsPerRun(100, func() { _, _ = s.Score(row) }); n != 0 {
			t.Errorf("%s: a row allocates %v times", name, n)
		}
		if _, err := s.Score(row[1:]); !errors.Is(err, drift.ErrRow) {
			t.Errorf("%s: a short row: %v", name, err)
		}
	}
	f("one column", 1, func(row []sketch.Value) { row[0] = sketch.Number(row[0].Float() * 9) })
	f("missing", 4, func(row []sketch.Value) { row[2] = sketch.Missing() })
	f("texts", 4, func(row []sketch.Value) { row[3] = sketch.Text([]byte("n/a")) })
	f("not a number", 50, func(row []sketch.Value) { row[7] = sketch.Number(math.NaN()) })
	f("infinite", 50, func(row []sketch.Value) { row[0] = sketch.Number(math.Inf(-1)) })
	p, _ := crowd{2, 0}.window(t, rand.New(rand.NewPCG(1, 1)), 1000)
	if _, err := drift.NewScorer(p, []string{"x0"}); !errors.Is(err, reference.ErrColumn) {
		t.Errorf("without a column: %v", err)
	}
}
