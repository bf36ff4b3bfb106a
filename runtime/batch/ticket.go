package batch

import (
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
	// of the signature, are valid until the next Run or Close.
	Run(inputs []tensor.Tensor) (outputs []tensor.Tensor, err error)
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
// Release.
type Ticket struct {
	// Set by the caller.
	Inputs   []tensor.Tensor // in the order of the signature, all present or tensor.Invalid
	Rows     int             // along the batch axis; 1 where the model has none
	Priority int             // 1 is the highest, 0 the default level
	Deadline int64           // as Now; 0 for none
	Cancel   <-chan struct{} // closed when the client has left; nil for never

	// Set by Do. Outputs, in the order of the signature, are valid until Release.
	Outputs   []tensor.Tensor
	BatchRows int // rows of the run that this ticket was part of
	Times     Times

	ticketState
}
