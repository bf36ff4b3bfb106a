"""A recurrent net that reads a digit row by row, trained in NumPy.

rows [N, 8, 8], pixels 0 to 16 -> GRU of 32 units over the 8 rows -> dense 10 -> softmax
"""

import numpy as np
import sample
from nets import NAMES, digits, normal, require, softmax, train
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info

UNITS = 32


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def forward(w, rows):
    """Returns the probabilities and, for each step, what its gradient needs.

    w["w"] [8, 96] and w["r"] [32, 96] hold the gates z (update), r (reset) and
    h (candidate) side by side, as do the biases wb and rb.
    """
    h = np.zeros((len(rows), UNITS), rows.dtype)
    steps = []
    for t in range(rows.shape[1]):
        x = rows[:, t] / 16
        xz, xr, xh = np.split(x @ w["w"] + w["wb"], 3, axis=1)
        hz, hr, hh = np.split(h @ w["r"] + w["rb"], 3, axis=1)
        z, r = sigmoid(xz + hz), sigmoid(xr + hr)
        candidate = np.tanh(xh + r * hh)
        steps.append((x, h, z, r, hh, candidate))
        h = (1 - z) * candidate + z * h
    return softmax(h @ w["o"] + w["ob"]), h, steps


def gradients(w, rows, y):
    p, last, steps = forward(w, rows)
    g = p
    g[np.arange(len(y)), y] -= 1
    g /= len(y)
    out = {n: np.zeros_like(v) for n, v in w.items()}
    out["o"], out["ob"] = last.T @ g, g.sum(axis=0)
    gh = g @ w["o"].T
    for x, h, z, r, hh, candidate in reversed(steps):
        gc = gh * (1 - z) * (1 - candidate**2)
        gz = gh * (h - candidate) * z * (1 - z)
        gr = gc * hh * r * (1 - r)
        from_x = np.hstack([gz, gr, gc])
        from_h = np.hstack([gz, gr, gc * r])
        out["w"] += x.T @ from_x
        out["wb"] += from_x.sum(axis=0)
        out["r"] += h.T @ from_h
        out["rb"] += from_h.sum(axis=0)
        gh = gh * z + from_h @ w["r"].T
    return out


x, held_out, y, truth = digits()
x, held_out = x.reshape(-1, 8, 8), held_out.reshape(-1, 8, 8)
random = np.random.default_rng(0)
weights = {
    "w": normal(random, 8, 3 * UNITS, fan_in=16),
    "wb": np.zeros(3 * UNITS, np.float32),
    "r": normal(random, UNITS, 3 * UNITS, fan_in=2 * UNITS),
    "rb": np.zeros(3 * UNITS, np.float32),
    "o": normal(random, UNITS, 10, fan_in=2 * UNITS),
    "ob": np.zeros(10, np.float32),
}
train(weights, gradients, x, y, epochs=60, rate=1e-2)
require("accuracy", (forward(weights, held_out)[0].argmax(axis=1) == truth).mean(), 0.95)

gru = {"hidden_size": UNITS, "linear_before_reset": 1}
model = sample.build(
    [
        make_node("Div", ["rows", "white"], ["scaled"]),
        make_node("Transpose", ["scaled"], ["steps"], perm=[1, 0, 2]),
        make_node("GRU", ["steps", "w", "r", "b"], ["", "last"], **gru),
        make_node("Squeeze", ["last", "directions"], ["state"]),
        make_node("Gemm", ["state", "o", "ob"], ["z"]),
        make_node("Softmax", ["z"], ["probabilities"], axis=1),
    ],
    [make_tensor_value_info("rows", TensorProto.FLOAT, ["batch", 8, 8])],
    [make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(NAMES)])],
    {
        "white": np.float32(16),
        "w": weights["w"].T[None].copy(),
        "r": weights["r"].T[None].copy(),
        "b": np.concatenate([weights["wb"], weights["rb"]])[None],
        "directions": np.array([0], np.int64),
        "o": weights["o"],
        "ob": weights["ob"],
    },
)


def answer(rows):
    return sample.case({"rows": rows}, {"probabilities": forward(weights, rows)[0]})


cases = [answer(held_out[:1]), answer(held_out[1:4]), answer(held_out[4:20])]
sample.save(__file__, model, cases, rtol=1e-4, atol=1e-5)
