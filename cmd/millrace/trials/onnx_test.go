package trials_test

import (
	"encoding/binary"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// field is a field of a protobuf message.
func field(n protowire.Number, value string) string {
	b := protowire.AppendTag(nil, n, protowire.BytesType)
	return string(protowire.AppendString(b, value))
}

// number is a field that is a number.
func number(n protowire.Number, value uint64) string {
	b := protowire.AppendTag(nil, n, protowire.VarintType)
	return string(protowire.AppendVarint(b, value))
}

// Numbers of ONNX's messages.
const (
	modelVersion, modelGraph, modelOpset         = 1, 7, 8
	graphNode, graphName, graphWeights           = 1, 2, 5
	graphInput, graphOutput                      = 11, 12
	nodeInput, nodeOutput, nodeOperator, nodeAtt = 1, 2, 4, 5
	attName, attInt, attGraph, attType           = 1, 3, 6, 20
	attIsInt, attIsGraph                         = 2, 5
	typeFloat, typeInt64, typeBool               = 1, 7, 9
)

// node is an operator. What it takes and gives are lists of names.
func node(operator string, takes, gives []string, attributes ...string) string {
	var text string
	for _, name := range takes {
		text += field(nodeInput, name)
	}
	for _, name := range gives {
		text += field(nodeOutput, name)
	}
	text += field(nodeOperator, operator)
	for _, a := range attributes {
		text += field(nodeAtt, a)
	}
	return field(graphNode, text)
}

func intAttribute(name string, value uint64) string {
	return field(attName, name) + number(attInt, value) + number(attType, attIsInt)
}

func graphAttribute(name, graph string) string {
	return field(attName, name) + field(attGraph, graph) + number(attType, attIsGraph)
}

// scalar is a weight.
func scalar(name string, value float32) string {
	bits := string(binary.LittleEndian.AppendUint32(nil, math.Float32bits(value)))
	return field(graphWeights, number(2, typeFloat)+field(8, name)+field(9, bits))
}

// value is an input or output of a graph, of a shape: "" is a number, "n" a
// dimension of any size, others of their length.
func value(n protowire.Number, name string, datatype uint64, dims ...string) string {
	var shape string
	for _, d := range dims {
		if d == "n" {
			shape += field(1, field(2, d))
		} else {
			shape += field(1, number(1, uint64(len(d))))
		}
	}
	return field(n, field(1, name)+
		field(2, field(1, number(1, datatype)+field(2, shape))))
}

// row is the dimension of the 4 elements that a row of the models here has.
const row = "xxxx"

func model(graph string) string {
	return number(modelVersion, 8) + field(modelGraph, graph+field(graphName, "g")+
		value(graphInput, "x", typeFloat, "n", row)+
		value(graphOutput, "y", typeFloat, "n", row)) + field(modelOpset, number(2, 17))
}

// sum is a model that adds a number: y = x + add, both [n, 4] FP32.
func sum(add float32) string {
	return model(node("Add", []string{"x", "add"}, []string{"y"}) + scalar("add", add))
}

// hangsFrom is the number from which on hang counts.
const hangsFrom = 1e6

// hang is a model that returns its input, but takes a million turns of a loop for
// each whole number that its greatest element is above hangsFrom.
func hang() string {
	const million = 1e6
	body := node("Identity", []string{"go_in"}, []string{"go_out"}) +
		node("Add", []string{"v_in", "zero"}, []string{"v_out"}) + field(graphName, "body") +
		scalar("zero", 0) +
		value(graphInput, "i", typeInt64) + value(graphInput, "go_in", typeBool) +
		value(graphInput, "v_in", typeFloat, "n", row) +
		value(graphOutput, "go_out", typeBool) +
		value(graphOutput, "v_out", typeFloat, "n", row)
	return model(
		node("ReduceMax", []string{"x"}, []string{"greatest"}, intAttribute("keepdims", 0)) +
			node("Sub", []string{"greatest", "from"}, []string{"above"}) +
			node("Mul", []string{"above", "million"}, []string{"turns"}) +
			node("Cast", []string{"turns"}, []string{"times"}, intAttribute("to", typeInt64)) +
			node("Loop", []string{"times", "", "x"}, []string{"y"},
				graphAttribute("body", body)) +
			scalar("from", hangsFrom) + scalar("million", million))
}
