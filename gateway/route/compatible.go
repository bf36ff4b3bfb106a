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

// Check holds the endpoints against the versions that find knows, and returns an
// error that lists the arms and shadows whose version is not there, or takes
// other inputs than the stable one. An empty version is the latest.
func (t *Table) Check(find func(model, version []byte) (*tensor.Signature, error)) error {
	var faults []error
	for _, e := range t.Endpoints() {
		stable, err := find(e.Arms[0].Model, e.Arms[0].Version)
		if err != nil {
			faults = append(faults, fmt.Errorf("endpoint %q, %s: %w", e.Name, e.Arms[0].Name, err))
		}
		check := func(what, name string, model, version []byte) {
			sig, err := find(model, version)
			if err == nil && stable != nil {
				err = Compatible(stable, sig)
			}
			if err != nil {
				faults = append(faults,
					fmt.Errorf("endpoint %q, %s %s: %w", e.Name, what, name, err))
			}
		}
		for i := range e.Arms[1:] {
			a := &e.Arms[1+i]
			check("arm", a.Name, a.Model, a.Version)
		}
		for i := range e.Shadows {
			s := &e.Shadows[i]
			check("shadow", s.Name, s.Model, s.Version)
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
