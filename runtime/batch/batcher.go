// Package batch puts requests for one model version together and runs them.
//
// A [Ticket] is one request; [Batcher.Do] takes it through: it waits in a
// queue, becomes part of a run, and comes back with its outputs. There is no
// runner goroutine. The goroutine that brings a request to an idle model runs
// it itself, without a hand-over; under load the goroutine of the first
// waiting request becomes the leader of the next run and does it for all that
// are in it.
//
// [Batcher.Submit] is Do for callers that cannot wait, such as an event loop:
// it leaves tickets in the queue, [Batcher.Drive] runs what is there, and each
// ticket's [Waiter] is told of its end.
//
// The default is greedy: an idle model never waits. What has gathered while a
// run was under way goes into the next one, up to the size that costs least
// a row, which is learned while serving (see costs).
//
// A Batcher may be used concurrently; a Ticket has one owner at a time. The
// one lock guards lists and counters and is never held over a run, a wait or a
// copy.
package batch

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

var (
	// ErrQueueFull is returned when as many requests wait as may, or as many bytes.
	ErrQueueFull = errors.New("batch: queue full")
	// ErrDeadline is returned when a request's time was over before its answer was there.
	ErrDeadline = errors.New("batch: deadline exceeded")
	// ErrCanceled is returned when the client left before its request was run.
	ErrCanceled = errors.New("batch: canceled")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("batch: closed")
)

// Batcher gathers and runs the requests for one model version.
type Batcher struct {
	cfg    Config
	sig    *tensor.Signature
	engine Engine

	mu        sync.Mutex
	q         queue
	running   int     // runs under way, from the choice of a leader on
	executing int     // those of them that have taken their requests
	gatherer  *Ticket // leader that waits for company: nobody else starts a run
	company   int     // rows of gatherer and of those waiting that fit with it
	closed    bool    // no request is taken any more
	idle      []*run
	costs     costs
	steady    steady
	stats     counters
	runTime   time.Duration // of a run, smoothed; 0 before the first
	longest   time.Duration // that who drives lets a run take on its own goroutine
	full      chan struct{} // capacity 1: a waiting leader has company enough, or is to leave

	yield func() // lets other goroutines run; tests replace it
}

// New returns a batcher for a model with this signature.
func New(cfg Config, sig *tensor.Signature, engine Engine) (*Batcher, error) {
	if sig.MaxBatchSize == 0 {
		cfg.MaxBatchSize = 0
		cfg.PreferredSizes = nil
	}
	if err := cfg.Validate(); err != nil {
		return nil, fmt.Errorf("batch: %w", err)
	}
	if cfg.MaxRuns == 0 {
		cfg.MaxRuns = runtime.NumCPU()
	}
	cfg.Steady = cfg.Steady && cfg.MaxBatchSize > 1 && canPad(sig)
	b := &Batcher{cfg: cfg, sig: sig, engine: engine, full: make(chan struct{}, 1),
		yield: runtime.Gosched}
	b.q.levels = make([]list, max(cfg.PriorityLevels, 1)+1)
	b.costs = newCosts(cfg.MaxRuns, cfg.LatencyTarget)
	return b, nil
}

// Do takes a ticket through. When it returns nil, Outputs are set. It returns
// ErrQueueFull, ErrDeadline, ErrCanceled, ErrClosed, or the engine's error.
// A request that is in a run when its time is over gets ErrDeadline when the
// run ends; a run that nobody waits for any more is stopped.
func (b *Batcher) Do(t *Ticket) error {
	t.Times = Times{Queued: Now()}
	t.batcher, t.err, t.left = b, nil, nil
	b.mu.Lock()
	if err := b.admit(t); err != nil {
		b.mu.Unlock()
		return err
	}
	t.startTimer()
	if b.mayStart() {
		b.begin(t)
		b.mu.Unlock()
		b.lead(t)
	} else {
		b.enqueue(t)
		b.mu.Unlock()
		b.wait(t)
	}
	return t.Outcome()
}

// Submit puts a ticket with a Waiter into the queue and returns. When it
// returns nil, the Waiter will be told, as soon as Drive has run what is
// there; the ticket is not the caller's meanwhile. Errors are those of Do.
func (b *Batcher) Submit(t *Ticket) error {
	t.Times = Times{Queued: Now()}
	t.batcher, t.err, t.left = b, nil, nil
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.admit(t); err != nil {
		return err
	}
	t.startTimer()
	b.enqueue(t)
	if b.cfg.MaxQueueDelay > 0 {
		b.promote()
	}
	return nil
}

// Drive runs submitted tickets on this goroutine until none waits, as many
// runs are under way as may, or it has taken long enough: it then says that
// some are left, and its caller should come back soon. When a run takes more
// than longest, other goroutines run what waits. Drive never waits for company:
// with MaxQueueDelay others do, and it returns at once.
func (b *Batcher) Drive(longest time.Duration) (left bool) {
	if b.cfg.MaxQueueDelay > 0 {
		return false
	}
	b.mu.Lock()
	b.longest = longest
	if !b.within(longest) {
		b.promote()
		b.mu.Unlock()
		return false
	}
	return b.drive(driveFor)
}

// within says whether a run is known to take no longer than that. Callers hold mu.
func (b *Batcher) within(longest time.Duration) bool {
	return b.runTime > 0 && b.runTime <= longest
}

// driveFor is how long one call of Drive goes on to begin runs.
const driveFor = 500 * time.Microsecond

// forever is for goroutines that do nothing but drive.
const forever = time.Duration(math.MaxInt64)

// drive runs submitted tickets for that long, and says whether some are left
// that could run. Callers hold mu; it is free when drive returns.
func (b *Batcher) drive(most time.Duration) bool {
	for began := Now(); ; b.mu.Lock() {
		t := b.q.first()
		if t == nil || t.Waiter == nil || !b.mayStart() {
			b.promote()
			b.mu.Unlock()
			return false
		}
		if time.Duration(Now()-began) >= most {
			b.mu.Unlock()
			return true
		}
		b.pull(t)
		b.begin(t)
		b.mu.Unlock()
		b.lead(t)
	}
}

// admit says whether the ticket may enter. Callers hold mu.
func (b *Batcher) admit(t *Ticket) error {
	if b.closed {
		return ErrClosed
	}
	t.level = b.level(t.Priority)
	t.bytes, t.policyEnd = 0, 0
	for i := range t.Inputs {
		t.bytes += int64(len(t.Inputs[i].Data))
	}
	policy := b.policy(t.level)
	if t.Timeout != 0 && (policy.Timeout == 0 || policy.AllowOverride) &&
		(t.Deadline == 0 || t.Timeout < t.Deadline) {
		t.Deadline = t.Timeout
	}
	full := b.q.count >= b.cfg.QueueSize || b.q.bytes+t.bytes > b.cfg.QueueBytes ||
		policy.Size > 0 && b.q.levels[t.level].count >= policy.Size
	if full && b.q.count > 0 {
		b.stats.rejected++
		return ErrQueueFull
	}
	if t.Deadline != 0 && t.Deadline <= t.Times.Queued {
		b.stats.expired++
		return ErrDeadline
	}
	if policy.Timeout > 0 {
		t.policyEnd = t.Times.Queued + int64(policy.Timeout)
	}
	return nil
}

// level returns the queue of a priority, from 0 on.
func (b *Batcher) level(priority int) int {
	if b.cfg.PriorityLevels <= 1 {
		return 0
	}
	if priority <= 0 || priority > b.cfg.PriorityLevels {
		priority = max(b.cfg.DefaultPriority, 1)
	}
	return priority - 1
}

func (b *Batcher) policy(level int) QueuePolicy {
	switch {
	case level+1 < len(b.cfg.Queue):
		return b.cfg.Queue[level+1]
	case len(b.cfg.Queue) > 0:
		return b.cfg.Queue[0]
	}
	return QueuePolicy{}
}

// enqueue makes the ticket wait. Callers hold mu.
func (b *Batcher) enqueue(t *Ticket) {
	if t.wake == nil && t.Waiter == nil {
		t.wake = make(chan signal, 1)
	}
	b.push(t)
	if b.gatherer != nil && b.cfg.MaxQueueDelay > 0 {
		if _, wait := b.decide(0); wait == 0 {
			b.nudge()
		}
	}
}

// push puts the ticket at the end of its level. Callers hold mu.
func (b *Batcher) push(t *Ticket) {
	b.q.push(t)
	if b.gatherer != nil && b.fits(b.gatherer, t) {
		b.company += t.Rows
	}
}

// pull takes the ticket out of the queue. Callers hold mu and set its state.
func (b *Batcher) pull(t *Ticket) {
	b.q.remove(t)
	if b.gatherer != nil && b.fits(b.gatherer, t) {
		b.company -= t.Rows
	}
}

// nudge lets the leader that gathers look again. Callers hold mu.
func (b *Batcher) nudge() {
	select {
	case b.full <- struct{}{}:
	default:
	}
}

// wait blocks until the ticket is finished, and leads a run when asked to.
func (b *Batcher) wait(t *Ticket) {
	select {
	case s := <-t.wake:
		if s == lead {
			b.lead(t)
		}
		return
	case <-t.Cancel:
		b.giveUp(t, ErrCanceled)
	}
	if s := <-t.wake; s == lead {
		b.lead(t)
	}
}

// expire is called when a time of the ticket is over: the queue policy's,
// which ends its waiting, or its deadline. It says whether the ticket's Waiter
// is to be told, and whether the timer was set once more.
func (b *Batcher) expire(t *Ticket) (told, again bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := Now()
	if t.state == outside {
		return false, false
	}
	waits := t.state == queued || b.gatherer == t
	switch over := t.policyEnd != 0 && t.policyEnd <= now; {
	case t.Deadline != 0 && t.Deadline <= now:
		return b.giveUpLocked(t, ErrDeadline), false
	case over && waits && !b.policy(t.level).Delay:
		return b.giveUpLocked(t, ErrDeadline), false
	case over && t.state == queued && t.level < len(b.q.levels)-1:
		b.pull(t)
		t.level = len(b.q.levels) - 1
		b.push(t)
	}
	if t.Deadline == 0 {
		return false, false
	}
	t.timer.Reset(time.Duration(t.Deadline - now))
	return false, true
}

// giveUp ends the waiting of a ticket with err. One in the queue ends at once.
// If it is in a run, the run goes on while others wait for it, and is stopped
// when nobody does. It says whether a Waiter is to be told.
func (b *Batcher) giveUp(t *Ticket, err error) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.giveUpLocked(t, err)
}

func (b *Batcher) giveUpLocked(t *Ticket, err error) bool {
	if t.state == outside || t.left != nil {
		return false
	}
	t.left = err
	switch t.state {
	case queued:
		b.pull(t)
		t.state = outside
		b.stats.leave(err)
		if t.Waiter != nil {
			return true
		}
		t.wake <- finished
	case leading:
		b.nudge()
	case taken:
		r := t.run
		if r.wanted--; r.wanted == 0 {
			r.stopped.Store(true)
			r.call.Terminate()
		}
	}
	return false
}

// mayStart says whether one more run may begin. Callers hold mu.
func (b *Batcher) mayStart() bool {
	return b.running < b.costs.plan.runs && b.gatherer == nil
}

// promote lets the first waiting tickets lead runs, as many as may be under
// way. Those with a Waiter are led by whom it sends to Drive, or by goroutines
// where that one must not. Callers hold mu.
func (b *Batcher) promote() {
	for b.mayStart() {
		t := b.q.first()
		switch {
		case t == nil:
			return
		case t.Waiter != nil && b.cfg.MaxQueueDelay == 0 && b.within(b.longest):
			t.Waiter.Help()
			return
		}
		b.pull(t)
		b.begin(t)
		if t.Waiter == nil {
			t.wake <- lead
			continue
		}
		go func() {
			aside.Add(1)
			defer aside.Add(-1)
			b.lead(t)
			b.mu.Lock()
			b.drive(forever)
		}()
	}
}

// aside counts goroutines that do nothing but drive.
var aside atomic.Int32

// Aside returns how many runs of submitted tickets, of all models, are with goroutines of their
// own: those that take long, and those that wait for company.
func Aside() int { return int(aside.Load()) }

// Close refuses new requests and closes the workspaces that are not in use.
// Callers see to it that no Do is under way and that all tickets are released.
func (b *Batcher) Close() {
	b.mu.Lock()
	b.closed = true
	idle := b.idle
	b.idle = nil
	b.mu.Unlock()
	for _, r := range idle {
		r.close()
	}
}
