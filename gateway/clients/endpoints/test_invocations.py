"""Sends tables of pandas to /invocations, and features to /predict.

Usage: test_invocations.py HTTP_ADDRESS
"""

import json
import sys

import numpy as np
import pandas as pd
import samples

SERVER = "http://" + sys.argv[1]
FLOWER = ["sepal_length", "sepal_width", "petal_length", "petal_width"]


def ask(path, body, *content_type, status=200, **headers):
    got, answer_headers, text = samples.post(SERVER + path, body, *content_type, **headers)
    assert got == status, f"{path}: status is {got}\nsent {str(body)[:500]}\ngot {text[:500]}"
    assert answer_headers["content-type"] == "application/json", answer_headers["content-type"]
    return json.loads(text), answer_headers


def table(case, names=None):
    """Makes a table of a case: a column for each input, or for each one of a matrix."""
    if len(case.inputs) > 1:
        return pd.DataFrame({name: value.ravel() for name, value in case.inputs.items()})
    return pd.DataFrame(next(iter(case.inputs.values())), columns=names)


def as_json(frame, orient):
    return json.loads(frame.to_json(orient=orient, double_precision=15))


def frames(frame):
    """Returns the bodies that are tables, with their content types."""
    split = as_json(frame, "split")
    yield {"dataframe_split": split}, "application/json"
    yield {"dataframe_split": {"columns": split["columns"], "data": split["data"]}}, \
        "application/json; charset=utf-8"
    yield {"dataframe_records": as_json(frame, "records")}, "application/json"
    yield frame.to_csv(index=False), "text/csv"
    yield frame.to_csv(index=False, lineterminator="\r\n"), "text/csv; charset=UTF-8"
    yield frame.to_csv(index=False, quoting=1), "text/csv"


def tensors(case):
    """Returns the bodies that are tensors."""
    columns = {name: value.tolist() for name, value in case.inputs.items()}
    yield {"inputs": columns}
    if len(columns) > 1:
        yield {"instances": [{n: v[i] for n, v in columns.items()} for i in range(case.rows)]}
        return
    rows = next(iter(columns.values()))
    yield {"inputs": rows}
    yield {"instances": rows}


def check(endpoint, model, names=None, known=True):
    """Sends all cases in all forms. known says that the model has names for its columns."""
    for case in samples.cases(model):
        for frame in orders(table(case, names)) if known else [table(case, names)]:
            for body, content_type in frames(frame):
                answer, headers = ask(f"/{endpoint}/invocations", body, content_type)
                case.hold_rows(answer["predictions"])
                assert headers["x-millrace-version"] == "1"
        for body in tensors(case):
            answer, _ = ask(f"/{endpoint}/invocations", body)
            case.hold(answer["predictions"])


def orders(frame):
    """The order of columns says nothing, nor do names of rows."""
    yield frame
    yield frame[frame.columns[::-1]]
    yield frame.set_index(pd.Index([f"row {i}" for i in range(len(frame))]))


def test_columns():
    check("bills", "tips")


def test_named_matrix():
    check("iris", "iris", FLOWER)
    check("flowers", "iris", FLOWER)


def test_matrix():
    for model in ["diabetes", "mlp", "breast_cancer"]:
        width = next(iter(samples.cases(model)[0].inputs.values())).shape[1]
        for names in [None, [f"c{i}" for i in range(width)]]:
            check(model, model, names, known=False)


def test_tensors():
    for model in ["digits", "digits_rnn", "simple", "simple_string"]:
        for case in samples.cases(model):
            for body in tensors(case):
                answer, _ = ask(f"/{model}/invocations", body)
                case.hold(answer["predictions"])


def test_dtypes():
    """pandas has several dtypes for the same numbers and strings."""
    case = samples.cases("tips")[1]
    frame = table(case)
    for column, dtypes in {"total_bill": ["float32", "float64", "Float32", "Float64"],
                           "size": ["int8", "uint8", "int32", "uint64", "Int64", "float64"],
                           "day": ["string", "category", "object"]}.items():
        for dtype in dtypes:
            if column == "total_bill" and dtype in ("float64", "Float64"):
                changed = frame.assign(total_bill=[float(str(v)) for v in frame["total_bill"]])
            else:
                changed = frame.astype({column: dtype})
            for body, content_type in frames(changed):
                answer, _ = ask("/bills/invocations", body, content_type)
                case.hold_rows(answer["predictions"])


def test_routes():
    body = {"dataframe_split": as_json(table(samples.cases("iris")[0], FLOWER), "split")}

    def f(path, version, route, **sent):
        answer, headers = ask(path, body, **sent)
        samples.cases("iris")[0].hold_rows(answer["predictions"])
        got = headers["x-millrace-version"], headers["x-millrace-route"]
        assert got == (version, route), got

    f("/iris/invocations", "1", "stable")
    f("/iris/invocations", "2", "canary", x_team="risk")
    f("/iris/versions/2/invocations", "2", "pinned")
    f("/iris/versions/@challenger/invocations", "2", "pinned")
    f("/invocations", "1", "stable", x_millrace_endpoint="flowers")
    f("/invocations", "2", "canary", x_millrace_endpoint="flowers", x_team="risk")
    answer, _ = ask("/invocations", body, status=400)
    assert answer["error_code"] == "BAD_REQUEST" and "x-millrace-endpoint" in answer["message"]
    answer, _ = ask("/nobody/invocations", body, status=404)
    assert "nobody" in answer["message"], answer


def test_predict():
    """Plain JSON: an object of features, or a list of them."""
    def f(endpoint, model, names, read):
        for case in samples.cases(model):
            rows = as_json(table(case, names), "records")
            alone = [ask(f"/predict/{endpoint}", row) for row in rows]
            assert all(headers["x-millrace-route"] == "stable" for _, headers in alone)
            for answer in [ask(f"/predict/{endpoint}", rows)[0], [a for a, _ in alone]]:
                case.hold_rows([read(row) for row in answer])

    classes = ["setosa", "versicolor", "virginica"]
    f("bills", "tips", None, lambda row: row)
    f("iris", "iris", FLOWER, lambda row: row | {
        "output_probability": [row["output_probability"][c] for c in classes]})


def test_errors():
    def f(text, body, *content_type, status=400, endpoint="bills"):
        answer, _ = ask(f"/{endpoint}/invocations", body, *content_type, status=status)
        assert text in answer["message"], f"{text!r} is not in {answer}"

    frame = table(samples.cases("tips")[0])
    split = as_json(frame, "split")
    f("time", {"dataframe_split": as_json(frame.drop(columns="time"), "split")})
    f("time", frame.drop(columns="time").to_csv(index=False), "text/csv")
    f("size", {"dataframe_split": as_json(frame.assign(size=2.5), "split")})
    f("size", frame.assign(size="two").to_csv(index=False), "text/csv")
    f("dataframe_split", {"data": split})
    f("dataframe_split", {"dataframe_split": split, "instances": []})
    f("JSON", [split])
    f("size", {"dataframe_records": as_json(frame.assign(size=np.nan), "records")})
    wide = as_json(table(samples.cases("iris")[0]), "split")
    f("sepal_length", {"dataframe_split": {"columns": wide["columns"][:3], "data": [[1, 2, 3]]}},
      endpoint="iris")


samples.run(globals())
