"""The tip that a table leaves, from its bill: a regression with string inputs.

The data is plotly's table of tips. Each column is an input of its own, [N, 1]:
the bill FP32, the size of the party INT64, the four others strings.
"""

import numpy as np
import plotly.data
import sample
from nets import require
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import Ridge
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

NUMBERS = ["total_bill", "size"]
STRINGS = ["sex", "smoker", "day", "time"]

table = plotly.data.tips(return_type="pandas").astype({c: object for c in STRINGS})
x, held_out, y, truth = train_test_split(
    table[NUMBERS + STRINGS], table["tip"], test_size=0.2, random_state=2
)
pipeline = make_pipeline(
    ColumnTransformer(
        [
            ("numbers", StandardScaler(), NUMBERS),
            ("strings", OneHotEncoder(handle_unknown="ignore"), STRINGS),
        ]
    ),
    Ridge(),
).fit(x, y)
require("R2", pipeline.score(held_out, truth), 0.4)

model = to_onnx(
    pipeline,
    initial_types=[
        ("total_bill", FloatTensorType([None, 1])),
        ("size", Int64TensorType([None, 1])),
        *((name, StringTensorType([None, 1])) for name in STRINGS),
    ],
    name="tips",
    target_opset={"": sample.OPSET, "ai.onnx.ml": sample.ML_OPSET},
)


def answer(rows):
    types = {"total_bill": np.float32, "size": np.int64}
    return sample.case(
        {n: rows[[n]].to_numpy(dtype=types.get(n, object)) for n in rows.columns},
        {"variable": pipeline.predict(rows).astype(np.float32).reshape(-1, 1)},
    )


# The last case has a day that no row of the table has: the encoder ignores it.
unknown = held_out[:2].assign(day="Mon")
cases = [answer(held_out[:1]), answer(held_out[1:4]), answer(held_out[4:12]), answer(unknown)]
sample.save(__file__, model, cases, rtol=1e-4, atol=1e-5)
