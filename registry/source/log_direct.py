"""Registers a model whose files the client writes into a folder by itself.

log_direct.py URI NAME FOLDER
"""

import pathlib
import sys

import mlflow
import mlflow.onnx
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

uri, name, folder = sys.argv[1:]
mlflow.set_tracking_uri(uri)
place = pathlib.Path(folder).as_uri()
mlflow.set_experiment(experiment_id=mlflow.create_experiment(name, artifact_location=place))
x, y = load_iris(return_X_y=True)
x = x.astype("float32")
fitted = LogisticRegression(max_iter=1000).fit(x, y)
with mlflow.start_run():
    mlflow.onnx.log_model(
        to_onnx(fitted, x[:1], options={"zipmap": False}),
        name="model",
        registered_model_name=name,
    )
