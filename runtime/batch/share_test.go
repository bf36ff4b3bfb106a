package batch

import (
	"testing"
	"time"
)

// TestShare wants what waits to be split between the runs that may start, when
// it takes long enough.
func TestShare(t *testing.T) {
	f := func(rowTime time.Duration, waiting, running, runs, want int) {
		t.Helper()
		b := &Batcher{running: running, costs: newCosts(runs, 0)}
		for rows := 1; rows <= 4; rows++ {
			b.costs.observe(rows, 1, time.Duration(rows)*rowTime)
		}
		b.costs.plan.runs = runs
		b.q.rows = waiting - 1 // the leader has left the queue
		if got := b.share(&Ticket{Rows: 1}); got != want {
			t.Errorf("%d rows of %v, %d of %d runs under way: the share is %d, want %d",
				waiting, rowTime, running, runs, got, want)
		}
	}
	f(100*time.Microsecond, 16, 1, 2, 8)
	f(100*time.Microsecond, 16, 2, 2, 16) // the other run is under way
	f(100*time.Microsecond, 16, 1, 1, 16)
	f(100*time.Microsecond, 5, 1, 2, 3)
	f(100*time.Microsecond, 7, 2, 4, 3)
	f(100*time.Microsecond, 1, 1, 2, 1)
	f(5*time.Microsecond, 16, 1, 2, 16) // not worth it
	f(5*time.Microsecond, 64, 1, 2, 32)
}
