package ort

// #include "api.h"
// #include <stdlib.h>
import "C"

import (
	"fmt"
	"time"
	"unsafe"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Call is a workspace for one run at a time of a session. It has one owner;
// only Terminate may be called beside a Run.
type Call struct {
	session *Session
	c       *C.mr_call
	in      []C.mr_tensor // C memory
	out     []C.mr_output // C memory
	outputs []tensor.Tensor
	shapes  []int64
	classes [][]string // keys of each map output, once they are known
}

// NewCall returns a workspace. Its session must outlive it.
func (s *Session) NewCall() (*Call, error) {
	var e C.mr_error
	c := C.mr_call_new(s.session, C.size_t(len(s.inputs)), C.size_t(len(s.outputs)), &e)
	if c == nil {
		return nil, newError(&e)
	}
	c.input_names, c.output_names = s.inputNames, s.outputNames
	call := &Call{
		session: s, c: c,
		in:      unsafe.Slice(c.in, len(s.inputs)),
		out:     unsafe.Slice(c.out, len(s.outputs)),
		outputs: make([]tensor.Tensor, len(s.outputs)),
		shapes:  make([]int64, 0, 4*len(s.outputs)),
		classes: make([][]string, len(s.outputs)),
	}
	for i := range call.out {
		call.declare(i)
	}
	return call, nil
}

// declare tells C what the model says of output i.
func (c *Call) declare(i int) {
	out, spec := &c.out[i], &c.session.outputs[i]
	out.declared_elem = elemOf(spec.Datatype)
	out.declared_rank = C.int(len(spec.Shape))
	for d, n := range spec.Shape {
		out.declared_shape[d] = C.int64_t(n)
	}
}

// Run runs the model; see batch.Call. The data of inputs lies outside the Go
// heap and has the size that their shapes ask for.
func (c *Call) Run(inputs []tensor.Tensor, expected time.Duration) ([]tensor.Tensor, error) {
	for i := range c.in {
		if err := c.set(i, &inputs[i]); err != nil {
			return nil, err
		}
	}
	if c.run(expected) != 0 {
		return nil, newError(&c.c.error)
	}
	c.shapes = c.shapes[:0]
	for i := range c.out {
		c.read(i)
	}
	return c.outputs, nil
}

// run makes the run, on a thread of C if it is a long one, and returns what mr_run does.
func (c *Call) run(expected time.Duration) (failed C.int) {
	if expected >= longRun {
		if t := takeThread(); t != nil {
			return t.run(c)
		}
	}
	return C.mr_run(c.c)
}

func (c *Call) set(i int, t *tensor.Tensor) error {
	in := &c.in[i]
	if t.Datatype == tensor.Invalid {
		in.rank = -1
		return nil
	}
	if len(t.Shape) > C.MR_MAX_RANK {
		return fmt.Errorf("ort: input %q has %d dimensions, at most %d work", t.Name, len(t.Shape),
			C.MR_MAX_RANK)
	}
	in.data = (*C.char)(unsafe.Pointer(unsafe.SliceData(t.Data)))
	in.bytes = C.size_t(len(t.Data))
	in.elem = c.session.elems[i]
	in.rank = C.int(len(t.Shape))
	for d, n := range t.Shape {
		in.shape[d] = C.int64_t(n)
	}
	return nil
}

func (c *Call) read(i int) {
	out, t := &c.out[i], &c.outputs[i]
	*t = tensor.Tensor{Name: c.session.outputs[i].Name, Datatype: datatypeOf(out.elem)}
	if out.elem == 0 {
		return
	}
	at := len(c.shapes)
	for _, d := range out.shape[:out.rank] {
		c.shapes = append(c.shapes, int64(d))
	}
	t.Shape = c.shapes[at:len(c.shapes):len(c.shapes)]
	t.Data = unsafe.Slice((*byte)(unsafe.Pointer(out.data)), int(out.bytes))
	if out.is_map != 0 {
		t.ClassNames = c.classNames(i)
	}
}

// classNames returns the keys of map output i, which stay the same.
func (c *Call) classNames(i int) []string {
	if c.classes[i] != nil {
		return c.classes[i]
	}
	out := &c.out[i]
	rest := unsafe.Slice((*byte)(unsafe.Pointer(out.keys)), int(out.keys_len))
	names := []string{}
	for len(rest) > 0 {
		key, tail, ok := tensor.NextElement(rest)
		if !ok {
			break
		}
		names = append(names, string(key))
		rest = tail
	}
	c.classes[i] = names
	return names
}

// Terminate asks a Run under way to stop between two operators. It does
// nothing when none is under way.
func (c *Call) Terminate() { C.mr_terminate(c.c) }

// Close gives the workspace's memory back. No Run may be under way.
func (c *Call) Close() {
	if c.c != nil {
		C.mr_call_free(c.c)
		c.c = nil
	}
}
