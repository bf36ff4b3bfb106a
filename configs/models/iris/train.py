"""A small random forest on Fisher's irises that answers with class names.

The ZipMap that skl2onnx puts at the end is left in: the probabilities come out
of the graph as a sequence of maps, one a row, from class name to probability.
config.pbtxt only names the columns: the server completes the rest.
"""

import numpy as np
import sample
from nets import require
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import train_test_split

data = load_iris()
x, held_out, y, truth = train_test_split(
    data.data.astype(np.float32),
    data.target_names[data.target],
    test_size=0.2,
    stratify=data.target,
    random_state=0,
)
forest = RandomForestClassifier(n_estimators=10, max_depth=4, random_state=0).fit(x, y)
require("accuracy", forest.score(held_out, truth), 0.9)

model = to_onnx(
    forest,
    initial_types=[("X", FloatTensorType([None, 4]))],
    name="iris",
    target_opset={"": sample.OPSET, "ai.onnx.ml": sample.ML_OPSET},
)


def answer(rows):
    return sample.case(
        {"X": rows},
        {
            "output_label": forest.predict(rows).astype(object),
            "output_probability": forest.predict_proba(rows).astype(np.float32),
        },
    )


cases = [answer(held_out[:1]), answer(held_out[1:4]), answer(held_out[4:8])]
sample.save(__file__, model, cases, rtol=1e-5, atol=1e-6)
