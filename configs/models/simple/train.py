"""Triton's well-known `simple`: the sum and the difference of two INT32 vectors."""

import numpy as np
import sample
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info


def vector(name):
    return make_tensor_value_info(name, TensorProto.INT32, ["batch", 16])


model = sample.build(
    [
        make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ],
    [vector("INPUT0"), vector("INPUT1")],
    [vector("OUTPUT0"), vector("OUTPUT1")],
)


def answer(a, b):
    return sample.case({"INPUT0": a, "INPUT1": b}, {"OUTPUT0": a + b, "OUTPUT1": a - b})


def random(rows, seed):
    top = 2**30  # so that no sum overflows
    return np.random.default_rng(seed).integers(-top, top, (rows, 16), np.int32)


first = np.arange(16, dtype=np.int32).reshape(1, 16)
cases = [answer(first, np.ones_like(first))]
cases += [answer(random(rows, 1), random(rows, 2)) for rows in (2, 8)]
sample.save(__file__, model, cases)
