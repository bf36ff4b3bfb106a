//go:build invariants

package batch_test

import (
	"slices"
	"testing"

	"github.com/millrace-ml/millrace/runtime/batch"
)

// TestReleasedMemoryIsOverwritten looks at outputs after their Release.
func TestReleasedMemoryIsOverwritten(t *testing.T) {
	b := newBatcher(t, batch.DefaultConfig(), &doubler{})
	r := newRequest()
	r.fill()
	if err := b.Do(&r.ticket); err != nil {
		t.Fatal(err)
	}
	data := r.ticket.Outputs[0].Data
	before := slices.Clone(data)
	r.ticket.Release()
	if slices.Equal(data, before) {
		t.Error("the outputs are as they were")
	}
	r.ticket.Release() // no run is left to be released twice
}

// TestReleaseInQueuePanics releases a ticket that the batcher has.
func TestReleaseInQueuePanics(t *testing.T) {
	b := newBatcher(t, batch.DefaultConfig(), steady{})
	r := newRequest()
	r.fill()
	r.ticket.Waiter = r
	if err := b.Submit(&r.ticket); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if recover() == nil {
			t.Error("a ticket in the queue could be released")
		}
	}()
	r.ticket.Release()
}
