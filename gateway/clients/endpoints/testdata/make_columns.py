"""Makes the model columns: a column of each datatype that MLflow has. Needs: onnx==1.23.2."""

import pathlib

import onnx
from onnx import TensorProto as T
from onnx import helper as h

COLUMNS = {"flag": T.BOOL, "count": T.INT32, "number": T.INT64, "ratio": T.FLOAT,
           "amount": T.DOUBLE, "word": T.STRING}


def info(name, elem):
    return h.make_tensor_value_info(name, elem, ["rows"])


graph = h.make_graph(
    [h.make_node("Identity", [name], [f"same_{name}"]) for name in COLUMNS], "columns",
    [info(name, elem) for name, elem in COLUMNS.items()],
    [info(f"same_{name}", elem) for name, elem in COLUMNS.items()], doc_string="made for tests")
model = h.make_model(graph, opset_imports=[h.make_opsetid("", 18)], ir_version=9,
                     producer_name="make_columns")
onnx.checker.check_model(model)
onnx.save(model, pathlib.Path(__file__).parent / "columns" / "model.onnx")
