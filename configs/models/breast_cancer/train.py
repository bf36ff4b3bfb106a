"""Gradient boosting on the breast cancer data: 40 shallow trees over 30 features.

ZipMap is switched off. There is no config.pbtxt: the server completes it.
"""

import numpy as np
import sample
from nets import require
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import train_test_split

x, y = load_breast_cancer(return_X_y=True)
x, held_out, y, truth = train_test_split(
    x.astype(np.float32), y, test_size=0.2, stratify=y, random_state=0
)
trees = GradientBoostingClassifier(n_estimators=40, max_depth=2, random_state=0).fit(x, y)
require("accuracy", trees.score(held_out, truth), 0.9)

model = to_onnx(
    trees,
    initial_types=[("X", FloatTensorType([None, 30]))],
    options={"zipmap": False},
    name="breast_cancer",
    target_opset={"": sample.OPSET, "ai.onnx.ml": sample.ML_OPSET},
)


def answer(rows):
    return sample.case(
        {"X": rows},
        {
            "label": trees.predict(rows).astype(np.int64),
            "probabilities": trees.predict_proba(rows).astype(np.float32),
        },
    )


cases = [answer(held_out[:1]), answer(held_out[1:3]), answer(held_out[3:7])]
sample.save(__file__, model, cases, rtol=1e-4, atol=1e-5)
