package main

import (
	"fmt"
	"runtime"
	"sync"
	"time"

	"github.com/millrace-ml/millrace/drift"
	"github.com/millrace-ml/millrace/drift/reference"
	"github.com/millrace-ml/millrace/drift/sketch"
)

// start is when the first row of a stream comes.
var start = time.Date(2026, 1, 4, 0, 0, 0, 0, time.UTC)

// names names columns.
func names(columns int) []string {
	all := make([]string, columns)
	for i := range all {
		all[i] = fmt.Sprintf("x%d", i)
	}
	return all
}

// learn makes a profile of rows, which came one by one, so long apart.
func learn(t table, categorical bool, o reference.Options, apart time.Duration) (
	*reference.Profile, error) {
	if categorical {
		o.Categorical = names(t.columns)
	}
	c, err := reference.NewCollector(names(t.columns), o)
	if err != nil {
		return nil, err
	}
	row := make([]sketch.Value, t.columns)
	for i := range t.rows() {
		values(t, i, row)
		if err := c.Add(start.Add(time.Duration(i)*apart), row); err != nil {
			return nil, err
		}
	}
	return c.Build()
}

// values fills in a row of a table.
func values(t table, i int, row []sketch.Value) {
	for k, x := range t.values[i*t.columns : (i+1)*t.columns] {
		row[k] = sketch.Number(float64(x))
	}
}

// watch is a monitor with its window.
type watch struct {
	monitor *drift.Monitor
	window  *drift.Window
	row     []sketch.Value
}

func newWatch(p *reference.Profile, columns int, every float64) (*watch, error) {
	m, err := drift.NewMonitor(p, drift.Config{FalseAlarmEvery: every})
	if err != nil {
		return nil, err
	}
	w, err := drift.NewWindow(p, names(columns))
	if err != nil {
		return nil, err
	}
	return &watch{m, w, make([]sketch.Value, columns)}, nil
}

// tick takes n rows of a table from one on.
func (w *watch) tick(t table, from, n int, at time.Time) (drift.Report, error) {
	w.window.Reset()
	for i := from; i < from+n; i++ {
		values(t, i, w.row)
		if err := w.window.Add(w.row); err != nil {
			return drift.Report{}, err
		}
	}
	return w.monitor.Tick(w.window, at)
}

// parallel calls f for 0 to n-1, on all cores, and returns an error of one call.
func parallel(n int, f func(i int) error) error {
	var (
		wait  sync.WaitGroup
		mu    sync.Mutex
		next  int
		fault error
	)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next - 1, next <= n && fault == nil
	}
	for range runtime.GOMAXPROCS(0) {
		wait.Go(func() {
			for i, ok := take(); ok; i, ok = take() {
				if err := f(i); err != nil {
					mu.Lock()
					fault = err
					mu.Unlock()
				}
			}
		})
	}
	wait.Wait()
	return fault
}
