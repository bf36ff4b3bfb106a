"""Triton's `simple_string`: sum and difference of integers written as decimal strings."""

import numpy as np
import sample
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info


def vector(name):
    return make_tensor_value_info(name, TensorProto.STRING, ["batch", 16])


model = sample.build(
    [
        make_node("Cast", ["INPUT0"], ["a"], to=TensorProto.INT32),
        make_node("Cast", ["INPUT1"], ["b"], to=TensorProto.INT32),
        make_node("Add", ["a", "b"], ["sum"]),
        make_node("Sub", ["a", "b"], ["difference"]),
        make_node("Cast", ["sum"], ["OUTPUT0"], to=TensorProto.STRING),
        make_node("Cast", ["difference"], ["OUTPUT1"], to=TensorProto.STRING),
    ],
    [vector("INPUT0"), vector("INPUT1")],
    [vector("OUTPUT0"), vector("OUTPUT1")],
)


def decimal(array):
    return array.astype(str).astype(object)


def answer(a, b):
    return sample.case(
        {"INPUT0": decimal(a), "INPUT1": decimal(b)},
        {"OUTPUT0": decimal(a + b), "OUTPUT1": decimal(a - b)},
    )


def random(rows, seed):
    top = 2**30  # so that no sum overflows
    return np.random.default_rng(seed).integers(-top, top, (rows, 16), np.int32)


first = np.arange(16, dtype=np.int32).reshape(1, 16)
cases = [answer(first, np.ones_like(first))]
cases += [answer(random(rows, 1), random(rows, 2)) for rows in (2, 8)]
sample.save(__file__, model, cases)
