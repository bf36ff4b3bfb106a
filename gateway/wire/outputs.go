package wire

import (
	"fmt"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// outputs reads what the client asks for.
func (r *Request) outputs(sig *tensor.Signature) error {
	s := &r.scan
	if err := s.open('['); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if ok, err := s.more(']', i == 0); !ok {
			return err
		}
		if err := r.output(sig, i); err != nil {
			return err
		}
	}
}

func (r *Request) output(sig *tensor.Signature, i int) error {
	s := &r.scan
	if err := s.open('{'); err != nil {
		return err
	}
	o := Output{Index: -1}
	for first := true; ; first = false {
		key, ok, err := s.key(first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch string(key) {
		case "name":
			if o.Index >= 0 {
				return s.fail("outputs[%d] has two names", i)
			}
			var name []byte
			if name, err = s.str(); err == nil {
				o.Index, err = r.ask(sig, name)
			}
		case "parameters":
			err = s.outputParameters(&o)
		default:
			err = s.skip()
		}
		if err != nil {
			return err
		}
	}
	if o.Index < 0 {
		return fmt.Errorf("%w: outputs[%d] has no name", ErrBadRequest, i)
	}
	r.Outputs = append(r.Outputs, o)
	return nil
}

// ask returns the index of an output that is asked for by name.
func (r *Request) ask(sig *tensor.Signature, name []byte) (int, error) {
	i := sig.Output(name)
	if i < 0 {
		return 0, fmt.Errorf("%w: unexpected inference output '%s' for model '%s': it gives %s",
			ErrBadRequest, shorten(name), sig.Model, names(sig.Outputs))
	}
	word, bit := &r.asked[i/64], uint64(1)<<(i%64)
	if *word&bit != 0 {
		return 0, fmt.Errorf("%w: Duplicate output name '%s' is not allowed in a request: "+
			"output '%s' already exists in request", ErrBadRequest, name, name)
	}
	*word |= bit
	return i, nil
}

func (s *scanner) outputParameters(o *Output) error {
	if err := s.open('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		key, ok, err := s.key(first)
		if !ok {
			return err
		}
		switch string(key) {
		case "binary_data":
			o.BinarySet = true
			o.Binary, err = s.boolean(key)
		case "classification":
			var n uint64
			n, err = s.count(key)
			o.Classes = int(min(n, 1<<31-1))
		case "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size":
			return fmt.Errorf("%w: shared memory is not served; the tensor comes in the body",
				ErrUnsupported)
		default:
			err = s.scalar(key)
		}
		if err != nil {
			return err
		}
	}
}

// takeBlobs takes the binary tensors, which follow the JSON in the order of
// their inputs. A single input that names no size takes all of them.
func (r *Request) takeBlobs(sig *tensor.Signature, blobs []byte, binary bool) error {
	for _, b := range r.blobs {
		t := &r.Inputs[b.input]
		n := b.bytes
		if n < 0 && binary && len(r.blobs) == 1 {
			n = int64(len(blobs))
		}
		if n < 0 {
			return fmt.Errorf("%w: input '%s' has no data", ErrBadRequest, t.Name)
		}
		if n > int64(len(blobs)) {
			return fmt.Errorf(
				"%w: input '%s' has binary_data_size %d, only %d bytes are left of the body",
				ErrBadRequest, t.Name, n, len(blobs))
		}
		if err := r.takeBlob(t, blobs[:n]); err != nil {
			return err
		}
		blobs = blobs[n:]
	}
	if len(blobs) > 0 {
		return fmt.Errorf("%w: unexpected additional input data for model '%s': "+
			"%d bytes are left of the body", ErrBadRequest, sig.Model, len(blobs))
	}
	return nil
}

func (r *Request) takeBlob(t *tensor.Tensor, data []byte) error {
	t.Data = data
	if err := t.Check(); err != nil {
		return r.misfit(t, err)
	}
	if t.Datatype == tensor.Bool {
		for i, b := range data {
			if b > 1 {
				return fmt.Errorf("%w: input '%s': BOOL element %d is %d, must be 0 or 1",
					ErrBadRequest, t.Name, i, b)
			}
		}
	}
	if r.Mem.Holds(data) && tensor.Aligned(data, t.Datatype) {
		t.Data = data[:len(data):len(data)]
		return nil
	}
	dst, err := r.Mem.Alloc(len(data))
	if err != nil {
		return err
	}
	copy(dst, data)
	t.Data = dst
	return nil
}

// misfit says that an input's data does not have the size that its shape asks
// for, in the words that Triton's clients know.
func (r *Request) misfit(t *tensor.Tensor, err error) error {
	want, overflow := tensor.ByteSize(t.Datatype, t.Shape)
	switch {
	case overflow != nil:
		return fmt.Errorf("%w: byte size overflow for input '%s': %w", ErrBadRequest, t.Name, err)
	case t.Datatype == tensor.Bytes:
		return fmt.Errorf("%w: input '%s': %w", ErrBadRequest, t.Name, err)
	}
	return fmt.Errorf("%w: input byte size mismatch for input '%s' for model '%s'. "+
		"Expected %d, got %d: %w", ErrBadRequest, t.Name, r.model, want, len(t.Data), err)
}

// DecodeRaw reads a body that is the data of the model's only input, as one
// row; all outputs are asked for as blobs. A BYTES body is one string without
// its length.
func DecodeRaw(r *Request, sig *tensor.Signature, body []byte) error {
	r.begin(sig)
	r.BinaryOutput = true
	if len(sig.Inputs) != 1 {
		return fmt.Errorf("%w: Raw request must only have 1 input (found 1) to be deduced "+
			"but got %d inputs in model '%s'", ErrBadRequest, len(sig.Inputs), sig.Model)
	}
	spec := &sig.Inputs[0]
	t := &r.Inputs[0]
	variable, known := -1, int64(1)
	for d, n := range spec.Shape {
		if d == 0 && sig.MaxBatchSize > 0 {
			n = 1
		}
		if n < 0 && variable >= 0 {
			return fmt.Errorf("%w: The shape of the raw input '%s' can not be deduced because "+
				"there are more than one variable-sized dimension", ErrBadRequest, spec.Name)
		}
		if n < 0 {
			variable = d
		} else {
			known *= n
		}
		r.shapes = append(r.shapes, n)
	}
	t.Datatype, t.Shape = spec.Datatype, r.shapes
	if spec.Datatype == tensor.Bytes {
		if known != 1 || variable >= 0 {
			return fmt.Errorf(
				"%w: For BYTE datatype raw input '%s', the model must have input shape [1]",
				ErrBadRequest, spec.Name)
		}
		dst, err := r.Mem.Alloc(4 + len(body))
		if err != nil {
			return err
		}
		t.Data = tensor.AppendElement(dst[:0], body)
		return nil
	}
	if size := known * int64(spec.Datatype.Size()); variable >= 0 && size > 0 {
		t.Shape[variable] = int64(len(body)) / size
	}
	return r.takeBlob(t, body)
}
