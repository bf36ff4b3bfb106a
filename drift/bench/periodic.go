package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
)

// periodicName is that of the stream which depends on the hour.
const periodicName = "periodic"

// hourly draws a row a minute that rises and falls with the hour of the day by twice its
// noise: days for the reference, and as many live ones.
func (s settings) hourly() (reference, live table) {
	r := rand.New(rand.NewPCG(24, 60))
	minute := 0
	draw := func(r *rand.Rand, row []float64) {
		row[0] = 2*math.Sin(float64(minute)/(12*60)*math.Pi) + r.NormFloat64()
		minute++
	}
	n := s.days * 24 * 60
	return fill(1, n, draw, r), fill(1, n, draw, r)
}

// sines draws rows that repeat every 500 rows, with noise: the first of the concepts of
// SineClusters, without a change.
func (s settings) sines() table {
	row := 0
	return fill(4, 1+s.days*24*60, func(r *rand.Rand, x []float64) {
		sin, cos := math.Sincos(float64(row) / 250 * math.Pi)
		row++
		for i := range x {
			x[i] = [2]float64{sin, cos}[i%2] + 0.25*r.NormFloat64()
		}
	}, rand.New(rand.NewPCG(5, 500)))
}

// periodic counts alarms on streams that have a period and no drift.
func (s settings) periodic(to map[string]string, peers []figure) error {
	var b strings.Builder
	b.WriteString("| stream | detector | rows | alarms |\n|---|---|---|---|\n")
	past, live := s.hourly()
	line := func(stream, detector string, r rate) {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", stream, detector, count(r.Rows), count(r.Alarms))
	}
	const hours, repeated = "rises and falls with the hour", "repeats every 500 rows"
	for _, c := range []struct {
		name   string
		season reference.Season
	}{
		{"ours, reference by hour of day", reference.HourOfDay},
		{"ours, one reference for all hours", reference.NoSeason},
	} {
		p, err := learn(past, false, reference.Options{Season: c.season}, time.Minute)
		if err != nil {
			return err
		}
		r, err := raised(p, live, ticking{15, 30 * 24 * 4})
		if err != nil {
			return err
		}
		line(hours, c.name, r)
	}
	for _, f := range peers {
		if f.Kind == periodicName {
			line(hours, f.Detector, f.Clean)
		}
	}
	t := s.sines()
	for _, rows := range []int{500, 2000} {
		p, err := learn(t.part(0, rows), false, reference.Options{}, time.Second)
		if err != nil {
			return err
		}
		r, err := raised(p, t.part(rows, t.rows()-rows), ticking{1, promise})
		if err != nil {
			return err
		}
		line(repeated, fmt.Sprintf("ours, learns %d rows", rows), r)
	}
	to["periodic"] = b.String()
	return nil
}

// ticking says how many rows a tick has, and how many ticks there ought to be between
// false alarms.
type ticking struct {
	rows  int
	every float64
}

// raised counts the alarms of a stream of a row a minute, each of which is reset.
func raised(p *reference.Profile, t table, k ticking) (rate, error) {
	w, err := newWatch(p, t.columns, k.every)
	if err != nil {
		return rate{}, err
	}
	r := rate{Rows: float64(t.rows())}
	for row := 0; row+k.rows <= t.rows(); row += k.rows {
		report, err := w.tick(t, row, k.rows, start.Add(time.Duration(row)*time.Minute))
		if err != nil {
			return rate{}, err
		}
		if report.Alarm {
			r.Alarms++
			w.monitor.Reset()
		}
	}
	return r, nil
}
