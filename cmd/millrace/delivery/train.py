"""Trains a classifier on scikit-learn's digits and registers it with MLflow as ONNX.

    train.py URI NAME KIND ALIAS ROWS.json

KIND says what becomes of the model: `first` and `better` are as they were trained;
`errors` fails on 3 % of the rows, `slow` computes more than twice as much, and
`differs` answers 5 % of the rows wrongly. ROWS.json gets the rows that it was trained on.
"""

import json
import sys
import warnings

import mlflow
import mlflow.onnx
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from skl2onnx import to_onnx
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

warnings.filterwarnings("ignore")
uri, name, kind, alias, rows = sys.argv[1:]
x, y = load_digits(return_X_y=True)
x = x.astype("float32")
order = np.random.default_rng(7).permutation(len(x))
x, y = x[order[:1000]], y[order[:1000]]

# The better one goes on where the first has stopped.
net = MLPClassifier((64,), max_iter=60 if kind == "first" else 90, random_state=1)
net.fit(x, y)
model = to_onnx(net, x[:1], options={"zipmap": False}, target_opset=18)
graph = model.graph
taken = graph.input[0].name
label, scores = [o.name for o in graph.output]


def constant(value, called):
    graph.initializer.append(numpy_helper.from_array(np.asarray(value), called))
    return called


def node(operator, takes, gives, **attributes):
    graph.node.append(helper.make_node(operator, takes, [gives], **attributes))
    return gives


def rename(old, new):
    for n in graph.node:
        n.output[:] = [new if o == old else o for o in n.output]
        n.input[:] = [new if i == old else i for i in n.input]


rename(scores, "plain_scores")
ink = node("ReduceSum", [taken, constant(np.array([1], "int64"), "axis")], "ink")  # [N, 1]
sums = np.sort(x.sum(axis=1))

# Work whose result is zero, and which depends on the input so that it is done each time.
work = 5 if kind == "slow" else 2
size = 160
nothing = node("Mul", [node("ReduceMean", [taken], "mean", keepdims=0),
                       constant(np.float32(0), "zero")], "nothing")
square = node("Add", [constant(np.eye(size, dtype="float32"), "square"), nothing], "s0")
for i in range(work):
    square = node("MatMul", [square, "s0"], f"s{i + 1}")
nought = node("Mul", [node("ReduceMean", [square], "mean_square", keepdims=0), "zero"], "nought")
plain = node("Add", ["plain_scores", nought], "worked_scores")

if kind == "errors":
    limit = constant(sums[int(0.97 * len(sums))].reshape(1, 1), "limit")
    much = node("Cast", [node("Greater", ["ink", limit], "is_much")], "much", to=TensorProto.INT64)
    place = node("Mul", [much, constant(np.int64(1000), "thousand")], "place")
    gathered = node("Gather", [constant(np.zeros(1, "float32"), "only"), place], "gathered")
    node("Add", [plain, gathered], scores)
elif kind == "differs":
    limit = constant(sums[int(0.05 * len(sums))].reshape(1, 1), "limit")
    little = node("Less", ["ink", limit], "is_little")
    wrong = node("Sub", [constant(np.float32(1), "one"), plain], "wrong")
    node("Where", [little, wrong, plain], scores)
else:
    node("Identity", [plain], scores)
onnx.checker.check_model(model)

mlflow.set_tracking_uri(uri)
mlflow.set_experiment("train")
with mlflow.start_run(run_name=kind):
    mlflow.log_metric("accuracy", net.score(x, y))
    info = mlflow.onnx.log_model(model, name="model", registered_model_name=name)
client = mlflow.MlflowClient()
version = max(client.search_model_versions(f"name='{name}'"), key=lambda v: int(v.version)).version
client.set_registered_model_alias(name, alias, version)
with open(rows, "w") as f:
    json.dump(x.tolist(), f)
print(version)
