"""Estimators of scikit-learn as versions: what is served is what was fitted, and nothing else is left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_diabetes, load_iris

from services.inference.confidence import Confidence
from services.inference.models import Signature, TensorSpec
from services.inference.runtimes.onnx_runtime import OnnxRuntime
from services.inference.runtimes.runtime import Artifact, Session
from services.trainer.recipes.sklearn_estimators import classes_by_name
from services.trainer.recipes.sklearn_recipe import ESTIMATORS, Sklearn
from services.trainer.task import Part, TrainingType
from tests.recipe_runs import Run, judged
from tests.serving import BlobShelf

pytestmark = pytest.mark.slow
RNG = np.random.default_rng(1)
COLUMNS = ("sepal_length", "sepal_width", "petal_length", "petal_width")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(Sklearn(), tmp_path)


def iris(part: slice) -> dict[str, Any]:
    data = load_iris()
    order = np.random.default_rng(0).permutation(150)[part]
    return {name: data.data[order, place] for place, name in enumerate(COLUMNS)} | {
        "label": data.target_names[data.target[order]].tolist()
    }


def cars(rows: int) -> dict[str, Any]:
    """Mixed columns with holes in them: a price of what a car is."""
    age, kind = RNG.uniform(0, 10, rows), RNG.choice(["van", "coupé", "bus"], rows)
    price = 20_000 - 1_500 * age + 5_000 * (kind == "bus") + RNG.normal(0, 100, rows)
    hole = RNG.random(rows) < 0.05
    return {
        "age in years": [None if gone else value for gone, value in zip(hole, age, strict=True)],
        "kind": [None if gone else value for gone, value in zip(RNG.random(rows) < 0.05, kind.tolist(), strict=True)],
        "used": RNG.random(rows) < 0.5,
        "price": price,
    }


def served(run: Run) -> Session:
    files = {"model.onnx": (run.folder.artifact / "model.onnx").read_bytes()}
    return OnnxRuntime(intra_op_threads=1).load(Artifact(BlobShelf().version(files), run.folder.artifact))


def left(run: Run) -> list[str]:
    return sorted(str(path.relative_to(run.folder.out)) for path in run.folder.out.rglob("*") if path.is_file())


def test_iris_by_name_is_learned_exported_and_told_of(run: Run) -> None:
    outcome = run.train(iris(slice(100)), iris(slice(100, 120)), iris(slice(120, 150)), estimator="LogisticRegression")
    assert (outcome.framework, outcome.task_type, outcome.input_name) == ("ONNX", "classification", "features")
    assert outcome.classes == ("setosa", "versicolor", "virginica")
    assert [column.name for column in outcome.features] == list(COLUMNS)
    assert set(outcome.metrics) == set(Part)
    assert outcome.metrics[Part.TEST]["accuracy"] > 0.9
    assert {"python", "platform", "scikit-learn", "skl2onnx"} <= outcome.environment.keys()
    assert re.fullmatch("[0-9a-f]{64}", outcome.code_sha256)
    assert left(run) == ["artifact/model.onnx", "outcome.json"]  # above all no pickle
    session = served(run)
    assert session.signature == Signature(
        (TensorSpec("features", "FP32", (-1, 4)),),
        (TensorSpec("label", "BYTES", (-1,)), TensorSpec("probabilities", "FP32", (-1, 3))),
    )
    rows = np.stack([iris(slice(120, 150))[name] for name in COLUMNS], axis=1).astype(np.float32)
    answers = session.run({"features": rows})
    said = answers["label"] == np.array(iris(slice(120, 150))["label"], object)
    assert said.mean() == pytest.approx(outcome.metrics[Part.TEST]["accuracy"])
    assert np.min(Confidence(session.signature).read(answers)) > 1 / 3  # inference sees how sure it is


def test_what_is_fitted_before_the_estimator_travels_in_the_version_and_is_what_training_rows_have(run: Run) -> None:
    training = cars(400)
    outcome = run.train(training, test=cars(100), label_column="price", estimator="Ridge")
    assert (outcome.task_type, outcome.input_name, outcome.label) == ("regression", "", "price")
    assert outcome.metrics[Part.TEST]["r2"] > 0.95
    session = served(run)
    assert session.signature == Signature(
        (TensorSpec("age in years", "FP32", (-1, 1)), TensorSpec("kind", "BYTES", (-1, 1)),
         TensorSpec("used", "FP32", (-1, 1))),
        (TensorSpec("prediction", "FP32", (-1, 1)),),
    )  # fmt: skip

    def price(age: float, kind: str) -> float:
        one = {"age in years": age, "used": 0.0}
        columns = {name: np.array([[value]], np.float32) for name, value in one.items()}
        return float(session.run(columns | {"kind": np.array([[kind.encode()]], object)})["prediction"][0, 0])

    assert price(3, "bus") - price(3, "van") == pytest.approx(5_000, rel=0.1)
    ages = [age for age in training["age in years"] if age is not None]
    kinds = [kind for kind in training["kind"] if kind is not None]
    assert price(float("nan"), "van") == pytest.approx(price(float(np.median(ages)), "van"))
    assert price(3, "") == pytest.approx(price(3, max(set(kinds), key=kinds.count)))
    assert min(price(3, kind) for kind in ("van", "coupé")) < price(3, "hovercraft") < price(3, "bus")


def test_the_registry_lets_it_in_and_finds_rows_independent(run: Run) -> None:
    """Of the kinds of graphs that skl2onnx makes: trees and matrices, with texts and without."""
    run.train(cars(300), label_column="price")
    report = judged(run.folder.artifact, "onnx")
    assert report.ok, report
    assert report.rows_independent is True
    run.train(iris(slice(100)), estimator="SVC", estimator_parameters={"C": 2})
    report = judged(run.folder.artifact, "onnx")
    assert (report.ok, report.rows_independent) == (True, True), report


@pytest.mark.parametrize(
    "name",
    ["AdaBoostClassifier", "BaggingClassifier", "DecisionTreeClassifier", "GaussianNB", "GradientBoostingClassifier",
     "HistGradientBoostingClassifier", "KNeighborsClassifier", "LinearSVC", "MLPClassifier", "RandomForestClassifier",
     "RidgeClassifier", "SGDClassifier"],
)  # fmt: skip
def test_classifiers_answer_as_scikit_learn_does(run: Run, name: str) -> None:
    """The recipe compares by itself, and fails where they do not."""
    sizes = {"n_estimators": 10} if "n_estimators" in classes_by_name()[name]().get_params() else {}
    outcome = run.train(iris(slice(110)), test=iris(slice(110, 150)), estimator=name, estimator_parameters=sizes)
    assert outcome.metrics[Part.TEST]["accuracy"] > 0.8
    assert ("log_loss" in outcome.metrics[Part.TEST]) == (name not in ("LinearSVC", "RidgeClassifier", "SGDClassifier"))


@pytest.mark.parametrize(
    "name", ["auto", "ElasticNetCV", "HuberRegressor", "LinearRegression", "RandomForestRegressor"]
)
def test_regressors_answer_as_scikit_learn_does(run: Run, name: str) -> None:
    data = load_diabetes()
    rows = {column: data.data[:, place] for place, column in enumerate(data.feature_names)} | {"label": data.target}
    outcome = run.train(rows, test={name: values[:50] for name, values in rows.items()}, estimator=name)
    assert outcome.task_type == "regression"
    assert outcome.metrics[Part.TEST]["r2"] > 0.3
    chosen = ("the estimator is HistGradientBoostingRegressor: the parameter estimator names another",)
    assert outcome.notes == (chosen if name == "auto" else ())


def test_an_estimator_that_skl2onnx_gets_wrong_is_caught(run: Run) -> None:
    """As of skl2onnx 1.20 it makes of two classes' LinearDiscriminantAnalysis a model of other probabilities."""
    x = RNG.normal(size=200)
    rows = {"x": x, "label": (x + RNG.normal(size=200) > 0).astype(int)}
    sentence = run.refused("INVALID_OUTCOME", rows, estimator="LinearDiscriminantAnalysis")
    assert "answers otherwise than the model that was trained, in 200 of 200 rows" in sentence


def test_the_same_seed_gives_the_same_version(run: Run, tmp_path: Path) -> None:
    versions = []
    for number, seed in enumerate((3, 3, 4)):
        other = Run(Sklearn(), tmp_path / str(number))
        other.train(
            iris(slice(100)), estimator="ExtraTreesClassifier", estimator_parameters={"n_estimators": 5}, seed=seed
        )
        versions.append((other.folder.artifact / "model.onnx").read_bytes())
    assert versions[0] == versions[1] != versions[2]


def test_the_names_that_a_run_is_refused_by_are_those_of_scikit_learn() -> None:
    assert list(ESTIMATORS) == list(classes_by_name())


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"estimator": "os.system"}, "there is no estimator 'os.system' that becomes ONNX; there are ARDRegression"),
        ({"estimator": "StackingClassifier"}, "there is no estimator"),  # of others, which JSON cannot say
        ({"estimator": "KernelRidge"}, "there is no estimator"),
        ({"estimator": "Ridge"}, "Ridge is not for classes; these are: AdaBoostClassifier"),
        ({"estimator": "SVC", "estimator_parameters": {"c": 1}}, "SVC has no parameter 'c'; it has C, "),
        ({"estimator": "SVC", "estimator_parameters": {"C": "much"}}, "The 'C' parameter of SVC must be a float"),
        ({"estimators": "SVC"}, "estimators: Extra inputs are not permitted"),
        ({"estimator_parameters": [1]}, "estimator_parameters: "),
    ],
)
def test_what_cannot_be_meant_is_refused(run: Run, parameters: dict[str, Any], sentence: str) -> None:
    assert sentence in run.refused("INVALID_PARAMETERS", iris(slice(100)), **parameters)


def test_a_finetune_is_refused_for_there_are_no_weights(run: Run) -> None:
    sentence = run.refused("INVALID_PARAMETERS", iris(slice(100)), type=TrainingType.FINETUNE)
    assert "start a RETRAIN, or use keras-mlp" in sentence


def test_rows_that_nothing_can_be_learned_from_are_refused(run: Run) -> None:
    x = [1.0, 2.0, 3.0, 4.0]
    for rows, sentence in (
        ({"x": x}, "no column 'label'"),
        ({"x": x, "label": [None] * 4}, "none of the training rows has a label"),
        ({"x": x, "label": [float("nan")] * 4}, "none of the training rows has a label"),
        ({"x": x, "label": [1, 1, None, 1]}, "all 3 labels are '1'"),
        ({"x": [float("nan")] * 4, "label": [0, 1, 0, 1]}, "no column to learn from; not learned from: x (no value"),
        ({"x": x[:0], "label": x[:0]}, "there are no rows"),
    ):
        assert sentence in run.refused("INVALID_DATA", rows)
    refused = run.refused("INVALID_DATA", {"x": x, "label": [-1.0, 0.5, 2.5, 3.5]}, estimator="PoissonRegressor")
    assert "PoissonRegressor, told so, cannot learn from these rows" in refused


def test_rows_without_a_label_are_left_out_and_said(run: Run) -> None:
    rows = iris(slice(100))
    rows["label"] = [None, *rows["label"][1:]]
    rows["flower_id"] = list(range(100))
    test = iris(slice(100, 103)) | {"flower_id": [1, 2, 3], "label": [None, "setosa", "unseen"]}
    outcome = run.train(rows, test=test, estimator="GaussianNB")
    without, left_out = outcome.notes
    assert without == "2 rows without a label were left out"
    assert "flower_id (an identifier)" in left_out
    assert outcome.metrics[Part.TEST]["accuracy"] <= 0.5  # a class that training never saw cannot be right


def test_nothing_of_a_runtime_is_imported_before_it_trains() -> None:
    """The service lists what recipes take, and stays small."""
    code = (
        "import sys; from services.trainer.recipes import keras_mlp, scores, sklearn_recipe; "
        "print(sorted({'sklearn', 'tensorflow', 'keras', 'onnx', 'onnxruntime', 'skl2onnx'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.strip() == "[]"
