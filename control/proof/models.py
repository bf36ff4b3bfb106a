"""Makes models that do not answer as they should, for the tests.

models.py TRAIN OUT, where TRAIN is the folder that has sample.py
"""

import pathlib
import sys

import numpy as np
from onnx import TensorProto, helper

sys.path.insert(0, sys.argv[1])
import sample  # noqa: E402

out = pathlib.Path(sys.argv[2])


def save(name, nodes, x, y, weights=()):
    """Writes a model from floats x to floats y, of these shapes."""
    tensors = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)]
        for n, shape in (("x", x), ("y", y))
    ]
    model = sample.build(nodes, *tensors, weights)
    folder = out / name / "1"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))


node = helper.make_node
# NaN for what is below 0, and an infinity for 0.
save("logarithm", [node("Log", ["x"], ["y"])], ["n", 2], ["n", 2])
# One row at a time.
save("single", [node("Neg", ["x"], ["y"])], [1, 2], [1, 2])
# The batch is the second axis.
save("second", [node("Neg", ["x"], ["y"])], [2, "n"], [2, "n"])
# Any number of rows, which cannot be shared out: each is less the mean of all.
save(
    "mean",
    [
        node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
        node("Sub", ["x", "m"], ["y"]),
    ],
    ["n", 2],
    ["n", 2],
)
# As many columns as the first value says, though three are declared.
save(
    "wide",
    [
        node("ReduceMax", ["x"], ["most"], axes=[0, 1], keepdims=0),
        node("Cast", ["most"], ["times"], to=TensorProto.INT64),
        node("Reshape", ["times", "one"], ["list"]),
        node("Concat", ["one", "list"], ["repeats"], axis=0),
        node("Tile", ["x", "repeats"], ["y"]),
    ],
    ["n", 1],
    ["n", 3],
    {"one": np.array([1], np.int64)},
)
# Fails where the value is no index.
save(
    "index",
    [
        node("Cast", ["x"], ["at"], to=TensorProto.INT64),
        node("Gather", ["table", "at"], ["y"]),
    ],
    ["n", 1],
    ["n", 1],
    {"table": np.arange(4, dtype=np.float32)},
)
