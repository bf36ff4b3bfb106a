package batch

import (
	"testing"
	"time"
)

// TestShare wants what waits to be split between the runs that may start, when
// it takes long enough.
func TestShare(t *testing.T) {
	f := func(rowTime time.Duration, waiting, free, want int) {
		t.Helper()
		b := &Batcher{running: 1, costs: newCosts(free, 0)} // the leader's run is counted
		for rows := 1; rows <= 4; rows++ {
			b.costs.observe(rows, 1, time.Duration(rows)*rowTime)
		}
		b.costs.plan.runs = free
		b.q.rows = waiting - 1 // the leader has left the queue
		if got := b.share(&Ticket{Rows: 1}); got != want {
			t.Errorf("%d rows of %v, %d runs may start: the share is %d, want %d",
				waiting, rowTime, free, got, want)
		}
	}
	f(100*time.Microsecond, 16, 2, 8)
	f(100*time.Microsecond, 16, 1, 16) // all others are under way
	f(100*time.Microsecond, 5, 2, 3)
	f(100*time.Microsecond, 7, 3, 3)
	f(100*time.Microsecond, 1, 2, 1)
	f(5*time.Microsecond, 16, 2, 16) // not worth it
	f(5*time.Microsecond, 64, 2, 32)
}
