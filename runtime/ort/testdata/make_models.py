"""Makes the models that the tests of package ort run. Needs: onnx==1.23.2."""

import pathlib

import onnx
from onnx import TensorProto as T
from onnx import helper as h

HERE = pathlib.Path(__file__).parent
OPSETS = [h.make_opsetid("", 18), h.make_opsetid("ai.onnx.ml", 3)]


def info(name, elem, shape):
    return h.make_tensor_value_info(name, elem, shape)


def optional(name, elem, shape):
    return h.make_value_info(name, h.make_optional_type_proto(h.make_tensor_type_proto(elem, shape)))


def sequence(name, elem, shape):
    return h.make_value_info(name, h.make_sequence_type_proto(h.make_tensor_type_proto(elem, shape)))


def maps(name, key):
    value = h.make_tensor_type_proto(T.FLOAT, [])
    return h.make_value_info(name, h.make_sequence_type_proto(h.make_map_type_proto(key, value)))


def save(name, nodes, inputs, outputs, initializers=(), **model):
    graph = h.make_graph(nodes, name, inputs, outputs, initializers, doc_string="made for tests")
    props = model.pop("props", {})
    opsets = model.pop("opsets", OPSETS)
    proto = h.make_model(graph, opset_imports=opsets, ir_version=9, producer_name="make_models", **model)
    h.set_model_props(proto, props)
    if name != "reshape":  # whose output has no rank, as some exporters leave it
        onnx.checker.check_model(proto)
    path = HERE / f"{name}.onnx"
    onnx.save(proto, path)
    assert path.stat().st_size < 5000, path


def ints(name, values, dims=None):
    return h.make_tensor(name, T.INT64, [len(values)] if dims is None else dims, values)


def tensors():
    x, y = info("x", T.FLOAT, ["batch", 4]), info("y", T.FLOAT, ["batch", 4])
    save("relu", [h.make_node("Relu", ["x"], ["y"])], [x], [y],
         props={"author": "tests", "empty": ""}, model_version=7, domain="org.example",
         doc_string="one operator")
    save("unnamed", [h.make_node("Relu", ["x"], ["y"])],
         [info("x", T.FLOAT, [None, 4])], [info("y", T.FLOAT, [None, 4])])
    save("add", [h.make_node("Add", ["a", "b"], ["sum"]), h.make_node("Sub", ["a", "b"], ["difference"])],
         [info("a", T.FLOAT, ["n", "m"]), info("b", T.FLOAT, ["n", "m"])],
         [info("sum", T.FLOAT, ["n", "m"]), info("difference", T.FLOAT, ["n", "m"])])
    types = [T.BOOL, T.UINT8, T.UINT16, T.UINT32, T.UINT64, T.INT8, T.INT16, T.INT32, T.INT64,
             T.FLOAT16, T.BFLOAT16, T.FLOAT, T.DOUBLE]
    save("types", [h.make_node("Identity", [f"x{t}"], [f"y{t}"]) for t in types],
         [info(f"x{t}", t, ["n"]) for t in types], [info(f"y{t}", t, ["n"]) for t in types])
    save("strings", [h.make_node("Identity", ["x"], ["y"])],
         [info("x", T.STRING, ["n", "m"])], [info("y", T.STRING, ["n", "m"])])
    save("scalar", [h.make_node("Add", ["x", "x"], ["twice"]), h.make_node("Shape", ["x"], ["dims"])],
         [info("x", T.FLOAT, [])], [info("twice", T.FLOAT, []), info("dims", T.INT64, [0])])
    save("halves", [h.make_node("Cast", ["x"], ["f16"], to=T.FLOAT16), h.make_node("Cast", ["x"], ["bf16"], to=T.BFLOAT16)],
         [info("x", T.FLOAT, ["n"])], [info("f16", T.FLOAT16, ["n"]), info("bf16", T.BFLOAT16, ["n"])])
    save("nonzero", [h.make_node("NonZero", ["x"], ["at"])],
         [info("x", T.FLOAT, ["n"])], [info("at", T.INT64, [1, "found"])])
    # The name of the output's dimension says more than is true.
    save("lying", [h.make_node("Compress", ["x", "keep"], ["y"], axis=0)],
         [info("x", T.FLOAT, ["n"]), info("keep", T.BOOL, ["n"])], [info("y", T.FLOAT, ["n"])])
    save("reshape", [h.make_node("Reshape", ["x", "shape"], ["y"], name="/encoder/reshape")],
         [info("x", T.FLOAT, ["n"]), info("shape", T.INT64, ["rank"])], [info("y", T.FLOAT, None)])
    save("float8", [h.make_node("Identity", ["x"], ["y"])],
         [info("x", T.FLOAT8E4M3FN, ["n"])], [info("y", T.FLOAT8E4M3FN, ["n"])],
         opsets=[h.make_opsetid("", 19)])
    for rank in (32, 33):
        save(f"rank{rank}", [h.make_node("Relu", ["x"], ["y"])],
             [info("x", T.FLOAT, ["n"] + [1] * (rank - 1))], [info("y", T.FLOAT, ["n"] + [1] * (rank - 1))])
    # ONNX Runtime warns of the weight that nothing uses.
    save("unused", [h.make_node("Relu", ["x"], ["y"])], [info("x", T.FLOAT, ["n"])], [info("y", T.FLOAT, ["n"])],
         [ints("weight", [1])])


def passed_on():
    """Outputs that are an input, an initializer, or no node's own."""
    save("passed", [h.make_node("Relu", ["x"], ["y"])],
         [info("x", T.FLOAT, ["n"]), info("s", T.STRING, ["k"])],
         [info("x", T.FLOAT, ["n"]), info("y", T.FLOAT, ["n"]), info("w", T.INT64, [3]), info("s", T.STRING, ["k"])],
         [ints("w", [1, 2, 3])])


def containers():
    p = info("p", T.FLOAT, ["n", 3])
    save("zipmap_int", [h.make_node("ZipMap", ["p"], ["out"], domain="ai.onnx.ml", classlabels_int64s=[10, -2, 7])],
         [p], [maps("out", T.INT64)])
    save("zipmap_string", [h.make_node("ZipMap", ["p"], ["out"], domain="ai.onnx.ml", classlabels_strings=["b", "", "a c"])],
         [p], [maps("out", T.STRING)])
    for name, elem in (("sequence", T.FLOAT), ("sequence_string", T.STRING)):
        save(name, [h.make_node("SplitToSequence", ["x", "split"], ["out"], axis=0)],
             [info("x", elem, ["n", "m"]), info("split", T.INT64, ["k"])], [sequence("out", elem, None)])
    save("sequence_shaped", [h.make_node("SplitToSequence", ["x", "split"], ["out"], axis=0)],
         [info("x", T.INT32, ["n", "m", 3]), info("split", T.INT64, ["k"])],
         [sequence("out", T.INT32, [1, "m", 3])])
    save("sequence_input", [h.make_node("SequenceLength", ["x"], ["n"])],
         [sequence("x", T.FLOAT, ["n"])], [info("n", T.INT64, [])])


def optionals():
    one = h.make_graph([h.make_node("OptionalGetElement", ["x"], ["then"])], "then", [],
                       [info("then", T.FLOAT, ["n"])])
    other = h.make_graph([h.make_node("Constant", [], ["else"], value=h.make_tensor("v", T.FLOAT, [1], [-1]))],
                         "else", [], [info("else", T.FLOAT, [1])])
    save("optional_input",
         [h.make_node("OptionalHasElement", ["x"], ["has"]),
          h.make_node("If", ["has"], ["y"], then_branch=one, else_branch=other)],
         [optional("x", T.FLOAT, ["n"])], [info("has", T.BOOL, []), info("y", T.FLOAT, ["k"])])
    typ = h.make_tensor_type_proto(T.FLOAT, ["n"])
    full = h.make_graph([h.make_node("Optional", ["x"], ["then"])], "then", [], [optional("then", T.FLOAT, ["n"])])
    empty = h.make_graph([h.make_node("Optional", [], ["else"], type=typ)], "else", [], [optional("else", T.FLOAT, ["n"])])
    save("optional_output", [h.make_node("If", ["give"], ["y"], then_branch=full, else_branch=empty)],
         [info("x", T.FLOAT, ["n"]), info("give", T.BOOL, [])], [optional("y", T.FLOAT, ["n"])])

    # An optional that holds a sequence.
    typ = h.make_sequence_type_proto(h.make_tensor_type_proto(T.FLOAT, ["n"]))
    out = lambda name: h.make_value_info(name, h.make_optional_type_proto(typ))
    full = h.make_graph([h.make_node("SequenceConstruct", ["x", "x"], ["both"]),
                         h.make_node("Optional", ["both"], ["then"])], "then", [], [out("then")])
    empty = h.make_graph([h.make_node("Optional", [], ["else"], type=typ)], "else", [], [out("else")])
    save("optional_sequence", [h.make_node("If", ["give"], ["y"], then_branch=full, else_branch=empty)],
         [info("x", T.FLOAT, ["n"]), info("give", T.BOOL, [])], [out("y")])


def loop():
    body = h.make_graph(
        [h.make_node("Identity", ["go_in"], ["go_out"]), h.make_node("Add", ["v_in", "v_in"], ["v_out"])], "body",
        [info("i", T.INT64, []), info("go_in", T.BOOL, []), info("v_in", T.FLOAT, [1])],
        [info("go_out", T.BOOL, []), info("v_out", T.FLOAT, [1])])
    save("loop", [h.make_node("Loop", ["times", "", "x"], ["y"], body=body)],
         [info("times", T.INT64, []), info("x", T.FLOAT, [1])], [info("y", T.FLOAT, [1])])


def mlp():
    """64-256-256-10; the weights are constants that are filled in when it is loaded."""
    nodes, shapes, last, sizes = [], [], "x", [64, 256, 256, 10]
    for i, (rows, columns) in enumerate(zip(sizes, sizes[1:])):
        shapes.append(ints(f"shape{i}", [rows, columns]))
        value = h.make_tensor("v", T.FLOAT, [1], [0.01 * (i + 1)])
        nodes.append(h.make_node("ConstantOfShape", [f"shape{i}"], [f"w{i}"], value=value))
        out = "y" if i == len(sizes) - 2 else f"g{i}"
        nodes.append(h.make_node("Gemm", [last, f"w{i}"], [out]))
        last = f"r{i}"
        if out != "y":
            nodes.append(h.make_node("Relu", [out], [last]))
    save("mlp", nodes, [info("x", T.FLOAT, ["batch", 64])], [info("y", T.FLOAT, ["batch", 10])], shapes)


if __name__ == "__main__":
    tensors()
    passed_on()
    containers()
    optionals()
    loop()
    mlp()
