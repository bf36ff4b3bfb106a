package wire

import (
	"fmt"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// DecodeV1 reads a request of KServe's V1 protocol, which is TensorFlow
// Serving's: {"instances": [...]} holds rows, {"inputs": ...} whole tensors.
// Each row is the bare value of the only input, or an object of the values of
// all, by their names or, where the columns of a matrix have names, by those.
// Memory is as with Decode; null is NaN.
func DecodeV1(r *Request, sig *tensor.Signature, body []byte) error {
	t := r.newTable(sig, dialectV1, body)
	if err := t.open('{'); err != nil {
		return err
	}
	var seen struct{ values, signature, parameters bool }
	for first := true; ; first = false {
		key, ok, err := t.key(first)
		if err != nil {
			return err
		}
		if !ok {
			break
		}
		switch string(key) {
		case "instances", "inputs":
			if seen.values {
				return t.fail("the request must have \"instances\" or \"inputs\", once")
			}
			seen.values = true
			if string(key) == "inputs" {
				err = t.tensors()
			} else {
				err = t.instances()
			}
		case "signature_name":
			if err = t.once(&seen.signature, key); err == nil {
				_, err = t.str()
			}
		case "parameters":
			if err = t.once(&seen.parameters, key); err == nil {
				err = t.skip()
			}
		default:
			err = t.skip()
		}
		if err != nil {
			return err
		}
	}
	if !seen.values {
		return fmt.Errorf("%w: the request has neither \"instances\" nor \"inputs\"",
			ErrBadRequest)
	}
	return t.end()
}

// instances reads the row form: a list of objects, or the tensor of the only input.
func (t *table) instances() error {
	if t.next() != '[' {
		return t.unexpected("a list of rows")
	}
	pos := t.pos
	t.pos++
	object := t.next() == '{' && !t.single(t.peekKey())
	t.pos = pos
	if object {
		return t.records()
	}
	if len(t.sig.Inputs) != 1 {
		return t.fail("each row must be an object, for %s", t.expected())
	}
	if err := t.whole(0); err != nil {
		return err
	}
	if d := &t.sinks[0]; d.rank > 0 {
		t.r.Rows = int(d.dims[0])
	}
	return nil
}

// AppendV1 appends the answer to a request that DecodeV1 has read:
// {"predictions": ...}. Of a model with one output it is that tensor; of one
// with several it is a list of rows, objects by the names of the outputs, or an
// object of the tensors where they do not have equally many rows. Strings of an
// output whose name ends in _bytes are {"b64": "..."}. Numbers are as Append
// writes them.
func AppendV1(dst []byte, r *Request, a *Answer, nullNaN bool) ([]byte, error) {
	n := newNesting(r, a, nullNaN)
	n.wrap = true
	dst = append(dst, `{"predictions":`...)
	switch {
	case n.only >= 0:
		dst = n.tensor(dst, n.only)
	case n.rows >= 0:
		dst = n.list(dst)
	default:
		dst = n.object(dst)
	}
	return append(dst, '}'), nil
}
