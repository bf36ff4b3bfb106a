"""Ridge regression on the diabetes data, in double precision from end to end."""

import numpy as np
import sample
from nets import require
from skl2onnx import to_onnx
from skl2onnx.common.data_types import DoubleTensorType
from sklearn.datasets import load_diabetes
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x, y = load_diabetes(return_X_y=True, scaled=False)
x, held_out, y, truth = train_test_split(x, y, test_size=0.2, random_state=1)
pipeline = make_pipeline(StandardScaler(), Ridge()).fit(x, y)
require("R2", pipeline.score(held_out, truth), 0.4)

model = to_onnx(
    pipeline,
    initial_types=[("X", DoubleTensorType([None, 10]))],
    name="diabetes",
    target_opset={"": sample.OPSET, "ai.onnx.ml": sample.ML_OPSET},
)


def answer(rows):
    return sample.case({"X": rows}, {"variable": pipeline.predict(rows).reshape(-1, 1)})


cases = [answer(held_out[:1]), answer(held_out[1:6]), answer(held_out[6:22])]
sample.save(__file__, model, cases, rtol=1e-9, atol=1e-9)
