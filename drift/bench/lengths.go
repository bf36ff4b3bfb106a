package main

import (
	"fmt"
	"math"
	"sort"
)

// lengths are how long streams ran until an alarm, or until they were cut off.
type lengths struct {
	values []float64
	cut    float64 // where they were cut off
}

// mean returns the mean, with cut ones as long as they were, and its standard error.
func (l lengths) mean() (mean, e float64) {
	n := float64(len(l.values))
	square := 0.0
	for _, x := range l.values {
		mean += x / n
		square += x * x / n
	}
	return mean, math.Sqrt(max(square-mean*mean, 0) / n)
}

// quiet returns the share of streams without an alarm.
func (l lengths) quiet() float64 {
	n := 0.0
	for _, x := range l.values {
		if x >= l.cut {
			n++
		}
	}
	return n / float64(len(l.values))
}

// delay writes how long it took to see a change.
func (l lengths) delay() string {
	if len(l.values) == 0 {
		return "no stream came so far"
	}
	mean, e := l.mean()
	switch q := l.quiet(); {
	case q > 0.5:
		return fmt.Sprintf("unseen in %.0f rows (%.0f %%)", l.cut, 100*q)
	case q > 0:
		return fmt.Sprintf("> %s (%.2g %% unseen)", within(mean, e), 100*q)
	}
	return within(mean, e)
}

// within writes a figure with its standard error.
func within(x, e float64) string {
	if x < 100 {
		return fmt.Sprintf("%.1f ± %.1f", x, e)
	}
	return fmt.Sprintf("%s ± %s", count(x), count(e))
}

// count writes a large number with its thousands apart.
func count(x float64) string {
	s := fmt.Sprintf("%.0f", x)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

// rate is alarms among rows without drift.
type rate struct {
	Rows   float64 `json:"rows"`
	Alarms float64 `json:"alarms"`
}

// every returns the rows to an alarm. Streams that were cut off count with their rows:
// of run lengths that are exponential, which those to a rare alarm nearly are, this is the
// estimate of greatest likelihood. Without an alarm it is infinite.
func (r rate) every() float64 { return r.Rows / r.Alarms }

func (r rate) String() string {
	if r.Alarms == 0 {
		return "> " + count(r.Rows)
	}
	return within(r.every(), r.every()/math.Sqrt(r.Alarms))
}

// path is how a running maximum of evidence rose: each new one with its tick.
type path struct {
	ticks    []int
	evidence []float64
	length   int
}

func (p *path) add(tick int, evidence float64) {
	p.length = tick
	if n := len(p.evidence); n == 0 || evidence > p.evidence[n-1] {
		p.ticks = append(p.ticks, tick)
		p.evidence = append(p.evidence, evidence)
	}
}

// alarms returns the rate at which paths reach a threshold, each once.
func alarms(paths []path, threshold float64) (r rate) {
	for _, p := range paths {
		if i := sort.SearchFloat64s(p.evidence, threshold); i < len(p.ticks) {
			r.Rows += float64(p.ticks[i])
			r.Alarms++
		} else {
			r.Rows += float64(p.length)
		}
	}
	return r
}

// threshold returns that at which alarms are as rare as wanted, by bisection.
func threshold(paths []path, every float64) float64 {
	low, high := 0.0, math.Log(1e9)
	for range 50 {
		middle := (low + high) / 2
		if alarms(paths, math.Exp(middle)).every() < every {
			low = middle
		} else {
			high = middle
		}
	}
	return math.Exp(high)
}
