// Package wire turns the bytes of the serving protocols into tensors and back,
// one file a protocol. Its functions are pure: they keep nothing, read no
// clock, and write only to what they are handed.
package wire

import (
	"errors"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// ErrBadRequest is returned for every body that is not a valid request. The
// text that wraps it names the place (a JSON path, a tensor) and what is allowed.
var ErrBadRequest = errors.New("bad request")

// Request is one decoded inference request. It is reused: Reset makes it ready
// for the next one. Byte slices in it alias the body they were decoded from,
// tensor data lies in Mem.
type Request struct {
	Mem tensor.Arena

	ID []byte
	// Inputs are in the order of the signature. One that the client left out
	// has the datatype tensor.Invalid.
	Inputs []tensor.Tensor
	// Outputs lists what the client asked for, in its order; empty asks for all.
	Outputs []Output
	// BinaryOutput is the request-level binary_data_output.
	BinaryOutput bool

	Priority      uint64 // 1 is the highest, 0 the model's default
	TimeoutMicros uint64 // 0 is none
	Sequence      bool   // a sequence_id was given
}

// Output is one requested output.
type Output struct {
	Index     int  // into Signature.Outputs
	Binary    bool // the answer's tensor goes as a blob
	BinarySet bool // the client said so for this output
	Classes   int  // classification: N, 0 for none
}
