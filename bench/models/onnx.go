package models

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"
)

// Field numbers of onnx.proto that a plain network needs.
const (
	modelIRVersion, modelGraph, modelOpset            = 1, 7, 8
	opsetVersion                                      = 2
	graphNode, graphName, graphInitializer            = 1, 2, 5
	graphInput, graphOutput                           = 11, 12
	nodeInput, nodeOutput, nodeName, nodeType         = 1, 2, 3, 4
	nodeAttribute                                     = 5
	attributeName, attributeInts, attributeType       = 1, 8, 20
	tensorDims, tensorType, tensorName, tensorRawData = 1, 2, 8, 9
	valueName, valueType                              = 1, 2
	typeTensor, tensorElem, tensorShape               = 1, 1, 2
	shapeDim, dimValue, dimParam                      = 1, 1, 2
)

// Values of onnx.proto's enums, and the versions that the files state.
const (
	elemFloat = 1
	typeInts  = 7
	irVersion = 8
	opset     = 13
)

// graph builds a network as a chain: each layer takes the output of the last.
type graph struct {
	body  []byte // GraphProto
	last  string // the value that the next layer takes
	rng   *rand.Rand
	count int
}

func newGraph(name, input string, dims ...int64) *graph {
	g := &graph{last: input, rng: rand.New(rand.NewPCG(1, 2))}
	g.body = text(g.body, graphName, name)
	g.body = message(g.body, graphInput, value(input, dims))
	return g
}

// finish names the output and returns the file.
func (g *graph) finish(output string, dims ...int64) []byte {
	g.node("Identity", []string{g.last}, output, nil)
	g.body = message(g.body, graphOutput, value(output, dims))
	var m []byte
	m = number(m, modelIRVersion, irVersion)
	m = message(m, modelGraph, g.body)
	return message(m, modelOpset, number(nil, opsetVersion, opset))
}

// conv appends a 3x3 convolution with padding that keeps the size, and a Relu.
func (g *graph) conv(in, out int64) {
	w, b := g.weights(out, in, 3, 3), g.weights(out)
	g.layer("Conv", []string{w, b}, map[string][]int64{"pads": {1, 1, 1, 1}})
	g.layer("Relu", nil, nil)
}

func (g *graph) halve() {
	g.layer("MaxPool", nil, map[string][]int64{"kernel_shape": {2, 2}, "strides": {2, 2}})
}

// dense appends a fully connected layer.
func (g *graph) dense(in, out int64) {
	g.layer("Gemm", []string{g.weights(in, out), g.weights(out)}, nil)
}

// layer appends a node to the chain; extra are its inputs after the first.
func (g *graph) layer(op string, extra []string, ints map[string][]int64) {
	out := g.fresh("v")
	g.node(op, append([]string{g.last}, extra...), out, ints)
	g.last = out
}

func (g *graph) node(op string, inputs []string, output string, ints map[string][]int64) {
	var n []byte
	for _, in := range inputs {
		n = text(n, nodeInput, in)
	}
	n = text(n, nodeOutput, output)
	n = text(n, nodeName, g.fresh("n"))
	n = text(n, nodeType, op)
	for name, list := range ints {
		a := text(nil, attributeName, name)
		for _, v := range list {
			a = number(a, attributeInts, uint64(v))
		}
		n = message(n, nodeAttribute, number(a, attributeType, typeInts))
	}
	g.body = message(g.body, graphNode, n)
}

// weights adds random weights of a size that keeps values from growing or
// fading on their way through the layers.
func (g *graph) weights(dims ...int64) string {
	name := g.fresh("w")
	var t []byte
	count, fanIn := int64(1), int64(1)
	for i, d := range dims {
		t = number(t, tensorDims, uint64(d))
		count *= d
		if i > 0 {
			fanIn *= d
		}
	}
	if len(dims) == 2 { // [in, out]
		fanIn = dims[0]
	}
	scale := math.Sqrt(2 / float64(fanIn))
	if len(dims) == 1 { // a bias
		scale = 0.1
	}
	data := make([]byte, 0, 4*count)
	for range count {
		w := float32(scale * g.rng.NormFloat64())
		data = binary.LittleEndian.AppendUint32(data, math.Float32bits(w))
	}
	t = number(t, tensorType, elemFloat)
	t = text(t, tensorName, name)
	g.body = message(g.body, graphInitializer, message(t, tensorRawData, data))
	return name
}

func (g *graph) fresh(prefix string) string {
	g.count++
	return prefix + strconv.Itoa(g.count)
}

// value describes an input or output of floats; -1 is the batch.
func value(name string, dims []int64) []byte {
	var shape []byte
	for _, d := range dims {
		if d < 0 {
			shape = message(shape, shapeDim, text(nil, dimParam, "N"))
		} else {
			shape = message(shape, shapeDim, number(nil, dimValue, uint64(d)))
		}
	}
	tensor := message(number(nil, tensorElem, elemFloat), tensorShape, shape)
	return message(text(nil, valueName, name), valueType, message(nil, typeTensor, tensor))
}

func number(b []byte, field protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(b, field, protowire.VarintType), v)
}

func text(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func message(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}
