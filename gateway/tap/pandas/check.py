"""Opens files of samples as people do, and compares each value with what was sent.

usage: check.py FOLDER   (with samples-*, feedback-* in both formats, and sent.json)
"""

import base64
import glob
import json
import sys

import duckdb
import numpy as np
import pandas as pd

NUMPY = {"BOOL": "?", "UINT8": "u1", "UINT16": "u2", "UINT32": "u4", "UINT64": "u8",
         "INT8": "i1", "INT16": "i2", "INT32": "i4", "INT64": "i8", "FP32": "f4", "FP64": "f8"}


def values(tensor):
    """Returns the elements of a tensor that was sent: numbers as an array, BYTES as a list."""
    data = base64.b64decode(tensor["data"])
    if tensor["datatype"] == "BYTES":
        elements = []
        while data:
            n = int.from_bytes(data[:4], "little")
            elements.append(data[4:4 + n])
            data = data[4 + n:]
        return elements
    if tensor["datatype"] == "FP16":
        return np.frombuffer(data, "f2").astype("f4")
    if tensor["datatype"] == "BF16":
        return (np.frombuffer(data, "u2").astype("u4") << 16).view("f4")
    return np.frombuffer(data, NUMPY[tensor["datatype"]])


def is_null(value):
    return value is None or value is pd.NA or isinstance(value, float) and value != value


def check_values(where, got, want, bits):
    """Compares one cell. bits says that got must be an array of the same type and bits."""
    if isinstance(want, list):
        text = all(isinstance(v, str) for v in got)
        assert [v.encode() if text else bytes(v) for v in got] == want, f"{where}: {got}"
        return
    if bits:
        assert got.dtype == want.dtype, f"{where} has the type {got.dtype}, want {want.dtype}"
        assert got.tobytes() == want.tobytes(), f"{where} is {got}, want {want}"
        return
    assert len(got) == len(want), f"{where} has {len(got)} elements, want {len(want)}"
    if any(v is None for v in got):  # what JSON has no form for
        got = [np.nan if v is None else v for v in got]
        want = np.where(np.isfinite(want), want, np.nan)
    got = np.array(got, dtype=want.dtype)
    same = (got == want) & (np.signbit(got) == np.signbit(want)) if want.dtype.kind == "f" \
        else got == want
    nan = (got != got) & (want != want)
    assert (same | nan).all(), f"{where} is {got}, want {want}"


def check_samples(name, rows, sent, bits=False):
    """Compares rows, dicts by column, with the samples that were sent, by id."""
    assert len(rows) == len(sent), f"{name}: {len(rows)} rows, want {len(sent)}"
    rows = {row["id"]: row for row in rows}
    for sample in sent:
        row = rows[sample["id"]]
        where = f"{name}: {sample['id']}"
        for column, want in sample["plain"].items():
            got = row[column]
            if column == "time":
                got = pd.Timestamp(got)
                got = got.tz_localize("UTC") if got.tz is None else got.tz_convert("UTC")
                want = pd.Timestamp(want)
            assert got == want, f"{where}.{column} is {got!r}, want {want!r}"
        for key, tensor in sample["tensors"].items():
            got = row.get(key)
            if is_null(got) and not is_null(row.get(key + ".base64")):
                got = [base64.b64decode(v) for v in row[key + ".base64"]]
            if tensor is None:
                assert is_null(got) and is_null(row[key + ".shape"]), f"{where}.{key} is {got}"
                continue
            assert list(row[key + ".shape"]) == tensor["shape"], f"{where}.{key}: wrong shape"
            check_values(f"{where}.{key}", got, values(tensor), bits)


def check_feedback(name, rows, sent, is_text):
    assert len(rows) == len(sent), f"{name}: {len(rows)} rows, want {len(sent)}"
    rows = {row["id"]: row for row in rows}
    for want in sent:
        row = rows[want["id"]]
        if want["reward"] is None:
            assert is_null(row["reward"]), f"{name}: {row['reward']}"
        else:
            assert row["reward"] == want["reward"], f"{name}: {row['reward']}"
        label = row["label"]
        if is_text and not is_null(label):
            label = json.loads(label)
        assert label == want["label"] or is_null(label) and want["label"] is None, \
            f"{name}: {label}"


def records(frame):
    return frame.to_dict("records")


def duck(query):
    return records_of(duckdb.sql(query))


def records_of(relation):
    return [dict(zip(relation.columns, row)) for row in relation.fetchall()]


def main(folder):
    with open(f"{folder}/sent.json") as f:
        sent = json.load(f)
    samples, feedback = sent["samples"], sent["feedback"]

    # Files of one endpoint have the same columns, unless its tensors changed.
    for endpoint in {s["plain"]["endpoint"] for s in samples}:
        some = [s for s in samples if s["plain"]["endpoint"] == endpoint]
        pattern = f"{folder}/samples-{endpoint}-*"
        frames = [pd.read_parquet(path) for path in sorted(glob.glob(pattern + ".parquet"))]
        assert frames and all(str(f["time"].dtype) == "datetime64[us, UTC]" for f in frames)
        check_samples(f"pandas, Parquet, {endpoint}", sum(map(records, frames), []), some, True)
        check_samples(f"DuckDB, Parquet, {endpoint}",
                      duck(f"FROM read_parquet('{pattern}.parquet', union_by_name = true)"), some)
        frames = [pd.read_json(path, lines=True, precise_float=True, dtype={"version": str})
                  for path in sorted(glob.glob(pattern + ".jsonl"))]
        check_samples(f"pandas, JSON Lines, {endpoint}", sum(map(records, frames), []), some)
        check_samples(f"DuckDB, JSON Lines, {endpoint}",
                      duck(f"FROM read_json('{pattern}.jsonl', union_by_name = true)"), some)

    pattern = f"{folder}/feedback-*"
    paths = {end: glob.glob(f"{pattern}.{end}")[0] for end in ("parquet", "jsonl")}
    check_feedback("pandas, Parquet", records(pd.read_parquet(paths["parquet"])), feedback, True)
    check_feedback("DuckDB, Parquet", duck(f"FROM '{paths['parquet']}'"), feedback, True)
    check_feedback("pandas, JSON Lines", records(pd.read_json(paths["jsonl"], lines=True)),
                   feedback, False)
    check_feedback("DuckDB, JSON Lines", duck(f"FROM read_json('{paths['jsonl']}')"), feedback,
                   False)

    # A reward finds its sample.
    joined = duck(f"""SELECT s.id, reward FROM read_parquet('{folder}/samples-*.parquet',
        union_by_name = true) s JOIN '{paths["parquet"]}' f USING (id) WHERE reward IS NOT NULL""")
    want = {f["id"] for f in feedback if f["reward"] is not None}
    assert {row["id"] for row in joined} == want, joined


main(sys.argv[1])
