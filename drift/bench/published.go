package main

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/millrace-ml/millrace/drift/reference"
)

// benchmark is one of the generated streams of the benchmark of unsupervised detectors
// by DFKI, which Python draws, and the figures published for it: of each detector
// the best of its settings by mtr, mean over seeds.
type benchmark struct {
	name, file string
	columns    int
	published  [][6]string // detector, mtr, mtfa, mtd, mdr, alarms
}

var benchmarks = []benchmark{
	{"SineClusters", "sine", 4, [][6]string{
		{"UDetect", "136", "1,389", "7.4", "0.28", "126"},
		{"SPLL", "104", "12,727", "123", "0", "41"},
		{"CSDDM", "84", "3,643", "54.9", "0.007", "70"},
		{"D3", "47", "8,124", "172", "0", "46"},
		{"OCDD", "10", "1,871", "188", "0", "111"},
		{"BNDM", "1.1", "552", "499", "0", "309"},
	}},
	{"WaveformDrift2", "waveform", 21, [][6]string{
		{"BNDM", "1,342", "100,862", "75.1", "0", "31"},
		{"UDetect", "482", "6,143", "12.8", "0", "54"},
		{"D3", "315", "4,947", "15.7", "0", "60"},
		{"IBDD", "58", "629", "10.9", "0", "269"},
		{"CSDDM", "50", "2,102", "39.9", "0.069", "100"},
		{"OCDD", "6.5", "1,237", "189", "0", "153"},
	}},
}

// driftEvery is how many rows apart the changes of these streams are.
const driftEvery = 5000

// tuning is how ours goes through a stream: it learns a reference of so many rows, looks
// at each row with the promise of a false alarm in so many, and after an alarm begins
// anew.
type tuning struct {
	learn int
	every float64
}

var tunings = []tuning{{500, 1000}, {1000, 1000}, {1000, 10_000}, {1000, 100_000},
	{2000, 10_000}}

// published runs the streams for which others have published figures.
func (s settings) published(to map[string]string) error {
	var b strings.Builder
	b.WriteString("| stream | detector | mtr | mtfa | mtd | mdr | alarms |\n" +
		"|---|---|---|---|---|---|---|\n")
	for _, m := range benchmarks {
		t, err := s.load(m.file, m.columns)
		if err != nil {
			return err
		}
		for _, p := range m.published {
			fmt.Fprintf(&b, "| %s | %s |\n", m.name, strings.Join(p[:], " | "))
		}
		rows := make([]string, len(tunings))
		if err := parallel(len(tunings), func(i int) error {
			found, err := tunings[i].detect(t)
			if err != nil {
				return fmt.Errorf("cannot go through %s: %w", m.name, err)
			}
			rows[i] = fmt.Sprintf("| %s | ours, learns %d rows, promises %s | %s |\n", m.name,
				tunings[i].learn, count(tunings[i].every), score(t.rows(), found))
			return nil
		}); err != nil {
			return err
		}
		b.WriteString(strings.Join(rows, ""))
	}
	to["published"] = b.String()
	return nil
}

// detect returns the rows at which there were alarms.
func (u tuning) detect(t table) (found []int, err error) {
	for from := 0; from+u.learn < t.rows(); {
		p, err := learn(t.part(from, u.learn), false, reference.Options{}, time.Second)
		if err != nil {
			return nil, err
		}
		w, err := newWatch(p, t.columns, u.every)
		if err != nil {
			return nil, err
		}
		from += u.learn
		for alarm := false; !alarm && from < t.rows(); from++ {
			report, err := w.tick(t, from, 1, start)
			if err != nil {
				return nil, err
			}
			if alarm = report.Alarm; alarm {
				found = append(found, from)
			}
		}
	}
	return found, nil
}

// score computes the benchmark's metrics: of the alarms after a change the first is a
// detection, all others are false. mtfa is the mean gap between false alarms, mtd the
// mean delay, mdr the share of changes without a detection, and mtr is
// mtfa/mtd (1-mdr).
func score(rows int, found []int) string {
	changes := rows/driftEvery - 1 // as counted there: without that at the very end
	var delays, wrong []float64
	seen := 0 // changes
	for _, at := range found {
		if last := min(at/driftEvery, changes); last > seen {
			delays = append(delays, float64(at-last*driftEvery))
			seen = last
		} else {
			wrong = append(wrong, float64(at))
		}
	}
	mdr := 1 - float64(len(delays))/float64(changes)
	mtd, _ := lengths{values: delays}.mean()
	mtr, mtfa := "undefined", fmt.Sprintf("%d false", len(wrong))
	if n := len(wrong); n > 1 {
		gap := (wrong[n-1] - wrong[0]) / float64(n-1)
		mtr, mtfa = count(gap/mtd*(1-mdr)), count(gap)
	}
	return fmt.Sprintf("%s | %s | %.1f | %.2g | %d", mtr, mtfa, mtd, math.Abs(mdr), len(found))
}
