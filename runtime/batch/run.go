package batch

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// run is one run of the model: the tickets in it and the workspace. It goes
// back to the batcher when the last of its tickets is released, since they
// look at the outputs in place.
type run struct {
	batcher *Batcher
	call    Call
	tickets []*Ticket
	rows    int
	padded  int  // rows that the engine gets: those beyond rows are zeros
	resized bool // it gets another number than the run before
	err     error
	times   Times
	wanted  int         // tickets that still wait for the answer. Guarded by Batcher.mu.
	stopped atomic.Bool // nobody waits for the answer: it need not begin
	atOnce  int         // runs under way when it began, itself included
	refs    atomic.Int32

	inputs []tensor.Tensor // gathered; unused for a run of one ticket
	shapes []int64         // memory of the inputs' shapes
	mem    tensor.Arena
}

// keepGathered bounds the memory for gathered inputs that an idle run keeps. The engine keeps
// more for what lies between the layers; to get it anew for each run of images takes longer than
// a GPU runs.
const keepGathered = 64 << 20

// fits says whether two requests may be in one run: equal shapes but for the
// batch axis, and equal values where an input has none.
func (b *Batcher) fits(a, t *Ticket) bool {
	for i := range a.Inputs {
		x, y := &a.Inputs[i], &t.Inputs[i]
		if x.Datatype != y.Datatype || len(x.Shape) != len(y.Shape) {
			return false
		}
		axis := b.sig.Inputs[i].BatchAxis
		for d := range x.Shape {
			if d != axis && x.Shape[d] != y.Shape[d] {
				return false
			}
		}
		if axis < 0 && !bytes.Equal(x.Data, y.Data) {
			return false
		}
	}
	return true
}

// errStopped is the error of a run that all had left before it began; they
// get their own.
var errStopped = errors.New("batch: run stopped")

// execute gathers, runs and splits. Its tickets have their outputs or err is set.
func (r *run) execute() {
	inputs, expected := r.tickets[0].Inputs, r.took()
	r.err = nil
	if len(r.tickets) > 1 || r.padded > r.rows {
		inputs, r.err = r.gatherInputs()
	}
	r.times.InputEnd = Now()
	var outputs []tensor.Tensor
	switch {
	case r.err != nil:
	case r.stopped.Load():
		r.err = errStopped
	default:
		outputs, r.err = r.call.Run(inputs, expected)
	}
	r.times.OutputStart = Now()
	row := 0
	for _, t := range r.tickets {
		if r.err == nil {
			t.err = r.split(t, outputs, row)
		} else {
			t.err = r.err
		}
		t.BatchRows = r.rows
		row += t.Rows
	}
	r.times.End = Now()
	for _, t := range r.tickets {
		t.Times.InputEnd = r.times.InputEnd
		t.Times.OutputStart = r.times.OutputStart
		t.Times.End = r.times.End
	}
}

// took returns how long the engine took for the run that ended last.
func (r *run) took() time.Duration {
	return time.Duration(r.times.OutputStart - r.times.InputEnd)
}

// gatherInputs puts the rows of all tickets together, in memory of the run.
func (r *run) gatherInputs() ([]tensor.Tensor, error) {
	r.mem.Reset(keepGathered)
	r.inputs = append(r.inputs[:0], r.tickets[0].Inputs...)
	r.shapes = r.shapes[:0]
	for i := range r.inputs {
		in := &r.inputs[i]
		axis := r.batcher.sig.Inputs[i].BatchAxis
		if axis < 0 || in.Datatype == tensor.Invalid {
			continue
		}
		at := len(r.shapes)
		r.shapes = append(r.shapes, in.Shape...)
		in.Shape = r.shapes[at:len(r.shapes):len(r.shapes)]
		in.Shape[axis] = int64(r.padded)
		var err error
		if axis == 0 {
			in.Data, err = r.join(i)
		} else {
			in.Data, err = r.interleave(i, axis)
		}
		if err != nil {
			return nil, err
		}
	}
	return r.inputs, nil
}

// join puts the data of input i one behind the other.
func (r *run) join(i int) ([]byte, error) {
	n := 0
	for _, t := range r.tickets {
		n += len(t.Inputs[i].Data)
	}
	if r.padded > r.rows {
		n = n / r.rows * r.padded
	}
	dst, err := r.mem.Alloc(n)
	if err != nil {
		return nil, err
	}
	n = 0
	for _, t := range r.tickets {
		n += copy(dst[n:], t.Inputs[i].Data)
	}
	clear(dst[n:])
	return dst, nil
}

// interleave puts the data of input i together along an inner axis. Input
// shapes are [outer..., rows, inner...].
func (r *run) interleave(i, axis int) ([]byte, error) {
	first := &r.tickets[0].Inputs[i]
	outer, inner, err := sides(first, axis)
	if err != nil {
		return nil, err
	}
	dst, err := r.mem.Alloc(outer * inner * r.padded)
	if err != nil {
		return nil, err
	}
	at := 0
	for o := range outer {
		for _, t := range r.tickets {
			n := inner * t.Rows
			at += copy(dst[at:], t.Inputs[i].Data[o*n:(o+1)*n])
		}
		clear(dst[at : at+inner*(r.padded-r.rows)])
		at += inner * (r.padded - r.rows)
	}
	return dst, nil
}

// sides returns the number of elements before the axis and the bytes of one
// row behind it. Strings have no fixed size, so that they need axis 0.
func sides(t *tensor.Tensor, axis int) (outer, inner int, err error) {
	if t.Datatype == tensor.Bytes {
		return 0, 0, fmt.Errorf("batch: BYTES tensor %q has batch axis %d, only 0 works",
			t.Name, axis)
	}
	outer, inner = 1, t.Datatype.Size()
	for d, n := range t.Shape {
		switch {
		case d < axis:
			outer *= int(n)
		case d > axis:
			inner *= int(n)
		}
	}
	return outer, inner, nil
}

// split gives a ticket its rows, from row on, of the run's outputs.
func (r *run) split(t *Ticket, outputs []tensor.Tensor, row int) error {
	t.Outputs = append(t.Outputs[:0], outputs...)
	if len(r.tickets) == 1 && r.padded == r.rows {
		return nil
	}
	need := 0
	for i := range outputs {
		need += len(outputs[i].Shape)
	}
	t.shapes = slices.Grow(t.shapes[:0], need)
	for i := range t.Outputs {
		out := &t.Outputs[i]
		axis := r.batcher.sig.Outputs[i].BatchAxis
		if axis < 0 || out.Datatype == tensor.Invalid {
			continue
		}
		if axis >= len(out.Shape) || out.Shape[axis] != int64(r.padded) {
			return fmt.Errorf("batch: output %q has shape %s after a run of %d rows",
				out.Name, tensor.FormatShape(out.Shape), r.padded)
		}
		at := len(t.shapes)
		t.shapes = append(t.shapes, out.Shape...)
		out.Shape = t.shapes[at:len(t.shapes):len(t.shapes)]
		data, err := t.rowsOf(out, axis, span{row, row + t.Rows, r.padded})
		if err != nil {
			return err
		}
		out.Data = data
		out.Shape[axis] = int64(t.Rows)
	}
	return nil
}

// span is the rows from, up to but not including to, of all rows of a run.
type span struct{ from, to, of int }

// rowsOf returns the data of those rows of a run's output: a part of it in
// place where the batch axis is the first, else a copy in the ticket's memory.
func (t *Ticket) rowsOf(out *tensor.Tensor, axis int, s span) ([]byte, error) {
	if axis == 0 && out.Datatype != tensor.Bytes {
		n := len(out.Data) / s.of
		return out.Data[s.from*n : s.to*n], nil
	}
	if axis == 0 {
		return stringRows(out, s)
	}
	outer, inner, err := sides(out, axis)
	if err != nil {
		return nil, err
	}
	n := (s.to - s.from) * inner
	dst, err := t.mem.Alloc(outer * n)
	if err != nil {
		return nil, err
	}
	for o := range outer {
		copy(dst[o*n:], out.Data[(o*s.of+s.from)*inner:(o*s.of+s.to)*inner])
	}
	return dst, nil
}

// stringRows finds the rows of a BYTES output, whose elements vary in size.
func stringRows(out *tensor.Tensor, s span) ([]byte, error) {
	per := 1
	for _, d := range out.Shape[1:] {
		per *= int(d)
	}
	skip := func(data []byte, n int) ([]byte, error) {
		for range n {
			var ok bool
			if _, data, ok = tensor.NextElement(data); !ok {
				return nil, fmt.Errorf("batch: output %q: %w", out.Name, tensor.ErrData)
			}
		}
		return data, nil
	}
	head, err := skip(out.Data, s.from*per)
	if err != nil {
		return nil, err
	}
	tail, err := skip(head, (s.to-s.from)*per)
	if err != nil {
		return nil, err
	}
	return head[:len(head)-len(tail)], nil
}

// ruin overwrites what a released ticket looked at, for the build tag
// invariants: its rows of the outputs, and what all tickets share when it is
// the last.
func (t *Ticket) ruin() {
	if t.batcher != nil && t.state != outside {
		panic("batch: a ticket was released that the batcher has")
	}
	if t.run == nil || t.err != nil {
		return
	}
	alone := t.run.refs.Load() == 1
	for i := range t.Outputs {
		if alone || t.batcher.sig.Outputs[i].BatchAxis >= 0 {
			tensor.Ruin(t.Outputs[i].Data)
		}
	}
}

// release is called once by each ticket of the run.
func (r *run) release() {
	switch refs := r.refs.Add(-1); {
	case refs > 0:
		return
	case invariants && refs < 0:
		panic("batch: a run was released more often than it has tickets")
	}
	clear(r.tickets)
	r.tickets = r.tickets[:0]
	r.mem.Reset(keepGathered)
	b := r.batcher
	b.mu.Lock()
	keep := !b.closed && len(b.idle) < 2*b.cfg.MaxRuns
	if keep {
		b.idle = append(b.idle, r)
	}
	b.mu.Unlock()
	if !keep {
		r.close()
	}
}

func (r *run) close() {
	r.call.Close()
	r.mem.Free()
}
