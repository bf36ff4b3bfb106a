package batch

import (
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Engine runs one model version. It may be used concurrently.
type Engine interface {
	// NewCall returns a workspace for one run at a time.
	NewCall() (Call, error)
}

// Call is a workspace for one run at a time of a model. It has one owner.
type Call interface {
	// Run runs the model. inputs are in the order of the signature; one with
	// the datatype tensor.Invalid is left out. Their Data lies outside the Go
	// heap and must stay as it is until Run returns. The outputs, in the order
	// of the signature, are valid until the next Run or Close. expected is about how
	// long it will take; 0 where that is not known.
	Run(inputs []tensor.Tensor, expected time.Duration) (outputs []tensor.Tensor, err error)
	// Terminate asks a Run under way in another goroutine to stop soon; it
	// then returns an error. It does nothing when no Run is under way.
	Terminate()
	// Close gives the workspace's memory back. No Run may be under way.
	Close()
}

// Times are the moments of one request's way, in nanoseconds of the monotonic
// clock (see Now). They are set once Do has returned.
type Times struct {
	Queued       int64 // Do was called
	ComputeStart int64 // taken out of the queue
	InputEnd     int64 // inputs are in place, the run starts
	OutputStart  int64 // the run has ended
	End          int64 // outputs are with their tickets
}

// Ticket is one request on its way through a batcher. Before Do it belongs to
// the caller, during Do to the batcher, afterwards to the caller again, until
// Release. It is reused; it must not be copied.
type Ticket struct {
	// Set by the caller.
	Inputs   []tensor.Tensor // in the order of the signature, all present or tensor.Invalid
	Rows     int             // along the batch axis; 1 where the model has none
	Priority int             // 1 is the highest, 0 the default level
	Deadline int64           // when the client leaves, as Now; 0 for never
	Timeout  int64           // when the request itself wants to end, as Now; 0 for never
	Cancel   <-chan struct{} // closed when the client has left; nil for never
	Waiter   Waiter          // told of the end of a Submit; nil for Do
	Alone    bool            // no other request is on its way: none is let in first

	// Set by Do. Outputs, in the order of the signature, are valid until Release.
	Outputs   []tensor.Tensor
	BatchRows int // rows of the run that this ticket was part of
	Times     Times

	batcher    *Batcher
	run        *run // whose outputs this ticket looks at; nil before and after
	prev, next *Ticket
	level      int // the queue it waits in; see queue
	state      state
	bytes      int64
	err        error       // of its run
	left       error       // why nobody waits for it any more; nil while somebody does
	gathers    bool        // it leads, and waits for company
	wake       chan signal // capacity 1: a waiting ticket gets exactly one signal
	policyEnd  int64       // when the queue policy's timeout ends; 0 for none
	timer      *time.Timer // calls expire; nil until a time was first set
	armed      bool        // the timer was set
	timerDone  chan struct{}
	shapes     []int64 // memory of Outputs' shapes
	mem        tensor.Arena
}

// Waiter is who submitted a ticket.
type Waiter interface {
	// Finished is called once, from any goroutine, when the ticket is the
	// caller's again. It must take the ticket's Outcome, and not block.
	Finished()
	// Help is called from any goroutine while the ticket waits: more of them do
	// than one goroutine should run. Somebody must call Drive soon. It must not
	// block, and not call the Batcher.
	Help()
}

// Outcome returns what became of a submitted ticket, as Do does. It is called
// once, after Finished.
func (t *Ticket) Outcome() error {
	t.stopTimer()
	switch {
	case t.left != nil: // what its run says is of no interest, it may have been stopped
		return t.left
	case t.err == nil && t.Deadline != 0 && t.Deadline < t.Times.End:
		return ErrDeadline
	}
	return t.err
}

// state says where a ticket is. Guarded by Batcher.mu.
type state uint8

const (
	outside state = iota // with the caller
	queued               // in the queue: may be taken into a run, or give up
	leading              // chosen to lead a run, which has not begun
	taken                // part of a run, which is always waited for
)

// signal is what wakes a waiting ticket.
type signal uint8

const (
	finished signal = iota // the answer or an error is in place
	lead                   // nobody runs the next batch: do it, this ticket is its first
)

// keepScratch bounds the scratch memory that a ticket keeps between requests.
const keepScratch = 64 << 10

// Release ends the use of Outputs and makes the ticket ready for the next
// request. It may be called on a ticket that was never in Do.
func (t *Ticket) Release() {
	if invariants {
		t.ruin()
	}
	if r := t.run; r != nil {
		t.run = nil
		r.release()
	}
	t.Inputs = nil
	t.Outputs = t.Outputs[:0]
	t.Cancel, t.Waiter, t.Alone = nil, nil, false
	t.Deadline, t.Timeout, t.Priority, t.Rows, t.BatchRows = 0, 0, 0, 0, 0
	t.err, t.left = nil, nil
	t.mem.Reset(keepScratch)
}

// Free gives the ticket's memory back to the system, for one that is not used again.
func (t *Ticket) Free() { t.mem.Free() }

// ends returns when the ticket's waiting is over, 0 for never.
func (t *Ticket) ends() int64 {
	if t.policyEnd != 0 && (t.Deadline == 0 || t.policyEnd < t.Deadline) {
		return t.policyEnd
	}
	return t.Deadline
}

// startTimer sees to it that expire is called when the ticket's time is over.
func (t *Ticket) startTimer() {
	end := t.ends()
	if end == 0 {
		return
	}
	t.armed = true
	d := time.Duration(max(0, end-Now()))
	if t.timer != nil {
		t.timer.Reset(d)
		return
	}
	t.timerDone = make(chan struct{}, 1)
	t.timer = time.AfterFunc(d, func() {
		told, again := t.batcher.expire(t)
		if again {
			return
		}
		t.timerDone <- struct{}{}
		if told {
			t.Waiter.Finished()
		}
	})
}

// stopTimer returns when expire is not and will not be under way.
func (t *Ticket) stopTimer() {
	if t.armed && !t.timer.Stop() {
		<-t.timerDone
	}
	t.armed = false
}

var start = time.Now()

// Now returns the nanoseconds since the process started, by the monotonic clock.
func Now() int64 { return int64(time.Since(start)) }
