"""A small convolutional net on scikit-learn's digits, trained in NumPy.

image [N, 1, 8, 8], pixels 0 to 16
  -> 3x3 convolution, 16 channels, relu -> 2x2 max pool
  -> 3x3 convolution, 32 channels, relu -> 2x2 max pool -> dense 10 -> softmax
"""

from pathlib import Path

import numpy as np
import sample
from nets import NAMES, digits, normal, require, softmax, train
from onnx import TensorProto
from onnx.helper import make_node, make_tensor_value_info


def patches(x):
    """[N, C, H, W] -> [N, H, W, C * 9]: what a 3x3 kernel sees at each place."""
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    x = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))
    n, c, h, w = x.shape[:4]
    return x.transpose(0, 2, 3, 1, 4, 5).reshape(n, h, w, c * 9)


def unpatch(g, channels):
    """Adds the gradient of patches up to that of their input."""
    n, h, w, _ = g.shape
    g = g.reshape(n, h, w, channels, 3, 3)
    x = np.zeros((n, channels, h + 2, w + 2), g.dtype)
    for i in range(3):
        for j in range(3):
            x[:, :, i : i + h, j : j + w] += g[..., i, j].transpose(0, 3, 1, 2)
    return x[:, :, 1:-1, 1:-1]


def convolve(x, kernel, bias):
    """Relu of a 3x3 convolution, and the patches that its gradient needs."""
    p = patches(x)
    z = p @ kernel.reshape(len(kernel), -1).T + bias
    return np.maximum(z, 0).transpose(0, 3, 1, 2), p


def convolve_back(g, out, p, kernel):
    """Returns the gradients of kernel, bias and input."""
    g = (g * (out > 0)).transpose(0, 2, 3, 1)
    flat, seen = g.reshape(-1, len(kernel)), p.reshape(-1, p.shape[-1])
    to_input = unpatch(g @ kernel.reshape(len(kernel), -1), kernel.shape[1])
    return (flat.T @ seen).reshape(kernel.shape), flat.sum(axis=0), to_input


def pool(x):
    """2x2 max pool, and which places won."""
    n, c, h, w = x.shape
    x = x.reshape(n, c, h // 2, 2, w // 2, 2)
    top = x.max(axis=(3, 5), keepdims=True)
    won = x == top
    return top[:, :, :, 0, :, 0], won / won.sum(axis=(3, 5), keepdims=True)


def pool_back(g, won):
    n, c, h, _, w, _ = won.shape
    back = g[:, :, :, None, :, None] * won
    return back.reshape(n, c, 2 * h, 2 * w).astype(g.dtype)


def forward(w, image):
    """Returns the probabilities and what the gradients need."""
    a, pa = convolve(image / 16, w["k0"], w["b0"])
    b, won_b = pool(a)
    c, pc = convolve(b, w["k1"], w["b1"])
    d, won_d = pool(c)
    flat = d.reshape(len(d), -1)
    return softmax(flat @ w["w2"] + w["b2"]), (a, pa, won_b, c, pc, d, won_d, flat)


def gradients(w, image, y):
    p, (a, pa, won_b, c, pc, d, won_d, flat) = forward(w, image)
    g = p
    g[np.arange(len(y)), y] -= 1
    g /= len(y)
    out = {"w2": flat.T @ g, "b2": g.sum(axis=0)}
    g = pool_back((g @ w["w2"].T).reshape(d.shape), won_d)
    out["k1"], out["b1"], g = convolve_back(g, c, pc, w["k1"])
    out["k0"], out["b0"], _ = convolve_back(pool_back(g, won_b), a, pa, w["k0"])
    return out


x, held_out, y, truth = digits()
x, held_out = x.reshape(-1, 1, 8, 8), held_out.reshape(-1, 1, 8, 8)
random = np.random.default_rng(0)
weights = {
    "k0": normal(random, 16, 1, 3, 3, fan_in=9),
    "b0": np.zeros(16, np.float32),
    "k1": normal(random, 32, 16, 3, 3, fan_in=144),
    "b1": np.zeros(32, np.float32),
    "w2": normal(random, 128, 10, fan_in=128),
    "b2": np.zeros(10, np.float32),
}
# Each digit also moved by one pixel to each side: the edges are empty for most.
moves = [(0, 0), (0, 1), (0, -1), (1, 0), (-1, 0)]
moved = np.concatenate([np.roll(x, move, axis=(2, 3)) for move in moves])
train(weights, gradients, moved, np.tile(y, len(moves)), epochs=15)
require("accuracy", (forward(weights, held_out)[0].argmax(axis=1) == truth).mean(), 0.97)

same = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
half = {"kernel_shape": [2, 2], "strides": [2, 2]}
model = sample.build(
    [
        make_node("Div", ["image", "white"], ["scaled"]),
        make_node("Conv", ["scaled", "k0", "b0"], ["z0"], **same),
        make_node("Relu", ["z0"], ["h0"]),
        make_node("MaxPool", ["h0"], ["p0"], **half),
        make_node("Conv", ["p0", "k1", "b1"], ["z1"], **same),
        make_node("Relu", ["z1"], ["h1"]),
        make_node("MaxPool", ["h1"], ["p1"], **half),
        make_node("Flatten", ["p1"], ["flat"]),
        make_node("Gemm", ["flat", "w2", "b2"], ["z2"]),
        make_node("Softmax", ["z2"], ["probabilities"], axis=1),
    ],
    [make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 1, 8, 8])],
    [make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(NAMES)])],
    {"white": np.float32(16), **weights},
)


def answer(rows):
    return sample.case({"image": rows}, {"probabilities": forward(weights, rows)[0]})


cases = [answer(held_out[:1]), answer(held_out[1:4]), answer(held_out[4:20])]
sample.save(__file__, model, cases, rtol=1e-4, atol=1e-5)

# The request to try asks for the best class by name.
best = {"name": "probabilities", "parameters": {"classification": 1}}
sample.write_request(
    Path(__file__).with_name("sample.json"), cases[0]["request"] | {"outputs": [best]}
)
print(f"sample.json is a {NAMES[truth[0]]}")
