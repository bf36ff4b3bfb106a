"""Holds the answers of /invocations against those of MLflow's own scoring server.

Both serve the same folders, as MLflow writes them: columns, which answers what
it gets in columns of each datatype, and progress, the sample model diabetes
with names for its columns.

Usage: test_mlflow.py HTTP_ADDRESS FOLDER_OF_MODELS
"""

import csv
import json
import logging
import math
import sys
import warnings

import mlflow.pyfunc
import numpy as np
import pandas as pd
import samples
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import scoring_server
from mlflow.pyfunc.scoring_server.client import ScoringServerClient
from mlflow.utils.proto_json_utils import dump_input_data

warnings.filterwarnings("ignore")
logging.getLogger("mlflow").setLevel(logging.ERROR)
ADDRESS, FOLDER = sys.argv[1], sys.argv[2]
JSON, CSV = "application/json", "text/csv"
PROGRESS = "age sex bmi bp s1 s2 s3 s4 s5 s6".split()  # columns of that model
MODELS = {name: mlflow.pyfunc.load_model(f"{FOLDER}/{name}") for name in ["columns", "progress"]}
TABLE = pd.DataFrame({
    "flag": [True, False, True],
    "count": np.array([1, -2**31, 2**31 - 1], np.int32),
    "number": [2**63 - 1, -2**63, 0],
    "ratio": np.array([0.1, -3.4028235e38, 1.5e-45], np.float32),
    "amount": [0.1, 1.7976931348623157e308, -5e-324],
    "word": ["a", "ü€😀", 'x,"y"\nz'],
})


def theirs(model, body, content_type):
    m = MODELS[model]
    try:
        r = scoring_server.invocations(body, content_type, m, m.metadata.get_input_schema())
    except MlflowException as e:
        return e.get_http_status_code(), json.loads(e.serialize_as_json())
    return r.status, json.loads(r.response) if r.mimetype == JSON else r.response


def ours(model, body, content_type):
    status, _, text = samples.post(f"http://{ADDRESS}/{model}/invocations", body, content_type)
    return status, json.loads(text)


def equal(a, b):
    """Compares values of JSON: types, keys, and numbers up to rounding."""
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, float) and isinstance(b, (float, int)):
        both = math.isnan(a) and math.isnan(b)
        # MLflow widens FP32 to FP64 before it writes it, which has more digits.
        return both or a == b or math.isclose(a, b, rel_tol=1e-7, abs_tol=1e-45)
    return type(a) is type(b) and a == b


def compare(model, body, content_type, agree):
    """Asks both servers, and notes the request where their answers do not agree."""
    if not isinstance(body, str):
        body = json.dumps(body)
    want, got = theirs(model, body, content_type), ours(model, body, content_type)
    if not agree(want, got):
        wrong.append(f"{model}, {content_type}: {body[:400]}\n  MLflow {str(want)[:700]}"
                     f"\n  ours   {str(got)[:700]}")


wrong = []  # requests that are answered otherwise than they should


def same(model, body, content_type=JSON):
    """Wants the same answer from both."""
    compare(model, body, content_type, lambda want, got: want[0] == got[0] == 200 and
            equal(want[1], got[1]))


def refused(model, body, content_type=JSON):
    """Wants both to refuse a request."""
    compare(model, body, content_type, lambda want, got: want[0] == got[0] == 400 and
            got[1]["error_code"] in ("BAD_REQUEST", "INVALID_PARAMETER_VALUE") and
            got[1]["message"])


def stricter(model, body, content_type=JSON):
    """Wants ours to refuse a request of which MLflow changes a value in silence."""
    compare(model, body, content_type, lambda want, got: want[0] == 200 and got[0] == 400)


def test_forms():
    for frame in [TABLE, TABLE[TABLE.columns[::-1]], TABLE[:1], TABLE.assign(more=7)]:
        split = json.loads(dump_input_data(frame))
        rows = frame.to_dict("records")
        same("columns", split)
        same("columns", split | {"params": {}})
        same("columns", {"dataframe_records": rows})
        same("columns", {"instances": rows})
        same("columns", {"inputs": frame.to_dict("list")})
        same("columns", frame.to_csv(index=False), CSV)
        same("columns", frame.to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC), CSV)
        same("columns", frame.to_csv(), CSV)  # with a column that has no name


def test_matrix():
    for case in samples.cases("diabetes"):
        frame = pd.DataFrame(case.inputs["X"], columns=PROGRESS)
        for f in [frame, frame[PROGRESS[::-1]], frame.assign(extra=1.5)]:
            same("progress", dump_input_data(f))
            same("progress", {"dataframe_records": f.to_dict("records")})
            same("progress", f.to_csv(index=False), CSV)
            same("progress", {"inputs": f.to_dict("list")})
            same("progress", {"instances": f.to_dict("records")})
        refused("progress", dump_input_data(frame.drop(columns="bmi")))
        refused("progress", frame.drop(columns="bmi").to_csv(index=False), CSV)


def test_values():
    def f(want, column, *values):
        for value in values:
            row = TABLE[:1].to_dict("records")[0] | {column: value}
            want("columns", {"dataframe_records": [row]})
            want("columns", {"dataframe_split": {"columns": list(row),
                                                 "data": [list(row.values())]}})

    f(same, "flag", False, True)
    f(stricter, "flag", 1, 0, 1.0, 2, "true", None)
    f(same, "count", 0, 5.0, 1e3, -2**31)
    f(stricter, "count", 2.5, 2**31, "5", True)
    f(refused, "count", None, "five")
    f(same, "number", 0, 5.0, 2**53 + 1, -2**63)
    f(stricter, "number", 2.5, 2**63, "5", False)
    f(refused, "number", None)
    f(same, "ratio", 1, 1e-50, None, float("nan"), float("inf"))
    f(stricter, "ratio", 1e39, "0.5", True)
    f(refused, "ratio", "half", [1, 2], {})
    f(same, "amount", 3, 2**53, None, float("nan"), float("-inf"))
    f(stricter, "amount", "0.5", True)
    f(same, "word", "", "NaN", "null", "\u0000", "\U0001f600")
    f(stricter, "word", 5, True, None)


def test_csv():
    def f(want, *rows):
        want("columns", "\n".join(("flag,count,number,ratio,amount,word",) + rows) + "\n", CSV)

    f(same, "True,1,2,0.5,1.5,a")
    f(same, "true,1,2,0.5,1.5,a", "FALSE,1,2,0.5,1.5,b")
    f(same, "True,1,2,,,a")
    f(same, "True,1,2,NaN,nan,a")
    f(same, "True,1,2,inf,-inf,a")
    f(same, "True,1,2,1e3,1E-3,a")
    f(same, "True,1,2,.5,+1.5,a")
    f(same, 'True,1,2,0.5,1.5,"a ""b"", c\nd"')
    f(same, "True,1,2,0.5,1.5,5")
    f(same, "True,1,2,0.5,1.5,a", "", "False,1,2,0.5,1.5,b")
    f(same, "True, 1, 2, 0.5, 1.5, a")
    f(stricter, "1,1,2,0.5,1.5,a")
    f(stricter, "True,1,2,0.5,1.5,")
    f(stricter, "True,1,2,0.5,1.5,NA")
    f(stricter, "True,1,2,0.5")
    f(refused, "True,,2,0.5,1.5,a")
    f(refused, "True,1.5,2,0.5,1.5,a")
    f(refused, "True,x,2,0.5,1.5,a")
    f(refused, "True,1,2,0.5,1.5,a", "True,1,2,0.5,1.5,a,b,c")
    refused("columns", "", CSV)
    refused("columns", TABLE.to_csv(index=False, sep=";"), CSV)
    refused("columns", TABLE.drop(columns="word").to_csv(index=False), CSV)


def test_errors():
    split = json.loads(dump_input_data(TABLE))
    data, rows = split["dataframe_split"], TABLE.to_dict("records")
    for body in ["", "{", "[]", "5", "null", '"text"', "{}", '{"data": []}']:
        refused("columns", body)
    refused("columns", split | {"dataframe_records": rows})
    refused("columns", {"dataframe_split": rows})
    refused("columns", {"dataframe_split": {"columns": data["columns"]}})
    refused("columns", {"dataframe_split": data | {"data": [[True, 1]]}})
    refused("columns", {"dataframe_records": []})
    refused("columns", {"dataframe_records": [5]})
    refused("columns", {"dataframe_records": rows[:1] + [{"flag": True}]})
    refused("columns", dump_input_data(TABLE.drop(columns="word")))
    refused("columns", {"inputs": TABLE.to_dict("list") | {"word": ["a"]}})
    refused("columns", {"instances": rows[:1] + [{"flag": True}]})
    same("columns", split | {"other": 1})


def test_content_types():
    body = dump_input_data(TABLE)
    for content_type in [JSON, f"{JSON}; charset=utf-8", f"{JSON};charset=UTF-8",
                         f"{JSON}; charset=latin1", "text/plain", "application/xml"]:
        want, got = theirs("columns", body, content_type)[0], ours("columns", body, content_type)[0]
        if want != got:
            wrong.append(f"{content_type}: MLflow answers {want}, ours {got}")


def test_client():
    host, port = ADDRESS.rsplit(":", 1)
    client = ScoringServerClient(host, port)
    client.ping()
    client.wait_server_ready(timeout=5)
    assert client.get_version()
    client = ScoringServerClient(host, port + "/progress")
    case = samples.cases("diabetes")[1]
    answer = client.invoke(pd.DataFrame(case.inputs["X"], columns=PROGRESS))
    case.hold({"variable": answer.get_predictions()["variable"]})
    case = samples.cases("tips")[1]
    client = ScoringServerClient(host, port + "/bills")
    answer = client.invoke(pd.DataFrame({n: v.ravel() for n, v in case.inputs.items()}))
    assert answer.get_predictions().shape == (case.rows, 1)
    case.hold({"variable": answer.get_predictions()["variable"]})
    answer = ScoringServerClient(host, port + "/diabetes").invoke(
        samples.cases("diabetes")[0].inputs["X"])
    assert answer["predictions"].keys() == {"variable"}, answer


def test_nothing_differs():
    assert not wrong, f"{len(wrong)} answers differ:\n" + "\n".join(wrong)


samples.run(globals())
