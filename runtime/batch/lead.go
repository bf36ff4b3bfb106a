package batch

import (
	"fmt"
	"time"
)

// begin makes t, which is not in the queue, the leader of a run. Callers hold mu.
func (b *Batcher) begin(t *Ticket) {
	b.running++
	t.state = leading
	t.gathers = false
	if (t.Waiter != nil || t.Alone) && b.cfg.MaxQueueDelay == 0 || t.Rows >= b.limit() {
		return // there is nobody, or who drives has let all in beforehand
	}
	company, seen := t.Rows, 0
	for i := range b.q.levels {
		for w := b.q.levels[i].head; w != nil && seen < scan; w, seen = w.next, seen+1 {
			if b.fits(t, w) {
				company += w.Rows
			}
			if company >= b.limit() && b.cfg.MaxQueueDelay == 0 {
				return
			}
		}
	}
	t.gathers = true
	b.gatherer, b.company = t, company
}

// lead runs one batch on this goroutine, with t as its first request, for
// which begin was called.
func (b *Batcher) lead(t *Ticket) {
	r, err := b.newRun()
	if err == nil && t.gathers {
		b.gather(t)
	}
	b.mu.Lock()
	if err != nil || t.left != nil {
		b.resign(t, r, err)
		b.mu.Unlock()
		if t.Waiter != nil {
			t.Waiter.Finished()
		}
		return
	}
	b.take(r, t)
	if next := b.q.first(); next != nil && (next.Waiter == nil || b.worthHelp()) {
		b.promote() // else who drives goes on with it after this run
	}
	b.mu.Unlock()
	r.execute()
	b.finish(r)
}

// resign ends the lead of a ticket that has not taken others: it could not
// get a workspace, or nobody waits for it any more. Callers hold mu.
func (b *Batcher) resign(t *Ticket, r *run, err error) {
	if t.gathers {
		b.gatherer = nil
	}
	if err != nil {
		t.err = err
		b.stats.failed++
	} else {
		b.stats.leave(t.left)
		b.idle = append(b.idle, r)
	}
	t.state = outside
	b.running--
	b.promote()
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
// once. With MaxQueueDelay it also waits for that long.
func (b *Batcher) gather(t *Ticket) {
	rows := 0
	for i := 0; t.Waiter == nil && i < maxYields; i++ {
		b.mu.Lock()
		before := rows
		rows = b.company
		enough := rows >= b.limit()
		b.mu.Unlock()
		if enough || rows == before {
			break
		}
		b.yield()
	}
	if b.cfg.MaxQueueDelay > 0 {
		b.delay(t)
	}
}

// limit returns the most rows that the run should have which began last, or
// that is the next when none is under way. Callers hold mu.
func (b *Batcher) limit() int {
	return max(1, min(b.cfg.MaxBatchSize, b.costs.sizeWith(max(1, b.running))))
}

// coarse is the least time that Go's timers can wait on Linux: the runtime
// rounds a wait in epoll up to a whole millisecond. Shorter waits yield.
const coarse = 1100 * time.Microsecond

// delay waits until the policy says that the batch is to be taken, or until
// nobody waits for t any more.
func (b *Batcher) delay(t *Ticket) {
	for {
		b.mu.Lock()
		_, wait := b.decide(time.Duration(Now() - t.Times.Queued))
		if t.left != nil {
			wait = 0
		}
		b.mu.Unlock()
		if wait <= 0 {
			return
		}
		if wait <= coarse {
			select {
			case <-t.Cancel:
				b.giveUp(t, ErrCanceled)
			default:
				b.yield()
			}
			continue
		}
		timer := time.NewTimer(wait - coarse)
		select {
		case <-b.full:
		case <-timer.C:
		case <-t.Cancel:
			b.giveUp(t, ErrCanceled)
		}
		timer.Stop()
	}
}

// decide asks the policy how many rows the leader that gathers takes when it
// has waited for that long, or how much longer it waits. Callers hold mu.
func (b *Batcher) decide(age time.Duration) (take int, wait time.Duration) {
	p := Policy{Max: b.limit(), Delay: b.cfg.MaxQueueDelay, Preferred: b.cfg.PreferredSizes}
	return p.Decide(b.company, age)
}

// scan bounds how many waiting requests are looked at for one run: among
// requests of many shapes the search must not cost more than the run.
const scan = 256

// take fills the run: t first, then waiting requests that fit with it, in the
// queue's order. One that has too many rows ends the search, so that smaller
// ones behind it do not overtake it again and again. Callers hold mu.
func (b *Batcher) take(r *run, t *Ticket) {
	limit := b.limit()
	if t.gathers {
		if n, wait := b.decide(time.Duration(Now() - t.Times.Queued)); wait <= 0 {
			limit = n
		}
		b.gatherer = nil
	}
	limit = b.steady.limit(min(limit, b.share(t)))
	r.tickets = append(r.tickets[:0], t)
	r.rows = t.Rows
	seen := 0
search:
	for i := range b.q.levels {
		for next := b.q.levels[i].head; next != nil; seen++ {
			candidate := next
			next = next.next
			if r.rows >= limit || seen >= scan {
				break search
			}
			if !b.fits(t, candidate) {
				continue
			}
			if r.rows+candidate.Rows > limit {
				break search
			}
			b.pull(candidate)
			r.tickets = append(r.tickets, candidate)
			r.rows += candidate.Rows
		}
	}
	r.padded, r.resized = r.rows, false
	if b.cfg.Steady {
		r.padded, r.resized = b.steady.pad(r.rows, b.cfg.MaxBatchSize)
	}
	now := Now()
	b.executing++
	r.atOnce = b.executing
	r.wanted = len(r.tickets)
	r.stopped.Store(false)
	r.refs.Store(int32(len(r.tickets)))
	for _, m := range r.tickets {
		m.run = r
		m.state = taken
		m.Times.ComputeStart = now
	}
}

// worthSharing is the time of a run from which it is split between cores: to
// wake another goroutine up takes a good part of it below.
const worthSharing = 200 * time.Microsecond

// share returns how many rows of those that wait are t's part when all runs
// that may start now, that of t included, take the same. Callers hold mu.
func (b *Batcher) share(t *Ticket) int {
	rows, runs := b.q.rows+t.Rows, b.costs.plan.runs-b.running+1
	if runs <= 1 || b.costs.time(rows) < worthSharing {
		return rows
	}
	return (rows + runs - 1) / runs
}

// worthHelp says whether what waits takes so long that another goroutine
// should run it. Callers hold mu.
func (b *Batcher) worthHelp() bool { return b.costs.time(b.q.rows) >= worthSharing }

// pace takes in the time of a run. Callers hold mu.
func (b *Batcher) pace(d time.Duration) {
	if b.runTime == 0 {
		b.runTime = d
	}
	b.runTime += (d - b.runTime) / 8
}

// finish hands the answers to the tickets, wakes them and lets the next run start.
func (b *Batcher) finish(r *run) {
	d := r.took()
	first := r.tickets[0]
	b.mu.Lock()
	atOnce := r.atOnce
	if atOnce != b.executing {
		atOnce = 0 // not the same from start to end
	}
	b.executing--
	b.running--
	b.stats.add(r)
	runs := b.costs.plan.runs
	if r.err == nil {
		b.pace(d)
		if !r.resized {
			b.costs.observe(r.rows, atOnce, d)
		}
	}
	next := b.q.first()
	if first.Waiter == nil || next != nil && next.Waiter == nil || b.costs.plan.runs > runs {
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

// Cancel ends the waiting of a submitted ticket whose client has left. It says whether
// the ticket is the caller's again, and its Waiter not told.
func (b *Batcher) Cancel(t *Ticket) bool { return b.giveUp(t, ErrCanceled) }
