package batch

import (
	"testing"
	"testing/synctest"
	"time"
)

// drive drives once and checks how long that took and whether some are left.
func (w *stand) drive(longest, took time.Duration, left bool) {
	w.Helper()
	before := time.Now()
	if got := w.b.Drive(longest); got != left {
		w.Errorf("some are left: %v, want %v", got, left)
	}
	if d := time.Since(before); d != took {
		w.Errorf("Drive took %v, want %v", d, took)
	}
}

// learn lets one run of 10 ms pass.
func (w *stand) learn() {
	w.submit(w.ticket(0), nil, 10*ms)
	w.drive(time.Hour, 0, false)
	w.sleep(10 * ms)
}

// TestDriveElsewhere: whose runs take long, or an unknown time, is run on
// other goroutines.
func TestDriveElsewhere(t *testing.T) {
	inBubble(t, alone, func(w *stand) {
		w.learn() // unknown at first
		w.submit(w.ticket(0), nil, 20*ms)
		w.submit(w.ticket(0), nil, 30*ms) // goes on without another Drive
		w.drive(9*ms, 0, false)
		w.sleep(20 * ms)
		if w.helps != 0 {
			t.Errorf("help was asked for %d times", w.helps)
		}
	})
}

// TestDriveHere: short runs are on the caller's goroutine, which gets a chance
// to look after other things.
func TestDriveHere(t *testing.T) {
	inBubble(t, alone, func(w *stand) {
		w.learn()
		w.submit(w.ticket(0), nil, 20*ms)
		w.submit(w.ticket(0), nil, 30*ms)
		w.drive(10*ms, 10*ms, true)
		w.drive(10*ms, 10*ms, false)
		w.drive(10*ms, 0, false)
	})
}

// TestDriveAsksForHelp: what waits beside a run that has begun is for another
// caller of Drive when it takes long enough, with batches or without.
func TestDriveAsksForHelp(t *testing.T) {
	f := func(size int) {
		two := func(c *Config) { c.MaxBatchSize, c.MaxRuns = size, 2 }
		inBubble(t, two, func(w *stand) {
			w.learn()
			w.b.costs.plan = plan{size: 1, runs: 2}
			w.submit(w.ticket(0), nil, 20*ms)
			w.submit(w.ticket(0), nil, 20*ms)
			go w.drive(10*ms, 10*ms, false)
			synctest.Wait()
			if w.helps != 1 {
				t.Errorf("help was asked for %d times, want 1", w.helps)
			}
			w.drive(10*ms, 10*ms, false)
		})
	}
	f(1)
	f(8)
}
