"""Converts a model that MLflow has logged to ONNX.

convert.py MODEL_DIR OUT_DIR

MODEL_DIR has an MLmodel file of the flavor sklearn, xgboost or lightgbm. OUT_DIR gets
model.onnx. Its input is "input": float32, [rows, features]. Classifiers answer "label"
and "probabilities" [rows, classes], regressors "variable" [rows, 1].

Loading a model may run code that lies in its files. Convert models of people you trust.
"""

import os
import pathlib
import sys

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow.models
import onnx

INPUT = "input"


def convert_sklearn(folder):
    import mlflow.sklearn
    import skl2onnx
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    model = mlflow.sklearn.load_model(folder)
    register_boosters()
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    kind = FloatTensorType([None, model.n_features_in_])
    return skl2onnx.convert_sklearn(
        model, initial_types=[(INPUT, kind)], options=options, target_opset=opsets()
    )


def register_boosters():
    """Tells skl2onnx of XGBoost and LightGBM in the pipelines of scikit-learn."""
    import lightgbm
    import skl2onnx
    import xgboost
    from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes as classes,
        calculate_linear_regressor_output_shapes as values,
    )

    zipmap = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    for kind, shapes, converter, options in [
        (lightgbm.LGBMClassifier, classes, convert_lightgbm, zipmap),
        (lightgbm.LGBMRegressor, values, convert_lightgbm, {"split": None}),
        (xgboost.XGBClassifier, classes, convert_xgboost, zipmap),
        (xgboost.XGBRegressor, values, convert_xgboost, {}),
    ]:
        skl2onnx.update_registered_converter(
            kind, kind.__name__, shapes, converter, options=options
        )


def convert_xgboost(folder):
    import mlflow.xgboost
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = mlflow.xgboost.load_model(folder)
    booster = model.get_booster() if hasattr(model, "get_booster") else model
    features = booster.num_features()
    booster.feature_names = [f"f{i}" for i in range(features)]  # all that is understood
    kind = FloatTensorType([None, features])
    return onnxmltools.convert_xgboost(
        model, initial_types=[(INPUT, kind)], target_opset=opsets()[""]
    )


def convert_lightgbm(folder):
    import mlflow.lightgbm
    import onnxmltools
    from onnxmltools.convert.common.data_types import FloatTensorType

    model = mlflow.lightgbm.load_model(folder)
    booster = getattr(model, "booster_", model)
    kind = FloatTensorType([None, booster.num_feature()])
    return onnxmltools.convert_lightgbm(
        model, initial_types=[(INPUT, kind)], zipmap=False, target_opset=opsets()[""]
    )


def opsets():
    """What the converters know and ONNX Runtime has had for long."""
    return {"": 15, "ai.onnx.ml": 3}


CONVERTERS = {
    "sklearn": convert_sklearn,
    "xgboost": convert_xgboost,
    "lightgbm": convert_lightgbm,
}


def main(folder, out):
    flavors = mlflow.models.Model.load(folder).flavors
    for name, convert in CONVERTERS.items():
        if name in flavors:
            model = convert(folder)
            break
    else:
        sys.exit(f"of the flavors {sorted(flavors)} none is one of {sorted(CONVERTERS)}")
    # Not all say so, and a server puts rows together only where it knows.
    for tensor in [*model.graph.input, *model.graph.output]:
        tensor.type.tensor_type.shape.dim[0].dim_param = "rows"
    onnx.checker.check_model(model)
    onnx.save(model, pathlib.Path(out, "model.onnx"))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
