// Package wire turns the bytes of the serving protocols into tensors and back,
// one file a protocol. Its functions are pure: they keep nothing, read no
// clock, and write only to what they are handed.
package wire

import (
	"errors"
	"slices"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// ErrBadRequest is returned for every body that is not a valid request. The
// text that wraps it names the place (a JSON path, a tensor) and what is allowed.
var ErrBadRequest = errors.New("bad request")

// ErrUnsupported is returned for what the protocol has and this server has not.
var ErrUnsupported = errors.New("not supported")

// Request is one decoded inference request. It is reused: Reset makes it ready
// for the next one. Byte slices in it alias the body they were decoded from,
// tensor data lies in Mem. A body that lies there itself is not copied: its binary
// tensors are used where they are.
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

	// Rows is how many rows the client sent one after the other, 0 where it sent
	// whole tensors. Only the dialects beside OIP have it, and the two below.
	Rows   int
	Single bool // plain JSON: one row stands alone, and not in a list
	Frame  bool // MLflow: the rows are those of a data frame

	model  string
	shapes []int64 // memory of the inputs' shapes
	scan   scanner
	blobs  []blob
	asked  []uint64 // a bit for each output of the signature: it is in Outputs
	table  table
}

// blob is an input whose data follows the JSON part.
type blob struct {
	input int
	bytes int64
}

// keepArena bounds the memory for tensors that an idle Request keeps.
const keepArena = 2 << 20

// keepText bounds the memory for strings with escapes that it keeps.
const keepText = 64 << 10

// Reset makes the request ready for the next one.
func (r *Request) Reset() {
	r.Mem.Reset(keepArena)
	r.Forget()
}

// Forget makes the request ready to be decoded once more. What lies in Mem stays.
func (r *Request) Forget() {
	r.ID = nil
	r.Inputs = r.Inputs[:0]
	r.Outputs = r.Outputs[:0]
	r.BinaryOutput, r.Sequence = false, false
	r.Priority, r.TimeoutMicros = 0, 0
	r.Rows, r.Single, r.Frame = 0, false, false
	r.table.reset()
	r.shapes, r.blobs = r.shapes[:0], r.blobs[:0]
	r.scan = scanner{text: r.scan.text[:0]}
	if cap(r.scan.text) > keepText {
		r.scan.text = nil
	}
}

// begin makes room for the inputs of a signature, all left out.
func (r *Request) begin(sig *tensor.Signature) {
	r.model = sig.Model
	r.Inputs = slices.Grow(r.Inputs[:0], len(sig.Inputs))[:len(sig.Inputs)]
	for i := range r.Inputs {
		r.Inputs[i] = tensor.Tensor{Name: sig.Inputs[i].Name}
	}
	words := (len(sig.Outputs) + 63) / 64
	r.asked = slices.Grow(r.asked[:0], words)[:words]
	clear(r.asked)
}

// Output is one requested output.
type Output struct {
	Index     int  // into Signature.Outputs
	Binary    bool // the answer's tensor goes as a blob
	BinarySet bool // the client said so for this output
	Classes   int  // classification: N, 0 for none
}

// grow makes room for need more bytes in dst, which lies in r.Mem.
func (r *Request) grow(dst []byte, need int) ([]byte, error) {
	if cap(dst)-len(dst) >= need {
		return dst, nil
	}
	b, err := r.Mem.Alloc(2*cap(dst) + need)
	if err != nil {
		return nil, err
	}
	return b[:copy(b, dst)], nil
}
