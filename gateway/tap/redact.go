package tap

import (
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// redaction knows which fields are left out.
type redaction struct {
	inputs, outputs map[string]bool // names
	id, label       bool
}

func newRedaction(fields []string) redaction {
	r := redaction{inputs: make(map[string]bool), outputs: make(map[string]bool)}
	for _, field := range fields {
		r.inputs[field], r.outputs[field] = true, true
		if name, ok := strings.CutPrefix(field, "input."); ok {
			r.inputs[name] = true
		}
		if name, ok := strings.CutPrefix(field, "output."); ok {
			r.outputs[name] = true
		}
		r.id = r.id || field == "id"
		r.label = r.label || field == "label"
	}
	return r
}

// apply returns the record without what is redacted. A sample becomes a view
// of itself, valid as long as it and until the next call.
func (d *redaction) apply(r Record, view *Sample) Record {
	if len(d.inputs) == 0 {
		return r
	}
	if f := r.Feedback; f != nil {
		plain := *f
		if d.id {
			plain.ID = ""
		}
		if d.label {
			plain.Label = nil
		}
		return Record{Feedback: &plain}
	}
	inputs, outputs := view.Inputs[:0], view.Outputs[:0]
	*view = *r.Sample
	view.Inputs = without(inputs, view.Inputs, d.inputs)
	view.Outputs = without(outputs, view.Outputs, d.outputs)
	if d.id {
		view.ID = nil
	}
	return Record{Sample: view}
}

// without appends the tensors to dst, those with one of the names bare.
func without(dst, tensors []tensor.Tensor, names map[string]bool) []tensor.Tensor {
	for _, t := range tensors {
		if names[t.Name] {
			t.Data, t.Shape = nil, nil
		}
		dst = append(dst, t)
	}
	return dst
}
