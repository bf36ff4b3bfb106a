package values

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// FromList reads the values of one input from "1,2,3" or from JSON.
func FromList(spec *tensor.Spec, text string) (tensor.Tensor, error) {
	trimmed := strings.TrimSpace(text)
	if strings.HasPrefix(trimmed, "[") {
		value, err := decodeJSON([]byte(trimmed))
		if err != nil {
			return tensor.Tensor{}, fmt.Errorf("input %q: %w", spec.Name, err)
		}
		return fromValue(spec, value)
	}
	return build(spec, strings.Split(text, ","), nil)
}

// FromJSON reads the values of a model's inputs: a request of the protocol
// ({"inputs": [...]}), an object of lists by input name, a list of such
// objects with one value an input, or bare values for a model of one input.
func FromJSON(specs []tensor.Spec, text []byte) ([]tensor.Tensor, error) {
	value, err := decodeJSON(text)
	if err != nil {
		return nil, err
	}
	switch v := value.(type) {
	case map[string]any:
		if inputs, ok := v["inputs"].([]any); ok && isRequest(inputs) {
			return fromRequest(specs, inputs)
		}
		return fromObject(specs, v)
	case []any:
		if len(v) > 0 {
			if _, ok := v[0].(map[string]any); ok {
				return fromRows(specs, v)
			}
		}
	}
	if len(specs) != 1 {
		return nil,
			fmt.Errorf("%w: the model has the inputs %s; give an object with a list for each",
				ErrValue, names(specs))
	}
	t, err := fromValue(&specs[0], value)
	return []tensor.Tensor{t}, err
}

func decodeJSON(text []byte) (any, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, fmt.Errorf("%w: not JSON: %w", ErrValue, err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, fmt.Errorf("%w: more than one JSON value", ErrValue)
	}
	return v, nil
}

func names(specs []tensor.Spec) string {
	list := make([]string, len(specs))
	for i := range specs {
		list[i] = specs[i].Name
	}
	return strings.Join(list, ", ")
}

// Find returns the input of that name.
func Find(specs []tensor.Spec, name string) (*tensor.Spec, error) {
	for i := range specs {
		if specs[i].Name == name {
			return &specs[i], nil
		}
	}
	return nil, fmt.Errorf("%w: the model has no input %q; its inputs are %s", ErrValue, name,
		names(specs))
}

// isRequest tells the inputs of a request from the values of an input that is
// itself named inputs.
func isRequest(inputs []any) bool {
	if len(inputs) == 0 {
		return false
	}
	_, ok := inputs[0].(map[string]any)
	return ok
}

func fromRequest(specs []tensor.Spec, inputs []any) ([]tensor.Tensor, error) {
	var tensors []tensor.Tensor
	for i, in := range inputs {
		object, _ := in.(map[string]any)
		name, _ := object["name"].(string)
		spec, err := Find(specs, name)
		if err != nil {
			return nil, fmt.Errorf("inputs[%d]: %w", i, err)
		}
		data, ok := object["data"]
		if !ok {
			return nil, fmt.Errorf("%w: input %q has no data", ErrValue, name)
		}
		t, err := fromValue(spec, data)
		if err != nil {
			return nil, err
		}
		if list, ok := object["shape"].([]any); ok {
			if t.Shape, err = requestShape(spec, list, &t); err != nil {
				return nil, err
			}
		}
		tensors = append(tensors, t)
	}
	return tensors, nil
}

// requestShape reads the shape of an input in a request of the protocol.
func requestShape(spec *tensor.Spec, list []any, t *tensor.Tensor) ([]int64, error) {
	shape := make([]int64, len(list))
	for i, dim := range list {
		number, _ := dim.(json.Number)
		n, err := number.Int64()
		if err != nil {
			return nil, fmt.Errorf("%w: input %q: shape[%d] is not a whole number", ErrValue,
				spec.Name, i)
		}
		shape[i] = n
	}
	checked := *t
	checked.Shape = shape
	if err := checked.Check(); err != nil {
		return nil, fmt.Errorf("%w: input %q: %w", ErrValue, spec.Name, err)
	}
	return shape, nil
}

func fromObject(specs []tensor.Spec, object map[string]any) ([]tensor.Tensor, error) {
	var tensors []tensor.Tensor
	for _, name := range slices.Sorted(maps.Keys(object)) {
		spec, err := Find(specs, name)
		if err != nil {
			return nil, err
		}
		t, err := fromValue(spec, object[name])
		if err != nil {
			return nil, err
		}
		tensors = append(tensors, t)
	}
	return tensors, nil
}

func fromRows(specs []tensor.Spec, rows []any) ([]tensor.Tensor, error) {
	columns := make(map[string]any)
	for i, r := range rows {
		row, ok := r.(map[string]any)
		if !ok {
			return nil, fmt.Errorf("%w: row %d is not an object", ErrValue, i)
		}
		for name, value := range row {
			column, _ := columns[name].([]any)
			if len(column) != i {
				return nil, fmt.Errorf("%w: row %d has no value for %q", ErrValue, len(column),
					name)
			}
			columns[name] = append(column, value)
		}
	}
	for name, column := range columns {
		if n := len(column.([]any)); n < len(rows) {
			return nil, fmt.Errorf("%w: row %d has no value for %q", ErrValue, n, name)
		}
	}
	return fromObject(specs, columns)
}

// fromValue makes the tensor of an input from decoded JSON.
func fromValue(spec *tensor.Spec, value any) (tensor.Tensor, error) {
	n := nested{datatype: spec.Datatype}
	if err := n.flatten(value, 0); err != nil {
		return tensor.Tensor{}, fmt.Errorf("input %q: %w", spec.Name, err)
	}
	return build(spec, n.texts, n.shape)
}

// maxNesting bounds the rank of a nested list.
const maxNesting = 32

// nested is what was found in nested lists so far.
type nested struct {
	datatype tensor.Datatype
	texts    []string // of the leaves
	shape    []int64
}

// flatten appends the leaves of nested lists and finds their shape.
func (n *nested) flatten(value any, depth int) error {
	list, ok := value.([]any)
	if !ok {
		if depth < len(n.shape) {
			return fmt.Errorf("%w: the lists are not of one depth", ErrValue)
		}
		text, err := n.leaf(value)
		n.texts = append(n.texts, text)
		return err
	}
	if depth == maxNesting {
		return fmt.Errorf("%w: lists are nested deeper than %d", ErrValue, maxNesting)
	}
	if depth == len(n.shape) {
		if len(n.texts) > 0 {
			return fmt.Errorf("%w: the lists are not of one depth", ErrValue)
		}
		n.shape = append(n.shape, int64(len(list)))
	}
	if n.shape[depth] != int64(len(list)) {
		return fmt.Errorf("%w: the lists are not of one length: %d and %d", ErrValue,
			n.shape[depth], len(list))
	}
	for _, v := range list {
		if err := n.flatten(v, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func (n *nested) leaf(value any) (string, error) {
	switch v := value.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	case bool:
		return fmt.Sprint(v), nil
	case nil:
		if n.datatype == tensor.Bytes {
			return "", fmt.Errorf("%w: null stands where a string is due", ErrValue)
		}
		return "NaN", nil
	}
	return "", fmt.Errorf("%w: an object stands where a value is due", ErrValue)
}
