package values

import (
	"fmt"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// fill returns the shape that n elements have for the input. A dimension that
// the input leaves open takes what is left over; where there are several, the
// first does and the others are 1. got is the shape that the values came in,
// which holds when the input can have it.
func fill(spec *tensor.Spec, n int64, got []int64) ([]int64, error) {
	if elements, err := tensor.Elements(got); err == nil && elements == n &&
		tensor.Fits(got, spec.Shape) {
		return got, nil
	}
	shape := make([]int64, len(spec.Shape))
	fixed, open := int64(1), -1
	for i, dim := range spec.Shape {
		shape[i] = dim
		switch {
		case dim >= 0:
			fixed *= dim
		case open < 0:
			open = i
		default:
			shape[i] = 1
		}
	}
	if open >= 0 && fixed > 0 && n%fixed == 0 && n > 0 {
		shape[open] = n / fixed
		return shape, nil
	}
	if open < 0 && n == fixed {
		return shape, nil
	}
	return nil, fmt.Errorf("%w: input %q takes the shape %s, %d values do not fill it",
		ErrValue, spec.Name, tensor.FormatShape(spec.Shape), n)
}

// build makes the tensor of an input from the texts of its elements.
func build(spec *tensor.Spec, texts []string, got []int64) (tensor.Tensor, error) {
	shape, err := fill(spec, int64(len(texts)), got)
	if err != nil {
		return tensor.Tensor{}, err
	}
	t := tensor.Tensor{Name: spec.Name, Datatype: spec.Datatype, Shape: shape}
	for _, text := range texts {
		if t.Data, err = AppendElement(t.Data, spec.Datatype, text); err != nil {
			return t, fmt.Errorf("input %q: %w", spec.Name, err)
		}
	}
	return t, nil
}
