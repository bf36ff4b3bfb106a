"""Writes a sample model's folder: the ONNX file, the expected answers, a request to try.

A train.py builds the model and, with the library that trained it, the answers
to a few requests. Nothing here runs ONNX Runtime: expected.json is what the
server's answers are held against.
"""

import json
from pathlib import Path

import numpy as np
import onnx

# Old enough for every ONNX Runtime that one may meet.
OPSET = 17
ML_OPSET = 3
IR_VERSION = 8

DATATYPES = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "object": "BYTES",
}


def tensor(name, array):
    """Returns an array as a tensor of the inference protocol, its data flat."""
    array = np.asarray(array)
    return {
        "name": name,
        "shape": list(array.shape),
        "datatype": DATATYPES[array.dtype.name],
        "data": [_plain(v) for v in array.ravel()],
    }


def case(inputs, outputs):
    """Returns a request and its answer; both are dicts of name to array."""
    return {
        "request": {"inputs": [tensor(n, a) for n, a in inputs.items()]},
        "response": {"outputs": [tensor(n, a) for n, a in outputs.items()]},
    }


def build(nodes, inputs, outputs, weights=()):
    """Returns a checked model made of nodes; weights is a dict of name to array."""
    graph = onnx.helper.make_graph(
        nodes,
        "sample",
        inputs,
        outputs,
        [onnx.numpy_helper.from_array(a, n) for n, a in dict(weights).items()],
    )
    opset = onnx.helper.make_opsetid("", OPSET)
    model = onnx.helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return model


def save(script, model, cases, rtol=0.0, atol=0.0):
    """Writes the model and its cases beside the script that made them."""
    folder = Path(script).resolve().parent
    version = folder / "1"
    version.mkdir(exist_ok=True)
    # Only what the server reads: dates and doc strings would make each training a change.
    model.doc_string = model.graph.doc_string = ""
    model.producer_name, model.producer_version = "millrace", ""
    (version / "model.onnx").write_bytes(model.SerializeToString(deterministic=True))
    for c in cases:
        c.update(rtol=rtol, atol=atol)
    lines = ",\n".join(json.dumps(c) for c in cases)
    (folder / "expected.json").write_text('{"cases": [\n' + lines + "\n]}\n")
    first = cases[0]["request"]
    if all(t["datatype"] != "FP16" for t in first["inputs"]):  # JSON has no half floats
        write_request(folder / "sample.json", first)


def write_request(path, request):
    """Writes a request body that curl can send."""
    Path(path).write_text(json.dumps(request) + "\n")


def _plain(value):
    """Returns a scalar as JSON writes it, a float in its shortest decimal form."""
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, np.generic):
        return value.item()
    return value
