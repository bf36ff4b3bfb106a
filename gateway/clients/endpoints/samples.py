"""Requests to the sample models, and the answers that have to come."""

import json
import pathlib
import sys
import traceback
import urllib.error
import urllib.request

import numpy as np

MODELS = pathlib.Path(__file__).parents[3] / "configs" / "models"
DTYPES = {"FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "INT32": np.int32,
          "INT64": np.int64, "BYTES": object}


class Case:
    """One request with its answer. Tensors are numpy arrays by name."""

    def __init__(self, case):
        self.inputs = self._tensors(case["request"]["inputs"])
        self.outputs = self._tensors(case["response"]["outputs"])
        self.datatypes = {i["name"]: i["datatype"] for i in case["request"]["inputs"]}
        self.tolerance = {"rtol": case.get("rtol", 0), "atol": case.get("atol", 0)}
        self.rows = len(next(iter(self.inputs.values())))

    @staticmethod
    def _tensors(listed):
        return {t["name"]: np.array(t["data"], DTYPES[t["datatype"]]).reshape(t["shape"])
                for t in listed}

    def hold(self, outputs):
        """Holds outputs by name, in any shape with as many values, against the answer."""
        assert set(outputs) == set(self.outputs), f"outputs are {sorted(outputs)}"
        for name, want in self.outputs.items():
            got = np.array(outputs[name], dtype=want.dtype).reshape(want.shape)
            if want.dtype == object:
                got = [v.decode() if isinstance(v, bytes) else v for v in got.ravel()]
                assert got == list(want.ravel()), f"{name} is {got}, want {want}"
            else:
                np.testing.assert_allclose(got, want, err_msg=name, **self.tolerance)

    def hold_rows(self, rows):
        """Holds a list with an object for each row against the answer."""
        assert len(rows) == self.rows, f"{len(rows)} rows"
        self.hold({name: [row[name] for row in rows] for name in rows[0]})


def cases(model):
    """Returns the requests to a sample model."""
    text = (MODELS / model / "expected.json").read_text()
    return [Case(c) for c in json.loads(text)["cases"]]


def post(url, body, content_type="application/json", **headers):
    """Sends a request and returns the status, the headers and the body of the answer."""
    if not isinstance(body, (str, bytes)):
        body = json.dumps(body)
    if isinstance(body, str):
        body = body.encode()
    headers = {"Content-Type": content_type} | {k.replace("_", "-"): v for k, v in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers)) as r:
            return r.status, r.headers, r.read()
    except urllib.error.HTTPError as e:
        return e.code, e.headers, e.read()


def run(tests):
    """Runs the functions among tests whose names begin with test_, and exits if one fails."""
    failed = []
    for name, test in list(tests.items()):
        if name.startswith("test_"):
            print(name, flush=True)
            try:
                test()
            except Exception:
                traceback.print_exc()
                failed.append(name)
    if failed:
        sys.exit("failed: " + ", ".join(failed))
