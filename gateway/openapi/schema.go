package openapi

import (
	"math"
	"slices"

	"github.com/millrace-ml/millrace/runtime/tensor"
)

// element is the JSON Schema of one value that a client sends.
func element(d tensor.Datatype) object {
	integer := func(format string, low, high float64) object {
		return object{"type": "integer", "format": format, "minimum": low, "maximum": high}
	}
	switch d {
	case tensor.Bool:
		return object{"type": "boolean"}
	case tensor.Bytes:
		return object{"type": "string"}
	case tensor.Int8:
		return integer("int8", math.MinInt8, math.MaxInt8)
	case tensor.Int16:
		return integer("int16", math.MinInt16, math.MaxInt16)
	case tensor.Int32:
		return integer("int32", math.MinInt32, math.MaxInt32)
	case tensor.Uint8:
		return integer("uint8", 0, math.MaxUint8)
	case tensor.Uint16:
		return integer("uint16", 0, math.MaxUint16)
	case tensor.Uint32:
		return integer("uint32", 0, math.MaxUint32)
	case tensor.Int64:
		// Its bounds are no numbers that every reader of JSON can hold.
		return object{"type": "integer", "format": "int64"}
	case tensor.Uint64:
		return object{"type": "integer", "format": "uint64", "minimum": 0}
	case tensor.FP32:
		return object{"type": "number", "format": "float"}
	case tensor.FP64:
		return object{"type": "number", "format": "double"}
	}
	return object{"type": "number"}
}

// nullable is element where NaN, which has no form in JSON, may be null: in answers,
// and in requests of the protocols beside the Open Inference Protocol.
func nullable(d tensor.Datatype) object {
	e := element(d)
	if e["type"] == "number" {
		e["type"] = []any{"number", "null"}
	}
	return e
}

// nested is the JSON Schema of nested arrays of that shape.
func nested(shape []int64, leaf object) object {
	schema := leaf
	for i := len(shape) - 1; i >= 0; i-- {
		schema = object{"type": "array", "items": schema}
		if shape[i] >= 0 {
			schema["minItems"], schema["maxItems"] = shape[i], shape[i]
		}
	}
	return schema
}

// loose is nested, where one value alone needs no array around it.
func loose(shape []int64, leaf object) object {
	if len(shape) == 1 && shape[0] == 1 {
		return object{"anyOf": []any{leaf, nested(shape, leaf)}}
	}
	return nested(shape, leaf)
}

// list is the JSON Schema of an array of 1 to most items; 0 for any number.
func list(items object, most int) object {
	schema := object{"type": "array", "items": items, "minItems": 1}
	if most > 0 {
		schema["maxItems"] = most
	}
	return schema
}

// record is the JSON Schema of an object with these properties.
func record(properties object, required ...string) object {
	schema := object{"type": "object", "properties": properties}
	if len(required) > 0 {
		schema["required"] = required
	}
	return schema
}

// extents is the JSON Schema of the shape of any tensor of that rank.
func extents(rank int) object {
	return object{"type": "array", "minItems": rank, "maxItems": rank,
		"items": object{"type": "integer", "minimum": 0}}
}

// shapeOf is the JSON Schema of the shape of an input.
func shapeOf(s *tensor.Spec) object {
	schema := extents(len(s.Shape))
	dims := make([]any, len(s.Shape))
	for i, d := range s.Shape {
		switch {
		case i == rowAxis(s): // a request has a row at least
			dims[i] = object{"type": "integer", "minimum": 1, "default": 1}
		case d < 0:
			dims[i] = object{"type": "integer", "minimum": 0, "default": 1}
		default:
			dims[i] = object{"const": d}
		}
	}
	if len(dims) > 0 {
		schema["prefixItems"] = dims
	}
	return schema
}

// sent is the JSON Schema of an input in the Open Inference Protocol.
func sent(s *tensor.Spec) object {
	leaf := element(s.Datatype)
	data := object{"type": "array", "items": leaf}
	if n, err := tensor.Elements(ones(s.Shape)); err == nil {
		data["minItems"] = n
	}
	if len(s.Shape) > 1 {
		data = object{"anyOf": []any{data, nested(s.Shape, leaf)}}
	}
	return record(object{
		"name": object{"const": s.Name}, "datatype": object{"const": s.Datatype.String()},
		"shape": shapeOf(s), "data": data, "parameters": reference("schemas", "Parameters"),
	}, "name", "datatype", "shape", "data")
}

// received is the JSON Schema of an output in the Open Inference Protocol.
func received(s *tensor.Spec) object {
	return record(object{
		"name": object{"const": s.Name}, "datatype": object{"const": s.Datatype.String()},
		"shape":      extents(len(s.Shape)),
		"data":       object{"type": "array", "items": nullable(s.Datatype)},
		"parameters": reference("schemas", "Parameters"),
	}, "name", "datatype", "shape")
}

// ones returns the shape with 1 for each variable dimension.
func ones(shape []int64) []int64 {
	out := slices.Clone(shape)
	for i, d := range out {
		if d < 0 {
			out[i] = 1
		}
	}
	return out
}

// anyOf is the JSON Schema of values that fit one of the schemas, or of any value
// where there are none.
func anyOf(schemas []any) any {
	switch len(schemas) {
	case 0:
		return object{}
	case 1:
		return schemas[0]
	}
	return object{"anyOf": schemas}
}
