package delivery_test

import (
	"encoding/binary"
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// never is a limit that no input reaches.
const never = 1e30

// adds makes a model in ONNX: y = x + add, both FP32 [n, 1], which fails where x is above limit,
// as it looks up a place then that is not there.
func adds(add, limit float32) []byte {
	const float, int64s = 1, 7
	graph := node("Greater", "x limit", "above") +
		node("Cast", "above", "place01", field(1, "to")+number(3, int64s)+number(20, 2)) +
		node("Mul", "place01 far", "place") +
		node("Gather", "zeros place", "zero") +
		node("Add", "x add", "sum") +
		node("Add", "sum zero", "y") +
		field(2, "adds") +
		weight("limit", float, nil, math.Float32bits(limit)) +
		weight("far", int64s, nil, 1000, 0) + // little-endian halves
		weight("zeros", float, []uint64{1}, 0) +
		weight("add", float, nil, math.Float32bits(add)) +
		value(11, "x") + value(12, "y")
	return []byte(number(1, 8) + field(7, graph) + field(8, number(2, 17)))
}

// field is a field of a protobuf message, by the number that it has in ONNX.
func field(n protowire.Number, value string) string {
	b := protowire.AppendTag(nil, n, protowire.BytesType)
	return string(protowire.AppendString(b, value))
}

// number is a field that is a number.
func number(n protowire.Number, value uint64) string {
	b := protowire.AppendTag(nil, n, protowire.VarintType)
	return string(protowire.AppendVarint(b, value))
}

// node is an operator with one output. takes are names with spaces between.
func node(operator, takes, gives string, attributes ...string) string {
	var text string
	for name := range strings.FieldsSeq(takes) {
		text += field(1, name)
	}
	text += field(2, gives) + field(4, operator)
	for _, a := range attributes {
		text += field(5, a)
	}
	return field(1, text)
}

// weight is a constant of a shape, as words of 32 bits.
func weight(name string, datatype uint64, shape []uint64, words ...uint32) string {
	var text string
	for _, n := range shape {
		text += number(1, n)
	}
	var raw []byte
	for _, w := range words {
		raw = binary.LittleEndian.AppendUint32(raw, w)
	}
	return field(5, text+number(2, datatype)+field(8, name)+field(9, string(raw)))
}

// value is an input or output of the graph, FP32 [n, 1].
func value(n protowire.Number, name string) string {
	shape := field(1, field(2, "n")) + field(1, number(1, 1))
	return field(n, field(1, name)+field(2, field(1, number(1, 1)+field(2, shape))))
}
