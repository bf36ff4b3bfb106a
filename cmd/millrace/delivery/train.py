"""Trains classifiers on scikit-learn's digits and registers them with MLflow as ONNX.

    train.py URI NAME ROWS.json KIND...

Each KIND becomes a version: `first` and `better` are as they were trained; `errors` fails on
3 % of the rows, `slow` computes four times as much, and `differs` answers 5 % of the
rows wrongly. ROWS.json gets the rows that they were trained on.
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
x, y = load_digits(return_X_y=True)
x = x.astype("float32")
order = np.random.default_rng(7).permutation(len(x))
x, y = x[order[:1000]], y[order[:1000]]
sums = np.sort(x.sum(axis=1))


class Graph:
    """A graph that grows at its end."""

    def __init__(self, net):
        self.model = to_onnx(net, x[:1], options={"zipmap": False}, target_opset=18)
        self.graph = self.model.graph

    def constant(self, value, called):
        self.graph.initializer.append(numpy_helper.from_array(np.asarray(value), called))
        return called

    def node(self, operator, takes, gives, **attributes):
        self.graph.node.append(helper.make_node(operator, takes, [gives], **attributes))
        return gives

    def rename(self, old, new):
        for n in self.graph.node:
            n.output[:] = [new if o == old else o for o in n.output]
            n.input[:] = [new if i == old else i for i in n.input]


def build(net, kind):
    g = Graph(net)
    constant, node = g.constant, g.node
    taken = g.graph.input[0].name
    label, scores = [o.name for o in g.graph.output]
    g.rename(scores, "plain_scores")
    ink = node("ReduceSum", [taken, constant(np.array([1], "int64"), "axis")], "ink")  # [N, 1]

    # Work whose result is zero, and which depends on the input so that it is done each time.
    size = 160
    nothing = node("Mul", [node("ReduceMean", [taken], "mean", keepdims=0),
                           constant(np.float32(0), "zero")], "nothing")
    square = node("Add", [constant(np.eye(size, dtype="float32"), "square"), nothing], "s0")
    for i in range(8 if kind == "slow" else 2):
        square = node("MatMul", [square, "s0"], f"s{i + 1}")
    mean = node("ReduceMean", [square], "mean_square", keepdims=0)
    plain = node("Add", ["plain_scores", node("Mul", [mean, "zero"], "nought")], "worked_scores")

    if kind == "errors":
        limit = constant(sums[int(0.97 * len(sums))].reshape(1, 1), "limit")
        much = node("Cast", [node("Greater", [ink, limit], "is_much")], "much",
                    to=TensorProto.INT64)
        place = node("Mul", [much, constant(np.int64(1000), "thousand")], "place")
        gathered = node("Gather", [constant(np.zeros(1, "float32"), "only"), place], "gathered")
        node("Add", [plain, gathered], scores)
    elif kind == "differs":
        limit = constant(sums[int(0.05 * len(sums))].reshape(1, 1), "limit")
        little = node("Less", [ink, limit], "is_little")
        wrong = node("Sub", [constant(np.float32(1), "one"), plain], "wrong")
        node("Where", [little, wrong, plain], scores)
    else:
        node("Identity", [plain], scores)
    onnx.checker.check_model(g.model)
    return g.model


def main(uri, name, rows, *kinds):
    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("train")
    for kind in kinds:
        # The better ones go on where the first has stopped.
        net = MLPClassifier((64,), max_iter=60 if kind == "first" else 90, random_state=1)
        net.fit(x, y)
        with mlflow.start_run(run_name=kind):
            mlflow.log_metric("accuracy", net.score(x, y))
            mlflow.onnx.log_model(build(net, kind), name="model", registered_model_name=name)
    with open(rows, "w") as f:
        json.dump(x.tolist(), f)


main(*sys.argv[1:])
