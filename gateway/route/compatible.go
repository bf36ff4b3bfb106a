package route

import (
	"errors"
	"fmt"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// Compatible returns an error when a request that the stable version takes may
// not be one that the other takes: an input is not there, or has another
// datatype, rank or fixed dimension, or must be given and stable does not want
// it. A dimension that is variable on either side fits. The error lists all.
func Compatible(stable, other *tensor.Signature) error {
	var faults []error
	for i := range stable.Inputs {
		in := &stable.Inputs[i]
		j := other.Input([]byte(in.Name))
		if j < 0 {
			faults = append(faults, fmt.Errorf("stable (model %q) takes input %q, %s; "+
				"the other (model %q) has no such input", stable.Model, in.Name, kind(in),
				other.Model))
			continue
		}
		if to := &other.Inputs[j]; !accepts(to, in) {
			faults = append(faults, fmt.Errorf("stable (model %q) takes input %q as %s; "+
				"the other (model %q) takes it as %s", stable.Model, in.Name, kind(in), other.Model,
				kind(to)))
		}
	}
	for i := range other.Inputs {
		in := &other.Inputs[i]
		if !in.Optional && stable.Input([]byte(in.Name)) < 0 {
			faults = append(faults, fmt.Errorf("stable (model %q) has no input %q; "+
				"the other (model %q) needs it, %s", stable.Model, in.Name, other.Model, kind(in)))
		}
	}
	return errors.Join(faults...)
}

// accepts says whether an input takes what another one does.
func accepts(to, from *tensor.Spec) bool {
	if to.Datatype != from.Datatype || len(to.Shape) != len(from.Shape) ||
		from.Optional && !to.Optional {
		return false
	}
	for i, d := range to.Shape {
		if d >= 0 && from.Shape[i] >= 0 && d != from.Shape[i] {
			return false
		}
	}
	return true
}

// kind describes an input for people.
func kind(in *tensor.Spec) string {
	need := "required"
	if in.Optional {
		need = "optional"
	}
	return fmt.Sprintf("%s %s %s", need, in.Datatype, tensor.FormatShape(in.Shape))
}
