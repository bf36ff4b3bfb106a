"""Trains models on the data of libraries, logs them with MLflow, converts them, and
compares what ONNX Runtime answers with what the models do.

test_convert.py DIR
"""

import functools
import os
import pathlib
import subprocess
import sys

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import convert
import lightgbm
import mlflow.lightgbm
import mlflow.sklearn
import mlflow.xgboost
import numpy as np
import onnxruntime
import pandas as pd
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

CONVERT = pathlib.Path(__file__).with_name("convert.py")


def float32(load):
    """The data as requests bring it: the models see the same numbers as ONNX Runtime."""
    x, y = load(return_X_y=True)
    return x.astype(np.float32), y


iris, cancer, diabetes = float32(load_iris), float32(load_breast_cancer), float32(load_diabetes)
named = pd.DataFrame(diabetes[0], columns=load_diabetes().feature_names), diabetes[1]


def main(folder):
    def f(save, model, data):
        at = folder / f"{len(list(folder.iterdir()))}"
        at.mkdir()
        save(model, str(at / "in"), pip_requirements=[])
        convert.main(str(at / "in"), at)
        compare(at / "model.onnx", model, data)
        print(at.name, type(model).__module__, type(model).__name__, "is the same")

    sk = mlflow.sklearn.save_model
    # skops, the default, wants to be told of trees and of other libraries.
    pickled = functools.partial(sk, serialization_format="cloudpickle")
    f(sk, make_pipeline(StandardScaler(), LogisticRegression()).fit(*iris), iris)
    f(pickled, RandomForestClassifier(20, random_state=1).fit(*cancer), cancer)
    f(pickled, RandomForestRegressor(20, random_state=1).fit(*diabetes), diabetes)
    light = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1)
    pipeline = make_pipeline(StandardScaler(), light).fit(*cancer)
    f(pickled, pipeline, cancer)
    xg = mlflow.xgboost.save_model
    f(xg, xgboost.XGBClassifier(n_estimators=20).fit(*iris), iris)
    f(xg, xgboost.XGBClassifier(n_estimators=20).fit(*cancer), cancer)
    f(xg, xgboost.XGBRegressor(n_estimators=20).fit(*named), diabetes)
    f(xg, xgboost.train({"max_depth": 3}, xgboost.DMatrix(*diabetes), 20), diabetes)
    lg = mlflow.lightgbm.save_model
    f(lg, lightgbm.LGBMClassifier(n_estimators=20, verbose=-1).fit(*iris), iris)
    f(lg, lightgbm.LGBMRegressor(n_estimators=20, verbose=-1).fit(*named), diabetes)
    f(lg, lightgbm.train({"verbose": -1}, lightgbm.Dataset(*diabetes), 20), diabetes)
    program(folder / "0", 0, b"")
    (folder / "0" / "in" / "MLmodel").write_text("flavors:\n  pytorch: {}\n")
    program(folder / "0", 1, b"['pytorch']")


def compare(onnx, model, data):
    session = onnxruntime.InferenceSession(onnx)
    (given,) = session.get_inputs()
    assert (given.name, given.type) == ("input", "tensor(float)"), given
    assert given.shape == ["rows", data[0].shape[1]], given
    assert all(o.shape[0] == "rows" for o in session.get_outputs())
    got = session.run(None, {"input": data[0]})
    x = xgboost.DMatrix(data[0]) if isinstance(model, xgboost.Booster) else data[0]
    if hasattr(model, "predict_proba"):
        assert [o.name for o in session.get_outputs()] == ["label", "probabilities"]
        np.testing.assert_array_equal(got[0], model.predict(x))
        np.testing.assert_allclose(got[1], model.predict_proba(x), atol=1e-4)
    else:
        assert [o.name for o in session.get_outputs()] == ["variable"]
        np.testing.assert_allclose(got[0].ravel(), model.predict(x), rtol=1e-4)


def program(at, code, said):
    done = subprocess.run([sys.executable, CONVERT, at / "in", at], capture_output=True)
    assert done.returncode == code and said in done.stderr, done


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
