package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Field numbers of the messages of GRPCInferenceService.
const (
	reqModel, reqVersion, reqID, reqParameters   = 1, 2, 3, 4
	reqInputs, reqOutputs, reqRaw                = 5, 6, 7
	inName, inDatatype, inShape, inParameters    = 1, 2, 3, 4
	inContents                                   = 5
	paramBool, paramInt, paramString             = 1, 2, 3
	paramUint                                    = 5
	respModel, respVersion, respID, respOutputs  = 1, 2, 3, 5
	respRaw                                      = 6
	outName, outDatatype, outShape, outParameter = 1, 2, 3, 4
)

// field reads the next field of a protobuf message. Values of the wire types
// that the messages do not use are skipped.
type field struct {
	number protowire.Number
	kind   protowire.Type
	bytes  []byte // of a length-delimited field
	value  uint64 // of any other
}

func (f *field) read(b []byte) ([]byte, error) {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 {
		return nil, badProto(n)
	}
	b = b[n:]
	f.number, f.kind, f.bytes, f.value = number, kind, nil, 0
	switch kind {
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	case protowire.VarintType:
		f.value, n = protowire.ConsumeVarint(b)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(b)
		f.value = uint64(v)
	case protowire.Fixed64Type:
		f.value, n = protowire.ConsumeFixed64(b)
	default:
		n = protowire.ConsumeFieldValue(number, kind, b)
	}
	if n < 0 {
		return nil, badProto(n)
	}
	return b[n:], nil
}

func badProto(n int) error {
	return fmt.Errorf("%w: the message is not valid protobuf: %w", ErrBadRequest,
		protowire.ParseError(n))
}

// ProtoHead finds the names in a ModelInferRequest, which stand anywhere in it.
func ProtoHead(body []byte) (model, version []byte, err error) {
	var f field
	for len(body) > 0 {
		if body, err = f.read(body); err != nil {
			return nil, nil, err
		}
		switch f.number {
		case reqModel:
			model = f.bytes
		case reqVersion:
			version = f.bytes
		}
	}
	return model, version, nil
}

// DecodeProto reads a ModelInferRequest. What holds for Decode holds here;
// FP16 and BF16 have no typed contents.
func DecodeProto(r *Request, sig *tensor.Signature, body []byte) error {
	r.begin(sig)
	p := protoRequest{r: r, sig: sig}
	r.blobs = r.blobs[:0]
	var f field
	var err error
	for rest := body; len(rest) > 0; {
		if rest, err = f.read(rest); err != nil {
			return err
		}
		switch f.number {
		case reqID:
			if len(f.bytes) > maxID {
				return fmt.Errorf("%w: id is longer than %d bytes", ErrBadRequest, maxID)
			}
			r.ID = f.bytes
		case reqParameters:
			err = p.parameter(f.bytes)
		case reqInputs:
			err = p.input(f.bytes)
		case reqOutputs:
			err = p.output(f.bytes)
		case reqRaw:
			p.raw++
		}
		if err != nil {
			return err
		}
	}
	return p.contents(body)
}

// protoRequest is a ModelInferRequest under way.
type protoRequest struct {
	r     *Request
	sig   *tensor.Signature
	n     int
	raw   int  // raw_input_contents
	typed bool // an input has contents
}

// entry splits a map entry into its key and the value's message.
func entry(b []byte) (key, value []byte, err error) {
	var f field
	for len(b) > 0 {
		if b, err = f.read(b); err != nil {
			return nil, nil, err
		}
		switch f.number {
		case 1:
			key = f.bytes
		case 2:
			value = f.bytes
		}
	}
	return key, value, nil
}

// number reads an InferParameter that must be an integer of 0 or more.
func number(key, value []byte) (uint64, error) {
	var f field
	for len(value) > 0 {
		var err error
		if value, err = f.read(value); err != nil {
			return 0, err
		}
	}
	switch {
	case f.number == paramInt && int64(f.value) >= 0, f.number == paramUint:
		return f.value, nil
	case f.number == paramString:
		s := scanner{buf: f.bytes}
		if v, neg, err := s.integer(); err == nil && !neg && s.pos == len(f.bytes) {
			return v, nil
		}
	}
	return 0, fmt.Errorf("%w: parameter %q must be an integer of 0 or more", ErrBadRequest,
		shorten(key))
}

func (p *protoRequest) parameter(b []byte) error {
	key, value, err := entry(b)
	if err != nil {
		return err
	}
	switch string(key) {
	case "priority":
		p.r.Priority, err = number(key, value)
	case "timeout":
		p.r.TimeoutMicros, err = number(key, value)
	case "sequence_id":
		var f field
		if _, err = f.read(value); err == nil {
			p.r.Sequence = f.value != 0 || len(f.bytes) > 0
		}
	default:
		if strings.HasPrefix(string(key), "triton_") {
			err = fmt.Errorf("%w: parameter %q: names that begin with triton_ are reserved",
				ErrBadRequest, shorten(key))
		}
	}
	return err
}

func (p *protoRequest) input(b []byte) error {
	q := pending{index: p.n, dataAt: -1, binary: -1, spec: -1, hasShape: true}
	if p.n >= len(p.sig.Inputs) {
		return fmt.Errorf("%w: unexpected additional input data for model: it takes %d inputs",
			ErrBadRequest, len(p.sig.Inputs))
	}
	from := len(p.r.shapes)
	var contents []byte
	var f field
	var err error
	for len(b) > 0 {
		if b, err = f.read(b); err != nil {
			return err
		}
		switch f.number {
		case inName:
			q.name = f.bytes
		case inDatatype:
			if q.datatype = tensor.ParseDatatype(f.bytes); q.datatype == tensor.Invalid {
				return fmt.Errorf("%w: inputs[%d].datatype: %q is not a datatype", ErrBadRequest,
					p.n, shorten(f.bytes))
			}
		case inShape:
			if err := p.shape(&f, from); err != nil {
				return err
			}
		case inParameters:
			key, _, err := entry(f.bytes)
			if err == nil && strings.HasPrefix(string(key), "shared_memory_") {
				err = fmt.Errorf("%w: shared memory is not served; send the tensor in the message",
					ErrUnsupported)
			}
			if err != nil {
				return err
			}
		case inContents:
			contents = f.bytes
		}
	}
	q.shape = p.r.shapes[from:len(p.r.shapes):len(p.r.shapes)]
	return p.add(&q, contents)
}

func (p *protoRequest) shape(f *field, from int) error {
	b := f.bytes
	for first := true; first || len(b) > 0; first = false {
		v := f.value
		if f.kind == protowire.BytesType {
			if len(b) == 0 {
				return nil
			}
			var n int
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return badProto(n)
			}
			b = b[n:]
		}
		if int64(v) < 0 || len(p.r.shapes)-from >= tensor.MaxRank {
			return fmt.Errorf("%w: inputs[%d].shape must be at most %d integers of 0 or more",
				ErrBadRequest, p.n, tensor.MaxRank)
		}
		p.r.shapes = append(p.r.shapes, int64(v))
	}
	return nil
}

// add takes an input into the request.
func (p *protoRequest) add(q *pending, contents []byte) error {
	if q.name != nil {
		if q.spec = p.sig.Input(q.name); q.spec < 0 {
			return fmt.Errorf("%w: unexpected inference input '%s' for model: it takes %s",
				ErrBadRequest, shorten(q.name), names(p.sig.Inputs))
		}
	}
	if err := q.check(p.sig); err != nil {
		return err
	}
	t := &p.r.Inputs[q.spec]
	if t.Datatype != tensor.Invalid {
		return fmt.Errorf("%w: input '%s' already exists in request", ErrBadRequest, q.name)
	}
	if _, err := tensor.Elements(q.shape); err != nil {
		return fmt.Errorf("%w: inputs[%d].shape: %w", ErrBadRequest, p.n, err)
	}
	t.Datatype, t.Shape = q.datatype, q.shape
	p.r.blobs = append(p.r.blobs, blob{input: q.spec})
	p.n++
	if len(contents) == 0 {
		return nil
	}
	p.typed = true
	return p.fill(t, contents)
}

func (p *protoRequest) output(b []byte) error {
	o := Output{Index: -1, Binary: true, BinarySet: true}
	var f field
	var err error
	for len(b) > 0 {
		if b, err = f.read(b); err != nil {
			return err
		}
		switch f.number {
		case 1:
			if o.Index, err = p.r.ask(p.sig, f.bytes); err != nil {
				return err
			}
		case 2:
			key, value, err := entry(f.bytes)
			if err != nil {
				return err
			}
			if string(key) == "classification" {
				n, err := number(key, value)
				if err != nil {
					return err
				}
				o.Classes = int(min(n, math.MaxInt32))
			}
			if strings.HasPrefix(string(key), "shared_memory_") {
				return fmt.Errorf(
					"%w: shared memory is not served; the tensor comes in the message",
					ErrUnsupported)
			}
		}
	}
	if o.Index < 0 {
		return fmt.Errorf("%w: outputs[%d] has no name", ErrBadRequest, len(p.r.Outputs))
	}
	p.r.Outputs = append(p.r.Outputs, o)
	return nil
}

// contents takes the raw contents, one for each input in order, or sees to it
// that each input has typed ones.
func (p *protoRequest) contents(body []byte) error {
	if p.raw == 0 {
		for _, b := range p.r.blobs {
			t := &p.r.Inputs[b.input]
			if err := t.Check(); err != nil {
				return fmt.Errorf("%w: input '%s': %w", ErrBadRequest, t.Name, err)
			}
		}
		return nil
	}
	if p.typed {
		return fmt.Errorf("%w: contents field must not be specified when using raw_input_contents",
			ErrBadRequest)
	}
	if p.raw != p.n {
		return fmt.Errorf("%w: expected %d raw_input_contents, one for each input, got %d",
			ErrBadRequest, p.n, p.raw)
	}
	var f field
	var err error
	for i := 0; len(body) > 0; {
		if body, err = f.read(body); err != nil {
			return err
		}
		if f.number != reqRaw {
			continue
		}
		if err := p.r.takeBlob(&p.r.Inputs[p.r.blobs[i].input], f.bytes); err != nil {
			return err
		}
		i++
	}
	return nil
}

// contentsField is the field of InferTensorContents for each datatype.
var contentsField = [...]protowire.Number{
	tensor.Bool: 1, tensor.Int8: 2, tensor.Int16: 2, tensor.Int32: 2, tensor.Int64: 3,
	tensor.Uint8: 4, tensor.Uint16: 4, tensor.Uint32: 4, tensor.Uint64: 5,
	tensor.FP32: 6, tensor.FP64: 7, tensor.Bytes: 8,
}

// fill reads typed contents, packed or not.
func (p *protoRequest) fill(t *tensor.Tensor, b []byte) error {
	want := contentsField[t.Datatype]
	var f field
	var err error
	t.Data, err = p.r.Mem.Alloc(min(len(b)*8, int(p.due(t))))
	if err != nil {
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
		if err := p.elements(t, &f); err != nil {
			return err
		}
	}
	return nil
}

func (p *protoRequest) due(t *tensor.Tensor) int64 {
	n, err := tensor.ByteSize(t.Datatype, t.Shape)
	if err != nil {
		return 0
	}
	return n
}

func (p *protoRequest) elements(t *tensor.Tensor, f *field) error {
	var err error
	if t.Datatype == tensor.Bytes {
		if t.Data, err = p.r.grow(t.Data, 4+len(f.bytes)); err == nil {
			t.Data = tensor.AppendElement(t.Data, f.bytes)
		}
		return err
	}
	packed := f.kind == protowire.BytesType
	if packed && (t.Datatype == tensor.FP32 || t.Datatype == tensor.FP64) {
		if t.Data, err = p.r.grow(t.Data, len(f.bytes)); err == nil {
			t.Data = append(t.Data, f.bytes...)
		}
		return err
	}
	for b := f.bytes; !packed || len(b) > 0; {
		v := f.value
		if packed {
			var n int
			if v, n = protowire.ConsumeVarint(b); n < 0 {
				return badProto(n)
			}
			b = b[n:]
		}
		if t.Data, err = p.r.grow(t.Data, 8); err != nil {
			return err
		}
		if t.Data, err = appendValue(t.Data, t, v); err != nil || !packed {
			return err
		}
	}
	return nil
}

// appendValue appends one integer, bool or unpacked float, within its range.
func appendValue(dst []byte, t *tensor.Tensor, v uint64) ([]byte, error) {
	le := binary.LittleEndian
	switch t.Datatype {
	case tensor.Bool:
		return append(dst, byte(min(v, 1))), nil
	case tensor.FP32:
		return le.AppendUint32(dst, uint32(v)), nil
	case tensor.FP64, tensor.Int64, tensor.Uint64:
		return le.AppendUint64(dst, v), nil
	case tensor.Int8, tensor.Int16, tensor.Int32:
		n := int64(int32(v))
		if bits := 8*t.Datatype.Size() - 1; n < -1<<bits || n >= 1<<bits {
			return dst, fmt.Errorf("%w: input '%s': %d is out of range for %s", ErrBadRequest,
				t.Name, n, t.Datatype)
		}
	default:
		if limit := limits[t.Datatype].max; v > limit {
			return dst, fmt.Errorf("%w: input '%s': %d is out of range for %s", ErrBadRequest,
				t.Name, v, t.Datatype)
		}
	}
	switch t.Datatype.Size() {
	case 1:
		return append(dst, byte(v)), nil
	case 2:
		return le.AppendUint16(dst, uint16(v)), nil
	}
	return le.AppendUint32(dst, uint32(v)), nil
}

// AppendProto appends the ModelInferResponse of an answer, with raw contents.
func AppendProto(dst []byte, r *Request, a *Answer) ([]byte, error) {
	dst = protowire.AppendTag(dst, respModel, protowire.BytesType)
	dst = protowire.AppendString(dst, a.Model)
	dst = protowire.AppendTag(dst, respVersion, protowire.BytesType)
	dst = protowire.AppendString(dst, a.Version)
	if len(r.ID) > 0 {
		dst = protowire.AppendTag(dst, respID, protowire.BytesType)
		dst = protowire.AppendBytes(dst, r.ID)
	}
	e := encoder{r: r, a: a}
	var err error
	e.each(func(o Output) {
		t := &a.Outputs[o.Index]
		if err != nil || t.Datatype == tensor.Invalid {
			return
		}
		if o.Classes > 0 {
			var c tensor.Tensor
			if c, err = Classify(t, o.Classes, a.Sig, o.Index); err != nil {
				return
			}
			e.classes = append(e.classes, c)
			t = &e.classes[len(e.classes)-1]
		}
		dst = appendOutput(dst, t)
	})
	if err != nil {
		return dst, err
	}
	classes := e.classes
	e.each(func(o Output) {
		t := &a.Outputs[o.Index]
		if t.Datatype == tensor.Invalid {
			return
		}
		if o.Classes > 0 {
			t, classes = &classes[0], classes[1:]
		}
		dst = protowire.AppendTag(dst, respRaw, protowire.BytesType)
		dst = protowire.AppendBytes(dst, t.Data)
	})
	return dst, nil
}

// appendOutput appends an InferOutputTensor.
func appendOutput(dst []byte, t *tensor.Tensor) []byte {
	datatype := t.Datatype.String()
	dims := 0
	for _, d := range t.Shape {
		dims += protowire.SizeVarint(uint64(d))
	}
	classNames := ""
	size := 3 + protowire.SizeBytes(len(t.Name)) + protowire.SizeBytes(len(datatype)) +
		protowire.SizeBytes(dims)
	if t.ClassNames != nil {
		classNames = ClassNames(t.ClassNames)
		size += 1 + protowire.SizeBytes(parameterSize(classNames))
	}
	dst = protowire.AppendTag(dst, respOutputs, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = protowire.AppendTag(dst, outName, protowire.BytesType)
	dst = protowire.AppendString(dst, t.Name)
	dst = protowire.AppendTag(dst, outDatatype, protowire.BytesType)
	dst = protowire.AppendString(dst, datatype)
	dst = protowire.AppendTag(dst, outShape, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(dims))
	for _, d := range t.Shape {
		dst = protowire.AppendVarint(dst, uint64(d))
	}
	if t.ClassNames == nil {
		return dst
	}
	dst = protowire.AppendTag(dst, outParameter, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(parameterSize(classNames)))
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendString(dst, classNamesKey)
	dst = protowire.AppendTag(dst, 2, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(1+protowire.SizeBytes(len(classNames))))
	dst = protowire.AppendTag(dst, paramString, protowire.BytesType)
	return protowire.AppendString(dst, classNames)
}

const classNamesKey = "class_names"

// parameterSize returns the bytes of the map entry that carries class names.
func parameterSize(names string) int {
	inner := 1 + protowire.SizeBytes(len(names))
	return 1 + protowire.SizeBytes(len(classNamesKey)) + 1 + protowire.SizeBytes(inner)
}
