"""Registers a model of scikit-learn that is not ONNX.

log_sklearn.py URI NAME
"""

import sys

import mlflow
import mlflow.sklearn
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

uri, name = sys.argv[1:]
mlflow.set_tracking_uri(uri)
x, y = load_iris(return_X_y=True)
with mlflow.start_run():
    mlflow.sklearn.log_model(
        LogisticRegression(max_iter=1000).fit(x, y),
        name="model",
        registered_model_name=name,
        serialization_format="cloudpickle",
    )
