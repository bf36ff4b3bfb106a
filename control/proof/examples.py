"""Has MLflow write models with input examples of each kind.

examples.py OUT
"""

import pathlib
import sys

import mlflow.onnx
import numpy as np
import onnx
import pandas as pd
from mlflow.models import infer_signature
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

out = pathlib.Path(sys.argv[1])
frame, y = load_iris(return_X_y=True, as_frame=True)
frame = frame.astype("float32")
x = frame.to_numpy()
fitted = LogisticRegression(max_iter=1000).fit(x, y)
matrix = to_onnx(fitted, x[:1], options={"zipmap": False})


def floats(name):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 1])


pair = helper.make_model(
    helper.make_graph(
        [helper.make_node("Mul", ["width", "height"], ["area"])],
        "pair",
        [floats("width"), floats("height")],
        [floats("area")],
    ),
    opset_imports=[helper.make_opsetid("", 17)],
    ir_version=8,
)


def save(name, model, example, like):
    """Saves a model as it is logged, without a server."""
    mlflow.onnx.save_model(
        model,
        str(out / name / "1"),
        signature=infer_signature(like),
        input_example=example,
        pip_requirements=["onnx"],
    )


column = np.ones((2, 1), np.float32)
sides = {"width": column, "height": column * 3}
save("frame", matrix, frame[:3], frame)
save("array", matrix, x[:2], x)
save("values", matrix, pd.DataFrame(x[:4]), x)
save("dictionary", matrix, {"X": x[:5]}, {"X": x})
save("parameters", matrix, (x[:2], {"threshold": 0.5}), x)
save("records", matrix, frame[:2].to_dict(orient="records"), frame)
save("pair", pair, sides, sides)
save("pairs", pair, pd.DataFrame({n: a[:, 0] for n, a in sides.items()}), sides)
