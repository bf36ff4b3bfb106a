"""A multi-layer perceptron 64-256-256-10 on digits, the model of the benchmarks."""

import numpy as np
import sample
from nets import NAMES, digits, require
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info
from sklearn.neural_network import MLPClassifier

x, held_out, y, truth = digits()
net = MLPClassifier((256, 256), max_iter=200, random_state=0).fit(x / 16, y)
require("accuracy", net.score(held_out / 16, truth), 0.96)

# The pixels' scale goes into the first layer's weights.
weights = {f"w{i}": w.astype(np.float32) for i, w in enumerate(net.coefs_)}
weights |= {f"b{i}": b.astype(np.float32) for i, b in enumerate(net.intercepts_)}
weights["w0"] /= 16
model = sample.build(
    [
        make_node("Gemm", ["x", "w0", "b0"], ["z0"]),
        make_node("Relu", ["z0"], ["h0"]),
        make_node("Gemm", ["h0", "w1", "b1"], ["z1"]),
        make_node("Relu", ["z1"], ["h1"]),
        make_node("Gemm", ["h1", "w2", "b2"], ["z2"]),
        make_node("Softmax", ["z2"], ["y"], axis=1),
    ],
    [make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
    [make_tensor_value_info("y", TensorProto.FLOAT, ["batch", len(NAMES)])],
    weights,
)


def answer(rows):
    return sample.case({"x": rows}, {"y": net.predict_proba(rows / 16).astype(np.float32)})


cases = [answer(held_out[:1]), answer(held_out[1:4]), answer(held_out[4:20])]
sample.save(__file__, model, cases, rtol=1e-4, atol=1e-5)
