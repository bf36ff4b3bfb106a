"""Makes golden sets of scikit-learn's data for sample models, and scores them with
scikit-learn on the answers of ONNX Runtime's own package.

golden.py MODELS OUT
"""

import csv
import json
import pathlib
import sys

import numpy as np
import onnxruntime
from sklearn import datasets, metrics

models, out = map(pathlib.Path, sys.argv[1:])
scores = {}


def answers(model, x):
    """Returns the outputs of a model by their names."""
    session = onnxruntime.InferenceSession(models / model / "1" / "model.onnx")
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(None, {session.get_inputs()[0].name: x})))


def table(model, names, x, output, y):
    """Writes a golden set as CSV, what is expected in the middle."""
    half = len(names) // 2
    with open(out / f"{model}.csv", "w", newline="") as f:
        lines = csv.writer(f, lineterminator="\n")
        lines.writerow([*names[:half], output, *names[half:]])
        lines.writerows([*row[:half], v, *row[half:]] for row, v in zip(x.tolist(), y.tolist()))


def document(model, name, x, output, y):
    """Writes a golden set as JSON."""
    text = json.dumps({"inputs": {name: x.tolist()}, "expected": {output: y.tolist()}})
    (out / f"{model}.json").write_text(text.replace("], [", "],\n[") + "\n")


def score(model, y, got, *names):
    """Notes what scikit-learn's metrics give."""
    for name in names:
        scores[f"{model} {name}"] = float(getattr(metrics, name)(y, got))


iris = datasets.load_iris()
y = iris.target_names[iris.target]
table("iris", iris.feature_names, iris.data, "output_label", y)
got = answers("iris", iris.data.astype(np.float32))["output_label"]
score("iris", y, got, "accuracy_score", "balanced_accuracy_score")

digits = datasets.load_digits()
x, y = digits.data[-300:].astype(np.int64), digits.target[-300:]
document("mlp", "x", x, "y", y)
got = answers("mlp", x.astype(np.float32))["y"].argmax(axis=1)
score("mlp", y, got, "accuracy_score", "balanced_accuracy_score")

cancer = datasets.load_breast_cancer()
x, y = cancer.data[:150], cancer.target[:150]
document("breast_cancer", "X", x, "probabilities", y)
got = answers("breast_cancer", x.astype(np.float32))["probabilities"]
score("breast_cancer", y, got[:, 1], "roc_auc_score")
score("breast_cancer", y, got.argmax(axis=1), "accuracy_score")

diabetes = datasets.load_diabetes(scaled=False)
x, y = diabetes.data[:200], diabetes.target[:200]
table("diabetes", diabetes.feature_names, x, "variable", y)
got = answers("diabetes", x)["variable"][:, 0]
score(
    "diabetes", y, got, "r2_score", "mean_absolute_error", "root_mean_squared_error"
)

(out / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")
