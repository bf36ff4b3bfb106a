package wire

import (
	"encoding/binary"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// contentsField is the field of InferTensorContents for each datatype.
var contentsField = [...]protowire.Number{
	tensor.Bool: 1, tensor.Int8: 2, tensor.Int16: 2, tensor.Int32: 2, tensor.Int64: 3,
	tensor.Uint8: 4, tensor.Uint16: 4, tensor.Uint32: 4, tensor.Uint64: 5,
	tensor.FP32: 6, tensor.FP64: 7, tensor.Bytes: 8,
}

// fill reads typed contents, packed or not, of a tensor that has size bytes;
// for BYTES that is the least.
func (p *protoRequest) fill(t *tensor.Tensor, b []byte, size int64) error {
	want := contentsField[t.Datatype]
	// No value takes less than a byte of the message, no string less than two,
	// so that t.Data never has to grow and no lying shape takes memory.
	room := int(min(size, 8*int64(len(b))))
	if t.Datatype == tensor.Bytes {
		room = 2 * len(b)
	}
	var f field
	var err error
	if t.Data, err = p.r.Mem.Alloc(room); err != nil {
		return err
	}
	t.Data = t.Data[:0]
	for len(b) > 0 {
		if b, err = f.read(b); err != nil {
			return err
		}
		if f.number != want {
			return fmt.Errorf("%w: input '%s' is %s, which does not go into field %d of contents",
				ErrBadRequest, t.Name, t.Datatype, f.number)
		}
		if err := elements(t, &f); err != nil {
			return err
		}
	}
	return nil
}

// elements appends the elements of one field to t, which has room for all that
// its shape asks for.
func elements(t *tensor.Tensor, f *field) error {
	var kind protowire.Type // of one that is not packed
	switch t.Datatype {
	case tensor.Bytes:
		if f.kind != protowire.BytesType {
			return badContents(t)
		}
		t.Data = tensor.AppendElement(t.Data, f.bytes)
		return nil
	case tensor.FP32:
		kind = protowire.Fixed32Type
	case tensor.FP64:
		kind = protowire.Fixed64Type
	default:
		kind = protowire.VarintType
	}
	switch {
	case f.kind == kind:
		return appendValue(t, f.value)
	case f.kind != protowire.BytesType:
		return badContents(t)
	case kind != protowire.VarintType:
		if len(f.bytes)%t.Datatype.Size() != 0 {
			return badContents(t)
		}
		if len(f.bytes) > cap(t.Data)-len(t.Data) {
			return tooMany(t)
		}
		t.Data = append(t.Data, f.bytes...)
		return nil
	}
	for b := f.bytes; len(b) > 0; {
		v, n := protowire.ConsumeVarint(b)
		if n < 0 {
			return badProto(n)
		}
		if err := appendValue(t, v); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

func badContents(t *tensor.Tensor) error {
	return fmt.Errorf("%w: input '%s': the contents are not encoded as %s", ErrBadRequest, t.Name,
		t.Datatype)
}

func tooMany(t *tensor.Tensor) error {
	return fmt.Errorf("%w: input '%s' has more elements than its shape %s", ErrBadRequest, t.Name,
		tensor.FormatShape(t.Shape))
}

// appendValue appends one integer, bool or unpacked float, within its range.
func appendValue(t *tensor.Tensor, v uint64) error {
	size := t.Datatype.Size()
	if cap(t.Data)-len(t.Data) < size {
		return tooMany(t)
	}
	le := binary.LittleEndian
	switch t.Datatype {
	case tensor.Bool:
		v = min(v, 1)
	case tensor.FP32, tensor.FP64, tensor.Int64, tensor.Uint64:
	case tensor.Int8, tensor.Int16, tensor.Int32:
		// The protocol's int32: negative ones come with the bits of an int64.
		if n := int64(int32(v)); n < -1<<(8*size-1) || n >= 1<<(8*size-1) {
			return fmt.Errorf("%w: input '%s': %d is out of range for %s", ErrBadRequest, t.Name,
				n, t.Datatype)
		}
	default:
		if v > limits[t.Datatype].max {
			return fmt.Errorf("%w: input '%s': %d is out of range for %s", ErrBadRequest, t.Name,
				v, t.Datatype)
		}
	}
	switch size {
	case 1:
		t.Data = append(t.Data, byte(v))
	case 2:
		t.Data = le.AppendUint16(t.Data, uint16(v))
	case 4:
		t.Data = le.AppendUint32(t.Data, uint32(v))
	default:
		t.Data = le.AppendUint64(t.Data, v)
	}
	return nil
}
