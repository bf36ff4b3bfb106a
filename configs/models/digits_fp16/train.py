"""Digits in half precision: inputs, weights and outputs are FP16.

The protocol has no JSON form for FP16. The numbers in expected.json are for the
test, which sends and reads them as binary tensors.
"""

import numpy as np
import sample
from nets import NAMES, digits, require, softmax
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info
from sklearn.neural_network import MLPClassifier

x, held_out, y, truth = digits()
net = MLPClassifier((64,), max_iter=400, random_state=0).fit(x / 16, y)

weights = {f"w{i}": w.astype(np.float16) for i, w in enumerate(net.coefs_)}
weights |= {f"b{i}": b.astype(np.float16) for i, b in enumerate(net.intercepts_)}


def forward(pixels):
    """The net with its rounded weights, the sums in single precision."""
    w = {n: v.astype(np.float32) for n, v in weights.items()}
    hidden = np.maximum(pixels.astype(np.float32) / 16 @ w["w0"] + w["b0"], 0)
    return softmax(hidden @ w["w1"] + w["b1"]).astype(np.float16)


require("accuracy", (forward(held_out).argmax(axis=1) == truth).mean(), 0.95)

model = sample.build(
    [
        make_node("Div", ["pixels", "white"], ["scaled"]),
        make_node("Gemm", ["scaled", "w0", "b0"], ["z0"]),
        make_node("Relu", ["z0"], ["h0"]),
        make_node("Gemm", ["h0", "w1", "b1"], ["z1"]),
        make_node("Softmax", ["z1"], ["probabilities"], axis=1),
    ],
    [make_tensor_value_info("pixels", TensorProto.FLOAT16, ["batch", 64])],
    [make_tensor_value_info("probabilities", TensorProto.FLOAT16, ["batch", len(NAMES)])],
    {"white": np.float16(16), **weights},
)


def answer(rows):
    rows = rows.astype(np.float16)
    return sample.case({"pixels": rows}, {"probabilities": forward(rows)})


cases = [answer(held_out[:1]), answer(held_out[1:4]), answer(held_out[4:20])]
# Eleven bits of mantissa, and sums that an engine may round at each layer.
sample.save(__file__, model, cases, rtol=1e-2, atol=2e-3)
