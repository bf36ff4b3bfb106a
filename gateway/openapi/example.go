package openapi

import (
	"bytes"
	"encoding/json"
	"math"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// maxExample is how many elements an input of an example may have: a picture as
// JSON is more than people can read and makes the document slow to load.
const maxExample = 1024

// field is one field of a JSON object.
type field struct {
	name  string
	value any
}

// fields is a JSON object that keeps the order of its fields: people read names
// before values.
type fields []field

// MarshalJSON writes the fields in their order.
func (f fields) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i := range f {
		if i > 0 {
			b.WriteByte(',')
		}
		for _, part := range []any{f[i].name, f[i].value} {
			text, err := json.Marshal(part)
			if err != nil {
				return nil, err
			}
			b.Write(text)
			b.WriteByte(':')
		}
		b.Truncate(b.Len() - 1)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// typical returns a value that most models take: 0 is in the range of every index.
func (f *feature) typical() any {
	switch {
	case f.datatype == tensor.Bool:
		return false
	case f.datatype == tensor.Bytes:
		return "a"
	case f.whole:
		return 0
	}
	return 0.5
}

// filled returns nested arrays of the shape.
func filled(shape []int64, v any) any {
	if len(shape) == 0 {
		return v
	}
	all := make([]any, shape[0])
	for i := range all {
		all[i] = filled(shape[1:], v)
	}
	return all
}

// fitting returns a value of an example as nested arrays of a shape that want
// allows; ok is false where it does not fit.
func fitting(v any, want []int64, d tensor.Datatype) (_ any, ok bool) {
	if _, isList := v.([]any); !isList && len(want) == 1 {
		v = []any{v}
	}
	shape := extent(v)
	return v, tensor.Fits(shape, want) && holds(v, shape, d)
}

// extent returns the shape of nested arrays by their first elements.
func extent(v any) []int64 {
	shape := []int64{}
	for {
		all, ok := v.([]any)
		if !ok {
			return shape
		}
		shape = append(shape, int64(len(all)))
		if len(all) == 0 {
			return shape
		}
		v = all[0]
	}
}

// holds says whether v is nested arrays of exactly that shape and datatype.
func holds(v any, shape []int64, d tensor.Datatype) bool {
	all, isList := v.([]any)
	if len(shape) == 0 {
		return !isList && isElement(v, d)
	}
	if !isList || int64(len(all)) != shape[0] {
		return false
	}
	for _, e := range all {
		if !holds(e, shape[1:], d) {
			return false
		}
	}
	return true
}

func isElement(v any, d tensor.Datatype) bool {
	schema := element(d)
	switch v := v.(type) {
	case bool:
		return schema["type"] == "boolean"
	case string:
		return schema["type"] == "string"
	case int:
		return inRange(float64(v), schema)
	case int64:
		return inRange(float64(v), schema)
	case uint64:
		return inRange(float64(v), schema)
	case float64:
		return inRange(v, schema)
	}
	return false
}

func inRange(v float64, schema object) bool {
	switch schema["type"] {
	case "number":
		return !math.IsNaN(v) && !math.IsInf(v, 0)
	case "integer":
		low, bounded := schema["minimum"].(float64)
		high, _ := schema["maximum"].(float64)
		return v == math.Trunc(v) && (!bounded || low <= v && v <= high)
	}
	return false
}

// flat appends the elements of nested arrays, row by row.
func flat(dst []any, v any) []any {
	all, ok := v.([]any)
	if !ok {
		return append(dst, v)
	}
	for _, e := range all {
		dst = flat(dst, e)
	}
	return dst
}

// withAxis puts an axis of one element around v at that depth.
func withAxis(v any, axis int) any {
	all, ok := v.([]any)
	if axis <= 0 || !ok {
		return []any{v}
	}
	out := make([]any, len(all))
	for i, e := range all {
		out[i] = withAxis(e, axis-1)
	}
	return out
}
