package wire

import (
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

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
	paramDouble, paramUint                       = 4, 5
	respModel, respVersion, respID               = 1, 2, 3
	respParameters, respOutputs, respRaw         = 4, 5, 6
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
		if f.kind != protowire.BytesType {
			continue // as any field that the message does not have
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

// ProtoID finds the id of a ModelInferRequest that may be a bad one: nil where
// the message is broken before the id, or the id may not come back.
func ProtoID(body []byte) []byte {
	var f field
	var err error
	for len(body) > 0 {
		if body, err = f.read(body); err != nil {
			return nil
		}
		if f.number != reqID || f.kind != protowire.BytesType {
			continue
		}
		if checkID(f.bytes) != nil {
			return nil
		}
		return f.bytes
	}
	return nil
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
		if f.kind != protowire.BytesType {
			continue
		}
		switch f.number {
		case reqID:
			r.ID, err = f.bytes, checkID(f.bytes)
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
	raw   int    // raw_input_contents
	typed string // the first input that has contents
}

// checkID says why an id may not come back in the answer.
func checkID(b []byte) error {
	switch {
	case len(b) > maxID:
		return fmt.Errorf("%w: id is longer than %d bytes", ErrBadRequest, maxID)
	case !utf8.Valid(b):
		return fmt.Errorf("%w: id is not valid UTF-8", ErrBadRequest)
	}
	return nil
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
		for len(value) > 0 && err == nil {
			value, err = f.read(value)
		}
		p.r.Sequence = f.value != 0 || len(f.bytes) > 0
	case "triton_enable_empty_final_response": // every answer is one, and none is empty
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
		return tooManyInputs(p.sig)
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
	if f.kind != protowire.BytesType && f.kind != protowire.VarintType {
		return fmt.Errorf("%w: inputs[%d].shape is not encoded as integers", ErrBadRequest, p.n)
	}
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
			return badShape(p.n)
		}
		p.r.shapes = append(p.r.shapes, int64(v))
	}
	return nil
}

// add takes an input into the request.
func (p *protoRequest) add(q *pending, contents []byte) error {
	if q.name != nil {
		if q.spec = p.sig.Input(q.name); q.spec < 0 {
			return noInput(p.sig, q.name)
		}
	}
	if err := q.check(p.sig); err != nil {
		return err
	}
	t := &p.r.Inputs[q.spec]
	if t.Datatype != tensor.Invalid {
		return fmt.Errorf("%w: input '%s' already exists in request", ErrBadRequest, q.name)
	}
	size, err := tensor.ByteSize(q.datatype, q.shape)
	if err != nil {
		return fmt.Errorf("%w: inputs[%d].shape: %w", ErrBadRequest, p.n, err)
	}
	t.Datatype, t.Shape = q.datatype, q.shape
	p.r.blobs = append(p.r.blobs, blob{input: q.spec})
	p.n++
	if len(contents) == 0 {
		return nil
	}
	if p.typed == "" {
		p.typed = t.Name
	}
	return p.fill(t, contents, size)
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
			if t.Data == nil { // no elements; even they have an address
				var err error
				if t.Data, err = p.r.Mem.Alloc(0); err != nil {
					return err
				}
			}
		}
		return nil
	}
	if p.typed != "" {
		return fmt.Errorf("%w: contents field must not be specified when using "+
			"raw_input_contents for '%s' for model '%s'", ErrBadRequest, p.typed, p.sig.Model)
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
