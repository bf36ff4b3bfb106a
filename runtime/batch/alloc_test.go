package batch_test

import (
	"testing"
	"time"

	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// steady is an engine that allocates nothing in a run: its answer is the input.
type steady struct{}

func (steady) NewCall() (batch.Call, error) { return new(steadyCall), nil }

type steadyCall struct{ out [1]tensor.Tensor }

func (c *steadyCall) Run(in []tensor.Tensor, _ time.Duration) ([]tensor.Tensor, error) {
	c.out[0] = in[0]
	return c.out[:], nil
}

func (*steadyCall) Terminate() {}
func (*steadyCall) Close()     {}

// request is a ticket that is sent again and again.
type request struct {
	ticket batch.Ticket
	inputs [1]tensor.Tensor
	err    error
}

func newRequest() *request {
	return &request{inputs: [1]tensor.Tensor{{Name: "x", Datatype: tensor.Int64,
		Shape: []int64{1, 2}, Data: make([]byte, 16)}}}
}

func (r *request) fill() {
	r.ticket.Rows, r.ticket.Inputs = 1, r.inputs[:]
	r.ticket.Deadline = batch.Now() + 1e12
}

// Finished makes a request its own Waiter.
func (r *request) Finished() {
	r.err = r.ticket.Outcome()
	r.ticket.Release()
}

// Help is not asked for where one run may be under way.
func (r *request) Help() { panic("help is asked for") }

// TestNoAllocations holds a request that is alone, and batches, to no heap
// allocation when they are warm.
func TestNoAllocations(t *testing.T) {
	f := func(name string, once func()) {
		t.Helper()
		for range 2000 { // maps of sizes, workspaces, arenas, timers
			once()
		}
		if n := testing.AllocsPerRun(1000, once); n != 0 {
			t.Errorf("%s: %v allocations a request", name, n)
		}
	}
	cfg := batch.DefaultConfig()
	cfg.MaxRuns = 1 // all ends on this goroutine
	b := newBatcher(t, cfg, steady{})
	one := newRequest()
	f("alone", func() {
		one.fill()
		if err := b.Do(&one.ticket); err != nil {
			t.Fatal(err)
		}
		one.ticket.Release()
	})
	var many [12]*request
	for i := range many {
		many[i] = newRequest()
	}
	f("a batch", func() {
		for _, r := range many {
			r.fill()
			r.ticket.Waiter = r
			if err := b.Submit(&r.ticket); err != nil {
				t.Fatal(err)
			}
		}
		for b.Drive(time.Hour) {
		}
		for _, r := range many {
			if r.err != nil {
				t.Fatal(r.err)
			}
		}
	})
	if s := b.Stats(); s.Executions == s.Inferences {
		t.Error("there was no batch of several requests")
	}
}
