package shadow

import (
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/millrace-ml/millrace/gateway/tap"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// maxTogether bounds the samples that are run together, so that a batch of
// copies does not hold the model's cores for long.
const maxTogether = 32

// errInputs is the reason for which a shadow cannot run a sample.
var errInputs = errors.New("the inputs are not those of the requests")

// worker runs the samples of a Mirror, on one goroutine. It is the Waiter of
// all its tickets.
type worker struct {
	*Mirror
	samples  []*tap.Sample // that were taken out of the queue last
	jobs     [maxTogether]job
	together int           // jobs of the last batch
	yielded  int64         // when it last went through Go's scheduler, as batch.Now
	scores   Scores        // of the last batch
	left     atomic.Int32  // tickets that are under way, and one while they are submitted
	told     chan struct{} // capacity 1: none is left
	help     chan struct{} // capacity 1: somebody is to call Drive
}

// job is one sample on its way. It is reused; it must not be copied.
type job struct {
	sample *tap.Sample
	ticket batch.Ticket
	inputs []tensor.Tensor // in the order of the shadow's signature
	err    error
	sent   bool // to the batcher, which took the ticket
}

func newWorker(m *Mirror) *worker {
	return &worker{Mirror: m, told: make(chan struct{}, 1), help: make(chan struct{}, 1)}
}

// loop runs what comes until the Mirror closes, and drops what is left. While there are samples
// it stays on one thread: else each sleep would end on another one, which has to be woken, on a
// core that has nothing of what it needs at hand.
func (w *worker) loop() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer close(w.done)
	for w.park() {
		w.await()
		w.take()
	}
	w.drain()
}

// park waits until there are samples. It returns false when the Mirror is closed.
func (w *worker) park() bool {
	for {
		w.mu.Lock()
		closed, some := w.closed, len(w.waiting) > 0
		w.parked = !closed && !some
		w.mu.Unlock()
		if closed || some {
			return !closed
		}
		runtime.UnlockOSThread()
		<-w.wake
		runtime.LockOSThread()
	}
}

// next takes the oldest samples out of the queue, so many at most.
func (w *worker) next(most int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	n := min(most, len(w.waiting))
	w.samples = append(w.samples[:0], w.waiting[:n]...)
	w.waiting = slices.Delete(w.waiting, 0, n)
}

// waits returns how many samples are in the queue.
func (w *worker) waits() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.waiting)
}

// Copies need no fast answer. When so many came together last time, the next
// wait for company: fewer and larger runs leave more of the cores to requests.
const (
	manyTogether = 4
	companyWait  = time.Millisecond
)

// await waits for company where it is to be had. It sleeps in the system: a timer of Go's
// would cost the scheduler, which sets two threads to work for it, a tenth of a small run.
func (w *worker) await() {
	if w.together < manyTogether || w.waits() >= maxTogether {
		return
	}
	wait := unix.NsecToTimespec(int64(companyWait))
	_ = unix.Nanosleep(&wait, nil) // interrupted: it takes what has come
	if now := batch.Now(); now-w.yielded > int64(yieldEvery) {
		w.yielded = now
		runtime.Gosched()
	}
}

// yieldEvery is how often the worker goes through Go's scheduler. The monitor looks at a goroutine
// that it has not seen change for 10 ms, and is in a system call again, thousands of times a
// second; but each time takes two other threads.
const yieldEvery = 8 * time.Millisecond

// drain drops what waits. Nobody puts samples into the queue any more.
func (w *worker) drain() {
	w.next(w.cfg.QueueSize)
	for range w.samples {
		w.report.drop(DropNotReady)
	}
	w.letGo(w.samples)
	for i := range w.jobs {
		w.jobs[i].ticket.Free()
	}
}

// take runs what waits on the shadow's version, as much as may be in one batch.
func (w *worker) take() {
	v, err := w.runner.Acquire(w.cfg.Shadow.Model, w.cfg.Shadow.Version)
	if err != nil {
		w.next(1)
		w.report.drop(DropNotReady)
		w.letGo(w.samples)
		w.enter(DropNotReady, err)
		return
	}
	defer v.Release()
	w.report.about(v.Version())
	jobs, err := w.gather(v)
	if err != nil {
		w.enter(DropIncompatible, err)
	} else {
		w.enter(DropNone, nil)
	}
	w.together = len(jobs)
	if len(jobs) > 0 {
		w.run(v, jobs)
	}
	for i := range jobs {
		w.finish(&jobs[i], v)
	}
	w.report.scored(&w.scores)
	w.letGo(w.samples)
}

// gather makes jobs of the samples that wait, as many as may be in one batch. Those
// that the version does not take are dropped; err tells of the last of them.
func (w *worker) gather(v *model.Version) (jobs []job, err error) {
	sig := v.Signature()
	w.next(min(max(sig.MaxBatchSize, 1), maxTogether))
	n := 0
	for _, s := range w.samples {
		if e := w.jobs[n].fill(s, sig); e != nil {
			err = e
			w.report.drop(DropIncompatible)
			continue
		}
		n++
	}
	return w.jobs[:n], err
}

// fill puts the inputs of the sample, which are in the order of another
// signature, into that of sig.
func (j *job) fill(s *tap.Sample, sig *tensor.Signature) error {
	j.sample, j.inputs = s, j.inputs[:0]
	used := 0
	for i := range sig.Inputs {
		spec := &sig.Inputs[i]
		in := named(s.Inputs, spec.Name, i)
		switch {
		case in == nil && !spec.Optional:
			return fmt.Errorf("%w: they have no %q", errInputs, spec.Name)
		case in == nil:
			j.inputs = append(j.inputs, tensor.Tensor{Name: spec.Name})
			continue
		case in.Datatype != spec.Datatype:
			return fmt.Errorf("%w: %q is %s, the shadow takes %s", errInputs, spec.Name,
				in.Datatype, spec.Datatype)
		}
		used++
		j.inputs = append(j.inputs, *in)
	}
	for i := range s.Inputs {
		in := &s.Inputs[i]
		if in.Datatype == tensor.Invalid {
			continue
		}
		if used--; used < 0 {
			return fmt.Errorf("%w: they have more than the shadow takes", errInputs)
		}
	}
	return nil
}

// forever lets every run be on the worker's own goroutine: others would make
// several at once.
const forever = time.Duration(math.MaxInt64)

// run takes the jobs through the version's batcher.
func (w *worker) run(v *model.Version, jobs []job) {
	// Numbers above the model's levels would mean its default.
	lowest := int(v.Config().GetDynamicBatching().GetPriorityLevels())
	deadline := batch.Now() + int64(w.cfg.Deadline)
	w.left.Store(1)
	for i := range jobs {
		j := &jobs[i]
		t := &j.ticket
		t.Inputs, t.Priority, t.Deadline, t.Waiter = j.inputs, lowest, deadline, w
		w.left.Add(1)
		if j.err = v.Submit(t); j.err != nil {
			w.left.Add(-1)
		}
		j.sent = j.err == nil
	}
	w.Finished()
	for {
		if v.Drive(forever) {
			w.Help()
		}
		select {
		case <-w.told:
			return
		case <-w.help:
		}
	}
}

// Finished counts a ticket that is the worker's again.
func (w *worker) Finished() {
	if w.left.Add(-1) == 0 {
		w.told <- struct{}{}
	}
}

// Help makes the worker call Drive.
func (w *worker) Help() {
	select {
	case w.help <- struct{}{}:
	default:
	}
}

// finish compares the answers of a job.
func (w *worker) finish(j *job, v *model.Version) {
	t := &j.ticket
	if j.sent {
		j.err = model.Outcome(t)
	}
	var x Result
	var outputs []tensor.Tensor
	class := ""
	if j.err == nil {
		outputs = t.Outputs
		x = Compare(j.sample.Outputs, outputs, w.tolerance(v), &w.scores)
		w.report.answered(&x, j.sample, time.Duration(t.Times.End-t.Times.ComputeStart))
	} else {
		class = w.cfg.Label(j.err)
		fault := !lacked(j.err)
		if fault {
			x.differ(ReasonError)
		}
		w.report.failed(class, fault)
	}
	if !x.Agree() && w.report.wants(x.Excess) {
		e := newExample(&x, j.sample, outputs, w.cfg.ExampleElements)
		e.Error = class
		w.report.keep(e)
	}
	t.Release()
	j.sample = nil
}

// tolerance returns what the shadow's outputs are compared with.
func (w *worker) tolerance(v *model.Version) Tolerance {
	s := &w.cfg.Shadow
	return Tolerance{Absolute: s.Absolute, Relative: s.Relative, TopK: s.TopK,
		Vectors: v.Signature().MaxBatchSize == 0}
}

// lacked says whether an error is for want of time or room: it says nothing of
// the version's answers.
func lacked(err error) bool {
	return errors.Is(err, batch.ErrQueueFull) || errors.Is(err, batch.ErrDeadline) ||
		errors.Is(err, batch.ErrClosed)
}

// enter notes why the shadow takes no samples, or that it does, and logs when
// that has changed.
func (w *worker) enter(d Drop, why error) {
	old := w.refusing // nobody else writes it
	if d == old {
		return
	}
	w.mu.Lock()
	w.refusing = d
	w.mu.Unlock()
	if d == DropNone {
		w.log.Info("shadow compares again", "old", old.String())
		return
	}
	w.log.Warn("shadow pauses", "old", old.String(), "new", d.String(), "reason", why)
}
