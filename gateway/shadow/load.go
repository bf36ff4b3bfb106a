package shadow

import "time"

// load tells whether requests wait for their own model all the time. Bursts
// make some of them wait; a standing queue makes all of them, so the least wait
// of an interval is what counts. That is the test of CoDel (Nichols and Jacobson,
// "Controlling Queue Delay", 2012). The zero value has seen nothing.
type load struct {
	over  bool          // the last interval had a standing queue
	seen  bool          // a request, since began
	began time.Duration // of the interval, by the caller's clock
	least time.Duration // wait of a request since began
}

// next returns the load after a request that waited, seen at now. An interval
// begins with the first request after the end of the one before. When a whole
// interval brought none, no queue stands any more.
func (l load) next(now, waited, target, interval time.Duration) load {
	elapsed := now - l.began
	if l.seen && elapsed < interval {
		l.least = min(l.least, waited)
		return l
	}
	over := l.seen && l.least > target && elapsed < 2*interval
	return load{over: over, seen: true, began: now, least: waited}
}
