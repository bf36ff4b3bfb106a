package model_test

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// message is a protobuf message under construction. The field numbers below
// are those of onnx.proto.
type message []byte

func (m message) text(field protowire.Number, s string) message {
	return protowire.AppendString(protowire.AppendTag(m, field, protowire.BytesType), s)
}

func (m message) number(field protowire.Number, v int64) message {
	return protowire.AppendVarint(protowire.AppendTag(m, field, protowire.VarintType), uint64(v))
}

func (m message) add(field protowire.Number, parts ...message) message {
	for _, p := range parts {
		m = m.text(field, string(p))
	}
	return m
}

// The element types of tensors.
const (
	float32Type = 1
	int64Type   = 7
	boolType    = 9
	float8Type  = 17
)

// tensorType is a TypeProto; a negative dimension is a variable one.
func tensorType(elem int64, dims ...int64) message {
	var shape message
	for _, d := range dims {
		dim := message{}.number(1, d)
		if d < 0 {
			dim = message{}.text(2, "n")
		}
		shape = shape.add(1, dim)
	}
	return message{}.add(1, message{}.number(1, elem).add(2, shape))
}

func sequenceOf(t message) message { return message{}.add(4, message{}.add(1, t)) }

// value is a ValueInfoProto.
func value(name string, t message) message { return message{}.text(1, name).add(2, t) }

// node is a NodeProto of the default domain.
func node(op string, inputs, outputs []string, attributes ...message) message {
	var n message
	for _, in := range inputs {
		n = n.text(1, in)
	}
	for _, out := range outputs {
		n = n.text(2, out)
	}
	return n.text(4, op).add(5, attributes...)
}

func graphAttribute(name string, g message) message {
	return message{}.text(1, name).add(6, g).number(20, 5)
}

func tensorAttribute(name string, t message) message {
	return message{}.text(1, name).add(5, t).number(20, 4)
}

// int64s is a TensorProto of one dimension.
func int64s(name string, values ...int64) message {
	t := message{}.number(1, int64(len(values))).number(2, int64Type).text(8, name)
	for _, v := range values {
		t = t.number(7, v)
	}
	return t
}

// scalar is a TensorProto without dimensions.
func scalar(name string, elem, v int64) message {
	t := message{}.number(2, elem).text(8, name)
	if elem == boolType {
		return t.number(5, v)
	}
	return t.number(7, v)
}

// external is a TensorProto of 4 floats whose data lies in a file.
func external(name string, entries ...string) message {
	t := message{}.number(1, 4).number(2, float32Type).text(8, name).number(14, 1)
	for i := 0; i < len(entries); i += 2 {
		t = t.add(13, message{}.text(1, entries[i]).text(2, entries[i+1]))
	}
	return t
}

// graph is a GraphProto: parts are made with the functions below.
type graph struct{ nodes, initializers, inputs, outputs []message }

func (g graph) message() message {
	return message{}.add(1, g.nodes...).text(2, "g").add(5, g.initializers...).
		add(11, g.inputs...).add(12, g.outputs...)
}

// modelOf is a ModelProto of a graph.
func modelOf(g message) message {
	return message{}.number(1, 8).add(7, g).add(8, message{}.number(2, 17))
}

// rows is the type of most inputs and outputs here: [n, 4] floats.
var rows = tensorType(float32Type, -1, 4)

// through is a model of these nodes and initializers, from x to y.
func through(nodes []message, initializers ...message) message {
	return modelOf(graph{nodes, initializers, []message{value("x", rows)},
		[]message{value("y", rows)}}.message())
}

// identity is a good model.
func identity() message {
	return through([]message{node("Identity", []string{"x"}, []string{"y"})})
}

func list(names ...string) []string { return names }

// nested is a model whose graphs lie that deep in each other.
func nested(depth int) message {
	y := []message{value("y", rows)}
	pass := graph{nodes: []message{node("Identity", list("x"), list("y"))}, outputs: y}.message()
	inner := pass
	for range depth {
		choice := node("If", list("yes"), list("y"), graphAttribute("then_branch", inner),
			graphAttribute("else_branch", pass))
		inner = graph{nodes: []message{choice}, outputs: y}.message()
	}
	return modelOf(inner.add(5, scalar("yes", boolType, 1)).add(11, value("x", rows)))
}

// functions is a model of n functions, each of which calls the one before
// times times; the first calls itself where that is wanted.
func functions(n, times int, recursive bool) message {
	call := func(i int, in, out string) message {
		if i < 0 {
			return node("Relu", list(in), list(out))
		}
		return node(fmt.Sprint("F", i), list(in), list(out)).text(7, "d")
	}
	m := through([]message{call(n-1, "x", "y")}).add(8, message{}.text(1, "d").number(2, 1))
	for i := range n {
		f := message{}.text(1, fmt.Sprint("F", i)).text(4, "v0").text(5, fmt.Sprint("v", times)).
			add(9, message{}.text(1, "d").number(2, 1), message{}.number(2, 17)).text(10, "d")
		callee := i - 1
		if i == 0 && recursive {
			callee = 0
		}
		for k := range times {
			f = f.add(7, call(callee, fmt.Sprint("v", k), fmt.Sprint("v", k+1)))
		}
		m = m.add(25, f)
	}
	return m
}

// endless is a model that loops for so many times.
func endless(times int64) message {
	body := graph{
		nodes: []message{
			node("Identity", list("go"), list("on")),
			node("Add", list("v", "v"), list("w")),
		},
		inputs: []message{
			value("i", tensorType(int64Type)), value("go", tensorType(boolType)), value("v", rows),
		},
		outputs: []message{value("on", tensorType(boolType)), value("w", rows)},
	}.message()
	loop := node("Loop", list("times", "yes", "x"), list("y"), graphAttribute("body", body))
	return through([]message{loop}, scalar("times", int64Type, times), scalar("yes", boolType, 1))
}

// huge is a model that makes a tensor of these dimensions: when it runs, or,
// where late, only then with what its input says.
func huge(late bool, dims ...int64) message {
	nodes := []message{
		node("ConstantOfShape", list("shape"), list("big")),
		node("ReduceSum", list("big"), list("s"),
			message{}.text(1, "keepdims").number(3, 0).number(20, 2)),
		node("Add", list("x", "s"), list("y")),
	}
	if !late {
		return through(nodes, int64s("shape", dims...))
	}
	first := []message{
		node("Shape", list("x"), list("xs")), node("ReduceSum", list("xs"), list("n")),
		node("Mul", list("n", "dims"), list("shape")),
	}
	return through(append(first, nodes...), int64s("dims", dims...))
}

// quotient is a model that divides x by the integers given.
func quotient(by ...message) message {
	ints := tensorType(int64Type, -1, 4)
	return modelOf(graph{
		nodes: by, initializers: []message{int64s("least", math.MinInt64), int64s("minus", -1)},
		inputs: []message{value("x", ints)}, outputs: []message{value("y", ints)},
	}.message())
}

// trap is a model that divides the least integer by -1 when it is loaded: the
// processor traps, and ONNX Runtime ends with the process.
func trap() message {
	return quotient(node("Div", list("least", "minus"), list("q")),
		node("Add", list("x", "q"), list("y")))
}

// divider is a model that divides the least integer by what the client sends.
func divider() message { return quotient(node("Div", list("least", "x"), list("y"))) }
