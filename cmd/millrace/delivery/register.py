"""Trains models of three libraries on scikit-learn's data and registers them with MLflow.

    register.py URI ANSWERS.json

None of them is ONNX. The alias `champion` names each. ANSWERS.json gets rows of the data, and
what the models answer themselves, by the name of the output once they are converted.
"""

import json
import sys
import warnings

import lightgbm
import mlflow
import mlflow.lightgbm
import mlflow.sklearn
import mlflow.xgboost
import xgboost
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

warnings.filterwarnings("ignore")
uri, answers = sys.argv[1:]
mlflow.set_tracking_uri(uri)
mlflow.set_experiment("train")


def data(load):
    x, y = load(return_X_y=True)
    return x.astype("float32"), y


cancer, diabetes = data(load_breast_cancer), data(load_diabetes)
said = {}


def register(name, log, model, x):
    with mlflow.start_run():
        log(model, name="model", registered_model_name=name)
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", 1)
    x = x[:100]
    outputs = {}
    if hasattr(model, "predict_proba"):
        outputs["label"] = model.predict(x).tolist()
        outputs["probabilities"] = model.predict_proba(x).ravel().tolist()
    else:
        outputs["variable"] = model.predict(x).tolist()
    said[name] = {"rows": x.tolist(), "outputs": outputs}


scaled = make_pipeline(StandardScaler(), LogisticRegression())
register("scaled", mlflow.sklearn.log_model, scaled.fit(*cancer), cancer[0])
light = lightgbm.LGBMClassifier(n_estimators=20, verbose=-1)
register("light", mlflow.lightgbm.log_model, light.fit(*cancer), cancer[0])
boosted = xgboost.XGBRegressor(n_estimators=20)
register("boosted", mlflow.xgboost.log_model, boosted.fit(*diabetes), diabetes[0])
with open(answers, "w") as f:
    json.dump(said, f)
