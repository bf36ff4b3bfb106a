package batch

import (
	"fmt"
	"runtime"
	"time"
)

// lead runs one batch on this goroutine, with t as its first request. The
// caller has counted it in running.
func (b *Batcher) lead(t *Ticket) {
	r, err := b.newRun()
	if err != nil {
		b.mu.Lock()
		t.state = outside
		t.err = err
		b.stats.failed++
		b.running--
		b.promote()
		b.mu.Unlock()
		if t.Waiter != nil {
			t.Waiter.Finished()
		}
		return
	}
	b.gather(t)
	b.mu.Lock()
	b.take(r, t)
	b.gathering = false
	b.promote()
	b.mu.Unlock()
	r.execute()
	b.finish(r)
}

// newRun returns a workspace.
func (b *Batcher) newRun() (*run, error) {
	b.mu.Lock()
	if n := len(b.idle); n > 0 {
		r := b.idle[n-1]
		b.idle = b.idle[:n-1]
		b.mu.Unlock()
		return r, nil
	}
	b.mu.Unlock()
	call, err := b.engine.NewCall()
	if err != nil {
		return nil, fmt.Errorf("batch: cannot get a workspace: %w", err)
	}
	return &run{batcher: b, call: call}, nil
}

// maxYields bounds how often a leader lets other goroutines bring requests
// before it runs. A yield that brings nothing ends the gathering.
const maxYields = 32

// gather gives company the chance to arrive: requests that lie ready in other
// goroutines are let in first, as long as more keep coming; the processor is
// not idle meanwhile, and a request that is alone gets the processor back at
// once. Who drives has let all in beforehand. With MaxQueueDelay either also
// waits for that long.
func (b *Batcher) gather(t *Ticket) {
	if b.cfg.MaxBatchSize <= 1 || t.Waiter != nil && b.cfg.MaxQueueDelay == 0 {
		return
	}
	b.mu.Lock()
	limit, rows := b.limit(), b.q.rows+t.Rows
	if b.gathering || limit <= rows {
		b.mu.Unlock()
		return
	}
	b.gathering = true
	b.mu.Unlock()
	for i := 0; t.Waiter == nil && i < maxYields && rows < limit; i++ {
		runtime.Gosched()
		b.mu.Lock()
		now := b.q.rows + t.Rows
		b.mu.Unlock()
		if now == rows {
			break
		}
		rows = now
	}
	if b.cfg.MaxQueueDelay > 0 {
		b.delay(t)
	}
}

// limit returns the most rows that a run should have. Callers hold mu.
func (b *Batcher) limit() int {
	if b.cfg.MaxBatchSize <= 1 {
		return 1
	}
	return max(1, min(b.cfg.MaxBatchSize, b.costs.best, b.costs.limit(b.cfg.LatencyTarget)))
}

// coarse is the least time that Go's timers can wait on Linux: the runtime
// rounds a wait in epoll up to a whole millisecond. Shorter waits yield.
const coarse = 1100 * time.Microsecond

// delay waits until the policy says that the batch is to be taken.
func (b *Batcher) delay(t *Ticket) {
	for {
		b.mu.Lock()
		wait := b.decide(t.Times.Queued)
		b.mu.Unlock()
		switch {
		case wait <= 0:
			return
		case wait < coarse:
			runtime.Gosched()
		default:
			timer := time.NewTimer(wait - coarse)
			select {
			case <-b.full:
			case <-timer.C:
			}
			timer.Stop()
		}
	}
}

// decide asks the policy how long a leader that came at the given moment still
// waits for company. Callers hold mu.
func (b *Batcher) decide(since int64) time.Duration {
	p := Policy{
		Max: min(b.limit(), b.cfg.MaxBatchSize), Delay: b.cfg.MaxQueueDelay,
		Preferred: b.cfg.PreferredSizes,
	}
	_, wait := p.Decide(b.q.rows+1, time.Duration(Now()-since))
	return wait
}

// scan bounds how many waiting requests are looked at for one run: among
// requests of many shapes the search must not cost more than the run.
const scan = 256

// take fills the run: t first, then waiting requests that fit with it, in the
// queue's order. Callers hold mu.
func (b *Batcher) take(r *run, t *Ticket) {
	r.tickets = append(r.tickets[:0], t)
	r.rows = t.Rows
	limit := b.limit()
	seen := 0
	for i := range b.q.levels {
		for next := b.q.levels[i].head; next != nil && r.rows < limit && seen < scan; seen++ {
			candidate := next
			next = next.next
			if r.rows+candidate.Rows > b.cfg.MaxBatchSize || !b.fits(t, candidate) {
				continue
			}
			b.q.remove(candidate)
			r.tickets = append(r.tickets, candidate)
			r.rows += candidate.Rows
		}
	}
	now := Now()
	r.wanted = len(r.tickets)
	r.underWay = true
	r.refs.Store(int32(len(r.tickets)))
	for _, m := range r.tickets {
		m.run = r
		m.Times.ComputeStart = now
	}
}

// slowRun is how long a run may take that holds up other models' requests.
const slowRun = 500 * time.Microsecond

// finish hands the answers to the tickets, wakes them and lets the next run start.
func (b *Batcher) finish(r *run) {
	d := time.Duration(r.times.OutputStart - r.times.InputEnd)
	if slow := d > slowRun; slow != b.slow.Load() {
		b.slow.Store(slow)
	}
	first := r.tickets[0]
	b.mu.Lock()
	r.underWay = false
	b.running--
	b.stats.add(r)
	if r.err == nil {
		b.costs.observe(r.rows, d)
	}
	if next := b.q.first(); first.Waiter == nil || next != nil && next.Waiter == nil {
		b.promote() // else drive goes on with what waits
	}
	for _, t := range r.tickets {
		t.state = outside
	}
	b.mu.Unlock()
	for _, t := range r.tickets[1:] {
		if t.Waiter != nil {
			t.Waiter.Finished()
		} else {
			t.wake <- finished
		}
	}
	// The last, since the run is free for another when all are released.
	if first.Waiter != nil {
		first.Waiter.Finished()
	}
}
