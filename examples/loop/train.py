"""Trains the price model and registers it in MLflow.

    train.py first   on stones below one carat, as the version "champion"; also writes the rows
                     that the traffic is made of
    train.py again   on what the endpoint has been asked since, as the version "challenger"

The tracking server is that of MLFLOW_TRACKING_URI.
"""

import argparse
import glob
import importlib.util
import json
import pathlib
import tempfile
import time

import mlflow
import mlflow.onnx
import numpy as np
import pandas as pd
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType, StringTensorType
from sklearn.compose import make_column_transformer
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder

MODEL = "diamonds"
NUMBERS = ["carat", "depth", "table", "x", "y", "z"]
TEXTS = ["cut", "color", "clarity"]
FEATURES = NUMBERS + TEXTS
PRICE = "price"  # the label, and the name of the model's output
CLOSE = 0.15  # an estimate within 15 % of the price is a good one

FIRST_ROWS = 10_000  # that the first version learns from
AGAIN_ROWS = 3_000  # that a later one learns from
WAIT_ROWS = 4_000  # that it waits for: the first ones may be of before the change
PATIENCE = 120  # seconds


def diamonds():
    """Returns 53,940 diamonds with their prices, in a random order.

    The table is ggplot2's, of the year 2008, as plotnine brings it; the library itself is not
    needed for that.
    """
    package = pathlib.Path(importlib.util.find_spec("plotnine").origin).parent
    return pd.read_csv(package / "data" / "diamonds.csv").sample(frac=1, random_state=1)


def captured(folder, since):
    """Returns the requests since a time whose price became known, oldest first.

    The tap has written requests to samples-*.parquet and what became known of them later to
    feedback-*.parquet; the id joins the two.
    """
    def read(kind):
        files = sorted(glob.glob(f"{folder}/{kind}-*.parquet"))
        return pd.concat(map(pd.read_parquet, files)) if files else None

    samples, feedback = read(f"samples-{MODEL}"), read("feedback")
    if samples is None or feedback is None:
        return pd.DataFrame(columns=[*FEATURES, PRICE])
    samples = samples[(samples.outcome == "ok") & (samples.time >= since)]
    labels = feedback.dropna(subset="label").set_index("id").label.map(json.loads)
    # A request may have several rows: a cell is the list of their values.
    rows = samples.set_index("id")[[f"input.{name}" for name in FEATURES]]
    rows = rows.set_axis(FEATURES, axis=1).assign(**{PRICE: labels}).dropna(subset=PRICE)
    return rows.explode(FEATURES).astype({name: np.float32 for name in NUMBERS})


def gathered(folder, since):
    """Waits until there are enough rows since a time, and returns the latest."""
    end = time.monotonic() + PATIENCE
    while len(rows := captured(folder, since)) < WAIT_ROWS:
        print(f"{len(rows)} rows with a price since {since}, {WAIT_ROWS} are wanted", flush=True)
        if time.monotonic() > end:
            raise SystemExit(f"they have not come within {PATIENCE} s")
        time.sleep(3)
    return rows[-AGAIN_ROWS:]


def fit(rows):
    """Trains a model. Returns it as ONNX, with an input a feature."""
    estimator = make_pipeline(
        make_column_transformer(
            (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), TEXTS),
            ("passthrough", NUMBERS)),
        GradientBoostingRegressor(n_estimators=150, max_depth=5, subsample=0.5,
                                  random_state=1)).fit(rows[FEATURES], rows[PRICE])
    inputs = ([(name, FloatTensorType([None, 1])) for name in NUMBERS]
              + [(name, StringTensorType([None, 1])) for name in TEXTS])
    onnx = to_onnx(estimator, initial_types=inputs,
                   final_types=[(PRICE, FloatTensorType([None, 1]))], target_opset=17)
    return estimator, onnx


def columns(rows):
    """Makes the model's inputs of rows."""
    return {name: rows[[name]].to_numpy(np.float32 if name in NUMBERS else object)
            for name in FEATURES}


def register(rows, alias, tags):
    """Trains, and registers the version with its drift reference. Returns what to tell."""
    held_out = rows[::5]
    learned = rows.drop(index=held_out.index)
    estimator, onnx = fit(learned)
    errors = abs(estimator.predict(held_out[FEATURES]) / held_out[PRICE] - 1)
    close = float((errors < CLOSE).mean())
    mlflow.set_experiment(MODEL)
    name = tags.get("millrace.run", "first")
    with mlflow.start_run(run_name=name, tags=tags), tempfile.TemporaryDirectory() as folder:
        mlflow.log_params({"rows": len(rows), "carat_min": rows.carat.min(),
                           "carat_max": rows.carat.max()})
        mlflow.log_metric("within_15_percent", close)
        logged = mlflow.onnx.log_model(
            onnx, name="model", pip_requirements=["onnx", "onnxruntime", "numpy"],
            input_example=columns(rows[:2]), onnx_execution_providers=["CPUExecutionProvider"])
        # What the monitor compares live rows with lies among the version's files.
        reference = f"{folder}/drift_reference.parquet"
        rows[FEATURES].to_parquet(reference, index=False)
        client = mlflow.MlflowClient()
        client.log_model_artifact(logged.model_id, reference)
    version = mlflow.register_model(f"models:/{logged.model_id}", MODEL, tags=tags).version
    client.set_registered_model_alias(MODEL, alias, version)
    return {"version": version, "alias": alias, "rows": len(rows), "within_15_percent": close}


def first(traffic):
    """Registers the first version and writes the traffic of before and after the change."""
    all_rows = diamonds()
    small, large = all_rows[all_rows.carat < 1], all_rows[all_rows.carat >= 1]
    for name, rows in (("small", small[FIRST_ROWS:]), ("large", large)):
        rows[[*FEATURES, PRICE]].to_json(f"{traffic}/{name}.jsonl", orient="records", lines=True)
    return register(small[:FIRST_ROWS], "champion", {})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("first").add_argument("--traffic", required=True)
    again = commands.add_parser("again")
    again.add_argument("--samples", required=True)
    again.add_argument("--evidence", required=True, type=json.loads)
    again.add_argument("--run", required=True)
    args = parser.parse_args()
    if args.command == "first":
        done = first(args.traffic)
    else:
        since = pd.Timestamp(args.evidence["began"])
        done = register(gathered(args.samples, since), "challenger", {
            "millrace.run": args.run, "millrace.alarm": args.evidence["alarm"]})
    print(json.dumps(done), flush=True)


if __name__ == "__main__":
    main()
