"""Trains two models on the iris data, logs and registers them as ONNX, and says
what MLflow's own client makes of them.

    log_model.py URI NAME OUT.json
"""

import hashlib
import json
import os
import sys
import tempfile

import mlflow
import mlflow.onnx
from mlflow.models import infer_signature
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression

uri, name, out = sys.argv[1:]
mlflow.set_tracking_uri(uri)
mlflow.set_experiment("train")
client = mlflow.MlflowClient()
three = int(mlflow.__version__.split(".")[0]) >= 3

x, y = load_iris(return_X_y=True)
x = x.astype("float32")
runs = []
for c in (0.1, 1.0):
    fitted = LogisticRegression(C=c, max_iter=1000).fit(x, y)
    onnx = to_onnx(fitted, x[:1], options={"zipmap": False})
    with mlflow.start_run() as run:
        mlflow.log_text("kept", "notes/für den käse 100%.txt")
        mlflow.log_text("", "notes/empty")
        mlflow.onnx.log_model(
            onnx,
            **{"name" if three else "artifact_path": "model"},
            registered_model_name=name,
            signature=infer_signature(x, fitted.predict(x)),
            input_example=x[:2],
        )
        runs.append(run.info.run_id)
client.set_registered_model_alias(name, "champion", "1")
client.set_model_version_tag(name, "1", "validation", "passed")
client.set_registered_model_tag(name, "team", "risk")
client.transition_model_version_stage(name, "1", "Production")


def digests(uri):
    """Returns the SHA-256 of each file, but of the one that a download adds."""
    with tempfile.TemporaryDirectory() as dir:
        top = mlflow.artifacts.download_artifacts(uri, dst_path=dir)
        files = {}
        for folder, _, names in os.walk(top):
            for file in names:
                path = os.path.join(folder, file)
                with open(path, "rb") as f:
                    files[os.path.relpath(path, top)] = hashlib.sha256(f.read()).hexdigest()
    files.pop("registered_model_meta", None)
    return files


versions = [client.get_model_version(name, v) for v in ("1", "2")]
with open(out, "w") as f:
    json.dump(
        {
            "runs": runs,
            "sources": [v.source for v in versions],
            # models:/NAME/VERSION would not do: the client takes an @ for an alias.
            "files": [
                digests(client.get_model_version_download_uri(name, v)) for v in ("1", "2")
            ],
            "notes": digests(f"runs:/{runs[0]}/notes"),
        },
        f,
    )
