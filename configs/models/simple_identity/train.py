"""Triton's `simple_identity`: strings come back as they are."""

import numpy as np
import sample
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info


def strings(name):
    return make_tensor_value_info(name, TensorProto.STRING, ["batch", "length"])


model = sample.build(
    [make_node("Identity", ["INPUT0"], ["OUTPUT0"])], [strings("INPUT0")], [strings("OUTPUT0")]
)


def answer(rows):
    array = np.array(rows, dtype=object)
    return sample.case({"INPUT0": array}, {"OUTPUT0": array})


cases = [
    answer([[f"number {i}" for i in range(16)]]),
    answer([["", "plain"], ["naïve café", "\N{SNOWMAN}\N{GRINNING FACE}"]]),
    answer([["a\0b"], ['quote " and \\'], ["line\nbreak\t"]]),
    answer([["x" * 5000]]),
]
sample.save(__file__, model, cases)
