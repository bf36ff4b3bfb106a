"""Logistic regression on the wine data, with the scaler inside the model.

ZipMap is switched off: the outputs are a label and a matrix of probabilities.
There is no config.pbtxt: the server completes it.
"""

import numpy as np
import sample
from nets import require
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

x, y = load_wine(return_X_y=True)
x, held_out, y, truth = train_test_split(
    x.astype(np.float32), y, test_size=0.2, stratify=y, random_state=0
)
pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x, y)
require("accuracy", pipeline.score(held_out, truth), 0.95)

model = to_onnx(
    pipeline,
    initial_types=[("X", FloatTensorType([None, 13]))],
    options={"zipmap": False},
    name="wine",
    target_opset={"": sample.OPSET, "ai.onnx.ml": sample.ML_OPSET},
)


def answer(rows):
    return sample.case(
        {"X": rows},
        {
            "label": pipeline.predict(rows).astype(np.int64),
            "probabilities": pipeline.predict_proba(rows).astype(np.float32),
        },
    )


cases = [answer(held_out[:1]), answer(held_out[1:3]), answer(held_out[3:7])]
sample.save(__file__, model, cases, rtol=1e-4, atol=1e-5)
