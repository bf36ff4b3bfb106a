package wire

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// maxID bounds request ids, which come back in the answer.
const maxID = 4096

// Decode reads a request of the Open Inference Protocol. jsonLen is the length
// of the JSON part, behind which the binary tensors follow; -1 says that all
// of body is JSON. Names, ids and strings in r alias body; tensor data is
// copied into r.Mem, once. Missing inputs and shapes that the model does not
// take are not its concern.
//
// FP16 and BF16 are taken as numbers as well (Triton takes them as blobs only).
func Decode(r *Request, sig *tensor.Signature, body []byte, jsonLen int) error {
	r.begin(sig)
	blobs := []byte(nil)
	r.scan.buf = body
	if jsonLen >= 0 {
		if jsonLen > len(body) {
			return fmt.Errorf("%w: the JSON part is longer than the body", ErrBadRequest)
		}
		r.scan.buf, blobs = body[:jsonLen], body[jsonLen:]
	}
	if err := r.object(sig); err != nil {
		return err
	}
	s := &r.scan
	if s.next(); s.pos < len(s.buf) {
		return s.fail("unexpected %q after the request", s.buf[s.pos])
	}
	return r.takeBlobs(sig, blobs, jsonLen >= 0)
}

// object reads the request's object.
func (r *Request) object(sig *tensor.Signature) error {
	s := &r.scan
	if err := s.open('{'); err != nil {
		return err
	}
	var seen struct{ id, parameters, inputs, outputs bool }
	for first := true; ; first = false {
		key, ok, err := s.key(first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch string(key) {
		case "id":
			if err = s.once(&seen.id, key); err == nil {
				err = r.readID()
			}
		case "parameters":
			if err = s.once(&seen.parameters, key); err == nil {
				err = r.parameters()
			}
		case "inputs":
			if err = s.once(&seen.inputs, key); err == nil {
				err = r.inputs(sig)
			}
		case "outputs":
			if err = s.once(&seen.outputs, key); err == nil {
				err = r.outputs(sig)
			}
		default:
			err = s.skip()
		}
		if err != nil {
			return err
		}
	}
	if !seen.inputs {
		return fmt.Errorf("%w: the request has no \"inputs\"", ErrBadRequest)
	}
	return nil
}

// once notes that a key was seen, which may stand in the request only once.
func (s *scanner) once(seen *bool, key []byte) error {
	if *seen {
		return s.fail("%q stands twice", key)
	}
	*seen = true
	return nil
}

func (r *Request) readID() error {
	id, err := r.scan.str()
	if err != nil {
		return err
	}
	if len(id) > maxID {
		return fmt.Errorf("%w: id is longer than %d bytes", ErrBadRequest, maxID)
	}
	r.ID = id
	return nil
}

// parameters reads the request's own.
func (r *Request) parameters() error {
	s := &r.scan
	if err := s.open('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		key, ok, err := s.key(first)
		if !ok {
			return err
		}
		switch string(key) {
		case "priority":
			r.Priority, err = s.count(key)
		case "timeout":
			r.TimeoutMicros, err = s.count(key)
		case "binary_data_output":
			r.BinaryOutput, err = s.boolean(key)
		case "sequence_id":
			r.Sequence, err = s.sequenceID()
		default:
			if strings.HasPrefix(string(key), "triton_") {
				return s.fail("parameter %q: names that begin with triton_ are reserved",
					shorten(key))
			}
			err = s.scalar(key)
		}
		if err != nil {
			return err
		}
	}
}

// count reads a number that is not negative, as a number or as a string.
func (s *scanner) count(key []byte) (uint64, error) {
	if s.next() == '"' {
		text, err := s.str()
		if err != nil {
			return 0, err
		}
		v, err := strconv.ParseUint(string(text), 10, 64)
		if err != nil {
			return 0, s.fail("parameter %q must be a number", shorten(key))
		}
		return v, nil
	}
	v, neg, err := s.integer()
	if err == errRange || err == errFraction || neg {
		return 0, s.fail("parameter %q must be an integer of 0 or more", shorten(key))
	}
	return v, err
}

func (s *scanner) boolean(key []byte) (bool, error) {
	switch s.next() {
	case 't':
		return true, s.word("true")
	case 'f':
		return false, s.word("false")
	}
	return false, s.fail("parameter %q must be true or false", shorten(key))
}

// sequenceID says whether a sequence is named: 0 and "" name none.
func (s *scanner) sequenceID() (bool, error) {
	if s.next() == '"' {
		id, err := s.str()
		return len(id) > 0, err
	}
	id, err := s.count([]byte("sequence_id"))
	return id != 0, err
}

// scalar passes over a parameter that nobody asks for, which must be one.
func (s *scanner) scalar(key []byte) error {
	if c := s.next(); c == '{' || c == '[' || c == 'n' {
		return s.fail("parameter %q must be a string, a number, true or false", shorten(key))
	}
	return s.skip()
}

// pending is an input or output under way: what was read before its name was.
type pending struct {
	index    int // into the request's array
	name     []byte
	datatype tensor.Datatype
	shape    []int64
	hasShape bool
	dataAt   int // where data begins, -1 where there is none
	read     bool
	binary   int64 // binary_data_size, -1 for none
	base64   bool
	spec     int // into Signature, -1 before it is known
}

func (r *Request) inputs(sig *tensor.Signature) error {
	s := &r.scan
	if err := s.open('['); err != nil {
		return err
	}
	for i := 0; ; i++ {
		if ok, err := s.more(']', i == 0); !ok {
			return err
		}
		if i >= len(sig.Inputs) {
			return tooManyInputs(sig)
		}
		if err := r.input(sig, i); err != nil {
			return err
		}
	}
}

// input reads one input's object. Its keys may stand in any order: data that
// comes before the name, datatype or shape is passed over and read afterwards.
func (r *Request) input(sig *tensor.Signature, i int) error {
	s := &r.scan
	p := pending{index: i, dataAt: -1, binary: -1, spec: -1}
	if err := s.open('{'); err != nil {
		return err
	}
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
			err = r.inputName(sig, &p)
		case "datatype":
			err = r.datatype(&p)
		case "shape":
			err = r.shape(&p)
		case "parameters":
			err = r.inputParameters(&p)
		case "data":
			err = r.inputData(sig, &p)
		default:
			err = s.skip()
		}
		if err != nil {
			return err
		}
	}
	return r.endInput(sig, &p)
}

func (r *Request) inputName(sig *tensor.Signature, p *pending) error {
	s := &r.scan
	name, err := s.str()
	if err != nil {
		return err
	}
	if p.name != nil {
		return s.fail("inputs[%d] has two names", p.index)
	}
	p.name = name
	if p.spec = sig.Input(name); p.spec < 0 {
		return noInput(sig, name)
	}
	if r.Inputs[p.spec].Datatype != tensor.Invalid {
		return fmt.Errorf("%w: input '%s' already exists in request", ErrBadRequest, name)
	}
	return nil
}

// names lists the names of a signature for an error text.
func names(specs []tensor.Spec) string {
	var b strings.Builder
	for i := range specs {
		if i == 16 {
			fmt.Fprintf(&b, " and %d more", len(specs)-i)
			break
		}
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString("'" + specs[i].Name + "'")
	}
	return b.String()
}

func (r *Request) datatype(p *pending) error {
	name, err := r.scan.str()
	if err != nil {
		return err
	}
	if p.datatype != tensor.Invalid {
		return r.scan.fail("inputs[%d] has two datatypes", p.index)
	}
	if p.datatype = tensor.ParseDatatype(name); p.datatype == tensor.Invalid {
		return fmt.Errorf("%w: inputs[%d].datatype: %q is not a datatype", ErrBadRequest, p.index,
			shorten(name))
	}
	return nil
}

func (r *Request) shape(p *pending) error {
	s := &r.scan
	if p.hasShape {
		return s.fail("inputs[%d] has two shapes", p.index)
	}
	p.hasShape = true
	from := len(r.shapes)
	if err := s.open('['); err != nil {
		return err
	}
	for first := true; ; first = false {
		ok, err := s.more(']', first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		v, neg, err := s.integer()
		if err != nil || neg || v > 1<<62 || len(r.shapes)-from >= tensor.MaxRank {
			return badShape(p.index)
		}
		r.shapes = append(r.shapes, int64(v))
	}
	p.shape = r.shapes[from:len(r.shapes):len(r.shapes)]
	return nil
}

// badShape begins as the text of Triton does, which clients look for.
func badShape(input int) error {
	return fmt.Errorf("%w: Unable to parse 'shape': inputs[%d].shape must be at most %d integers "+
		"of 0 or more", ErrBadRequest, input, tensor.MaxRank)
}

func (r *Request) inputParameters(p *pending) error {
	s := &r.scan
	if err := s.open('{'); err != nil {
		return err
	}
	for first := true; ; first = false {
		key, ok, err := s.key(first)
		if !ok {
			return err
		}
		switch string(key) {
		case "binary_data_size":
			var n uint64
			if n, err = s.count(key); n > 1<<40 {
				return s.fail("binary_data_size %d is impossible", n)
			}
			p.binary = int64(n)
		case "content_type":
			var kind []byte
			kind, err = s.str()
			if base64 := string(kind) == "base64"; base64 != p.base64 {
				p.base64, p.read = base64, false // data that came before is to be read again
			}
		case "shared_memory_region", "shared_memory_offset", "shared_memory_byte_size":
			return fmt.Errorf("%w: shared memory is not served; send the tensor in the body",
				ErrUnsupported)
		default:
			err = s.scalar(key)
		}
		if err != nil {
			return err
		}
	}
}

func (r *Request) inputData(sig *tensor.Signature, p *pending) error {
	s := &r.scan
	if p.dataAt >= 0 {
		return s.fail("inputs[%d] has data twice", p.index)
	}
	s.next()
	p.dataAt = s.pos
	if p.spec >= 0 && p.datatype != tensor.Invalid && p.hasShape {
		p.read = true
		return r.fill(sig, p)
	}
	return s.skip()
}

func tooManyInputs(sig *tensor.Signature) error {
	return fmt.Errorf("%w: unexpected additional input data for model '%s': it takes %d inputs",
		ErrBadRequest, sig.Model, len(sig.Inputs))
}

func noInput(sig *tensor.Signature, name []byte) error {
	return fmt.Errorf("%w: unexpected inference input '%s' for model '%s': it takes %s",
		ErrBadRequest, shorten(name), sig.Model, names(sig.Inputs))
}

// check holds what is known of an input against the signature.
func (p *pending) check(sig *tensor.Signature) error {
	switch {
	case p.name == nil:
		return fmt.Errorf("%w: inputs[%d] has no name", ErrBadRequest, p.index)
	case p.datatype == tensor.Invalid:
		return fmt.Errorf("%w: inputs[%d] ('%s') has no datatype", ErrBadRequest, p.index, p.name)
	case !p.hasShape:
		return fmt.Errorf("%w: inputs[%d] ('%s') has no shape", ErrBadRequest, p.index, p.name)
	case p.datatype != sig.Inputs[p.spec].Datatype:
		return fmt.Errorf("%w: inference input '%s' data-type is '%s', but model '%s' expects '%s'",
			ErrBadRequest, p.name, p.datatype, sig.Model, sig.Inputs[p.spec].Datatype)
	}
	return nil
}

// fill reads the data of an input, at which the scanner stands.
func (r *Request) fill(sig *tensor.Signature, p *pending) error {
	if err := p.check(sig); err != nil {
		return err
	}
	n, err := tensor.Elements(p.shape)
	if err != nil {
		return fmt.Errorf("%w: inputs[%d].shape: %w", ErrBadRequest, p.index, err)
	}
	if _, err := tensor.ByteSize(p.datatype, p.shape); err != nil {
		return fmt.Errorf("%w: byte size overflow for input '%s': %w", ErrBadRequest, p.name, err)
	}
	s := &r.scan
	// Each element takes two bytes of JSON or more: a count that cannot be there
	// is refused before memory is taken for it.
	if n > int64(len(s.buf)-s.pos)/2 {
		return fmt.Errorf("%w: inputs[%d].data has fewer elements than the %d of shape %s",
			ErrBadRequest, p.index, n, tensor.FormatShape(p.shape))
	}
	d := data{scanner: s, input: p.index, datatype: p.datatype, n: n, base64: p.base64, r: r}
	if p.datatype == tensor.Bytes {
		d.dst, err = r.Mem.Alloc(int(n) * 16)
		d.dst = d.dst[:0]
	} else {
		d.dst, err = r.Mem.Alloc(int(n) * p.datatype.Size())
	}
	if err != nil {
		return err
	}
	if err := d.array(); err != nil {
		return err
	}
	if d.got != n {
		return fmt.Errorf("%w: inputs[%d].data has %d elements, shape %s has %d",
			ErrBadRequest, p.index, d.got, tensor.FormatShape(p.shape), n)
	}
	t := &r.Inputs[p.spec]
	t.Datatype, t.Shape, t.Data = p.datatype, p.shape, d.dst
	return nil
}

// endInput finishes an input whose object was read.
func (r *Request) endInput(sig *tensor.Signature, p *pending) error {
	if err := p.check(sig); err != nil {
		return err
	}
	if p.dataAt >= 0 && p.binary >= 0 {
		return fmt.Errorf("%w: inputs[%d] ('%s') has both data and binary_data_size",
			ErrBadRequest, p.index, p.name)
	}
	switch {
	case p.read:
		return nil
	case p.dataAt >= 0:
		s := &r.scan
		end, depth := s.pos, s.depth
		s.pos, s.depth = p.dataAt, depth+1
		err := r.fill(sig, p)
		s.pos, s.depth = end, depth
		return err
	}
	t := &r.Inputs[p.spec]
	t.Datatype, t.Shape = p.datatype, p.shape
	r.blobs = append(r.blobs, blob{p.spec, p.binary})
	return nil
}
