package proof

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/millrace-ml/millrace/gateway/wire"
	"github.com/millrace-ml/millrace/runtime/batch"
	"github.com/millrace-ml/millrace/runtime/model"
	"github.com/millrace-ml/millrace/runtime/tensor"
)

// runner takes requests through a version, one at a time.
type runner struct {
	v       *model.Version
	request wire.Request // what is asked
	ticket  batch.Ticket
	mem     tensor.Arena // of the part of the request that is under way
}

func (r *runner) close() {
	r.ticket.Release()
	r.ticket.Free()
	r.mem.Free()
	r.request.Mem.Free()
}

// part is a run's share of a request. Its outputs are valid until whoever got it returns.
type part struct {
	first, rows int64
	outputs     []tensor.Tensor // in the order of the signature
}

// run asks the version what the request says, in as many runs as its batch size needs, and
// hands over what each has given. It returns how many rows the request has.
func (r *runner) run(ctx context.Context, each func(p part) error) (rows int64, err error) {
	plan, err := planned(r.v.Signature(), r.request.Inputs)
	if err != nil {
		return 0, err
	}
	left := slices.Clone(r.request.Inputs)
	for first := int64(0); first < plan.rows; first += plan.most {
		n := min(plan.most, plan.rows-first)
		r.mem.Reset(keepPart)
		if err := r.fill(left, plan, n); err != nil {
			return 0, unknown{err}
		}
		if err := r.do(ctx); err != nil {
			return 0, place(err, first, n)
		}
		err := each(part{first, n, r.ticket.Outputs})
		r.ticket.Release()
		if err != nil {
			return 0, err
		}
	}
	return plan.rows, nil
}

// keepPart is the memory that is kept for the next part of a request.
const keepPart = 1 << 20

// place says of which rows a run has failed.
func place(err error, first, n int64) error {
	return fmt.Errorf("rows %d to %d: %w", first, first+n-1, err)
}

// fill takes n rows of what is left into the ticket.
func (r *runner) fill(left []tensor.Tensor, p plan, n int64) error {
	r.ticket.Inputs = slices.Grow(r.ticket.Inputs[:0], len(left))[:len(left)]
	for i := range left {
		if !p.cut[i] {
			r.ticket.Inputs[i] = left[i]
			continue
		}
		t := take(&left[i], n)
		data, err := r.mem.Alloc(len(t.Data))
		if err != nil {
			return err
		}
		copy(data, t.Data)
		t.Data = data
		r.ticket.Inputs[i] = t
	}
	return nil
}

// do runs the ticket, and sees to it that the outputs are what the version declares.
func (r *runner) do(ctx context.Context) error {
	r.ticket.Cancel = ctx.Done()
	if end, ok := ctx.Deadline(); ok {
		r.ticket.Deadline = batch.Now() + int64(time.Until(end))
	}
	err := ctx.Err()
	if err == nil {
		err = r.v.Do(&r.ticket)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return unknown{context.Cause(ctx)}
	case errors.Is(err, batch.ErrDeadline): // the timer of the context is a little late
		return unknown{context.DeadlineExceeded}
	case errors.Is(err, model.ErrRun), errors.Is(err, model.ErrBadInput):
		return err
	case err != nil:
		return unknown{err}
	}
	for i := range r.ticket.Outputs {
		o, spec := &r.ticket.Outputs[i], &r.v.Signature().Outputs[i]
		if o.Datatype != spec.Datatype || !tensor.Fits(o.Shape, spec.Shape) {
			return fmt.Errorf("output %q is %v %s, the model declares %v %s", spec.Name, o.Datatype,
				tensor.FormatShape(o.Shape), spec.Datatype, tensor.FormatShape(spec.Shape))
		}
		if err := o.Check(); err != nil {
			return fmt.Errorf("output %q: %w", spec.Name, err)
		}
	}
	return nil
}

// plan says how a request is cut into runs.
type plan struct {
	rows, most int64
	cut        []bool // of each input: its rows are shared out, else it goes into each run
}

// maxRun bounds the rows of a run: more of them are not worth their memory.
const maxRun = 64

// planned cuts along the first axis of the inputs that have the batch there. A model
// without a batch axis gets everything at once where that fits it, else row by row.
func planned(sig *tensor.Signature, inputs []tensor.Tensor) (plan, error) {
	p := plan{rows: -1, cut: make([]bool, len(inputs))}
	whole := whole(sig, inputs)
	for i := range inputs {
		in, axis := &inputs[i], 0
		if sig.MaxBatchSize > 0 {
			axis = sig.Inputs[i].BatchAxis
		}
		if in.Datatype == tensor.Invalid || axis < 0 || axis >= len(in.Shape) {
			continue
		}
		n := in.Shape[axis]
		if p.rows >= 0 && n != p.rows && !whole {
			return p, fmt.Errorf("input %q has %d rows, others have %d", in.Name, n, p.rows)
		}
		p.cut[i] = !whole
		p.rows = max(p.rows, n)
	}
	switch {
	case p.rows == 0:
		return p, errors.New("there are no rows")
	case p.rows > maxRows:
		return p, fmt.Errorf("there are %d rows, %d at most are allowed", p.rows, maxRows)
	case p.rows < 0: // of scalars alone
		p.rows = 1
	}
	switch {
	case whole:
		p.most = p.rows
	case sig.MaxBatchSize > 0:
		p.most = min(int64(sig.MaxBatchSize), maxRun)
	default:
		p.most = 1
	}
	return p, nil
}

// whole says whether a request goes into one run as it is.
func whole(sig *tensor.Signature, inputs []tensor.Tensor) bool {
	for i := range inputs {
		spec, in := &sig.Inputs[i], &inputs[i]
		switch {
		case in.Datatype == tensor.Invalid:
		case sig.MaxBatchSize > 0 && spec.BatchAxis > 0:
			return true
		case sig.MaxBatchSize == 0 && !tensor.Fits(in.Shape, spec.Shape):
			return false
		}
	}
	return sig.MaxBatchSize == 0
}

// Bounds of what is read.
const (
	maxRows     = 100_000
	maxArtifact = 16 << 20 // bytes of a file of the artifact
	maxGolden   = 64 << 20 // bytes of a golden set
)

// read reads a plain file of no more bytes than most.
func read(folder fs.FS, name string, most int64) ([]byte, error) {
	info, err := fs.Stat(folder, name) // to open a pipe would wait for who writes into it
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no plain file", name)
	}
	f, err := folder.Open(name)
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, most+1))
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	if int64(len(text)) > most {
		return nil, fmt.Errorf("%s has more than %d bytes", name, most)
	}
	return text, nil
}
