package shadow

import (
	"testing"
	"time"
)

// TestLoad takes the decision through requests that wait more and less.
func TestLoad(t *testing.T) {
	const target, interval = 5 * time.Millisecond, 100 * time.Millisecond
	var l load
	f := func(atMillis, waitedMillis int, over bool) {
		t.Helper()
		at, waited := time.Duration(atMillis), time.Duration(waitedMillis)
		l = l.next(at*time.Millisecond, waited*time.Millisecond, target, interval)
		if l.over != over {
			t.Errorf("at %d ms: over is %v", atMillis, l.over)
		}
	}
	f(1000, 50, false) // nothing is known yet
	f(1050, 50, false)
	f(1099, 9, false)
	f(1100, 4, true) // all waited in the interval that has ended
	f(1150, 50, true)
	f(1120, 50, true)  // requests may come out of order
	f(1200, 50, false) // one did not wait
	f(1210, 50, false)
	f(1250, 6, false)
	f(1310, 5, true)
	f(1400, 50, true)  // the interval begins with a request
	f(1410, 50, false) // a wait of the target is no standing queue
	f(1500, 50, false)
	f(1515, 50, true)
	f(1714, 50, true)  // a gap shorter than an interval
	f(1914, 50, false) // nobody came for a whole interval: nobody waits
}
