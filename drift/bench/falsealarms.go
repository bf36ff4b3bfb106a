package main

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
)

// promise is how many ticks there ought to be between false alarms.
const promise = 1000

// scenario is a sort of stream without drift.
type scenario struct {
	name        string
	columns     int
	categorical bool
	draw        source
	reference   int // rows
	perTick     int // rows
	part        int // of the settings' horizon, one in so many
}

var scenarios = []scenario{
	{name: "normal", columns: 1, draw: normal(0, 1), perTick: 1, part: 1},
	{name: "normal", columns: 1, draw: normal(0, 1), perTick: 20, part: 1},
	{name: "heavy tails: Student's t, 3 degrees", columns: 1, draw: student, perTick: 1, part: 1},
	{name: "heavy tails: Cauchy", columns: 1, draw: cauchy, perTick: 1, part: 1},
	{name: "ties: 60 % zeros, 9 other values", columns: 1, draw: tied, perTick: 1, part: 1},
	{name: "20 categories", columns: 1, categorical: true, draw: category(0), perTick: 1, part: 1},
	{name: "small reference", columns: 1, draw: normal(0, 1), reference: 300, perTick: 1, part: 1},
	{name: "small reference, 20 categories", columns: 1, categorical: true, draw: category(0),
		reference: 300, perTick: 1, part: 1},
	{name: "2 features, correlation 0.8", columns: 2, draw: correlated(0.8, false), perTick: 1,
		part: 1},
	{name: "50 features, correlation 0.5", columns: 50, draw: correlated(0.5, false), perTick: 1,
		part: 2},
}

// shared is how many streams have one reference; in truth each endpoint has its own.
const shared = 4

// falseAlarms measures how long it takes to a false alarm.
func (s settings) falseAlarms(to map[string]string) error {
	var b strings.Builder
	b.WriteString("| stream | rows of reference | rows a tick | streams | until tick | " +
		"without alarm | mean run length, cut off there | ticks an alarm |\n" +
		"|---|---|---|---|---|---|---|---|\n")
	for i := range scenarios {
		c := &scenarios[i]
		rows := s.reference
		if c.reference > 0 {
			rows = min(rows, c.reference)
		}
		l, err := s.quietly(c, rows)
		if err != nil {
			return fmt.Errorf("cannot measure false alarms of %q: %w", c.name, err)
		}
		fmt.Fprintf(&b, "| %s | %s | %d | %d | %s | %.0f %% | %s | %s |\n", c.name,
			count(float64(rows)), c.perTick, len(l.values), count(l.cut), 100*l.quiet(),
			within(l.mean()), l.rate())
	}
	to["false-alarms"] = b.String()
	return nil
}

// rate returns the alarms of cut lengths.
func (l lengths) rate() (r rate) {
	for _, x := range l.values {
		r.Rows += x
		if x < l.cut {
			r.Alarms++
		}
	}
	return r
}

// quietly runs streams of a scenario until an alarm or the horizon.
func (s settings) quietly(c *scenario, rows int) (lengths, error) {
	horizon := s.horizon / c.part
	l := lengths{make([]float64, s.streams), float64(horizon)}
	err := parallel((s.streams+shared-1)/shared, func(group int) error {
		r := rand.New(rand.NewPCG(6, uint64(group)))
		p, err := learn(fill(c.columns, rows, c.draw, r), c.categorical, reference.Options{},
			time.Second)
		if err != nil {
			return err
		}
		for i := group * shared; i < min((group+1)*shared, s.streams); i++ {
			w, err := newWatch(p, c.columns, promise)
			if err != nil {
				return err
			}
			for l.values[i] < l.cut {
				l.values[i]++
				report, err := w.tick(fill(c.columns, c.perTick, c.draw, r), 0, c.perTick, start)
				if err != nil {
					return err
				}
				if report.Alarm {
					break
				}
			}
		}
		return nil
	})
	return l, err
}
