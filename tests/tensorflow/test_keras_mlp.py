"""Dense layers of Keras as versions: what is served is what was trained, as ONNX and as a SavedModel."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from services.inference.models import TensorSpec
from services.inference.runtimes.onnx_runtime import OnnxRuntime
from services.inference.runtimes.runtime import Artifact, Session
from services.inference.runtimes.tensorflow_runtime import TensorFlowRuntime
from services.trainer.recipes import dense_network, keras_saved_model
from services.trainer.recipes.keras_mlp import KerasMlp, KerasMlpParameters
from services.trainer.task import Part
from tests.recipe_runs import Run, judged
from tests.serving import BlobShelf

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
XOR = {"a": [0, 0, 1, 1], "b": [0, 1, 0, 1], "label": [0, 1, 1, 0]}
KINDS = ("two", "three", "number")


@pytest.fixture
def make(tmp_path: Path) -> Callable[[], Run]:
    runs: list[Run] = []

    def make() -> Run:
        runs.append(Run(KerasMlp(), tmp_path / str(len(runs))))
        return runs[-1]

    return make


def rows(kind: str, count: int = 200, *, seed: int = 0) -> dict[str, Any]:
    """Two numbers and a text, with holes, and a label that follows from them."""
    generator = np.random.default_rng(seed)
    x, y, color = generator.normal(size=count), generator.normal(size=count), generator.choice(["red", "blue"], count)
    score = x - y + 2 * (color == "red")
    label = {
        "two": score > 1,
        "three": np.array(["lo", "mid", "hi"])[np.digitize(score, [0, 2])],
        "number": 100 + 10 * score,
    }
    holes = generator.random(count) < 0.05
    return {
        "x": np.where(holes, np.nan, x),
        "y": y,
        "color": [None if hole else text for hole, text in zip(holes[::-1], color.tolist(), strict=True)],
        "label": label[kind].tolist(),
    }


def served(run: Run) -> Session:
    folder = run.folder.artifact
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    artifact = Artifact(BlobShelf().version(files), folder)
    if "model.onnx" in files:
        return OnnxRuntime(intra_op_threads=1).load(artifact)
    return TensorFlowRuntime(threads=1).load(artifact)


def features(of: dict[str, Any]) -> dict[str, Any]:
    """Rows as they are asked: an input a column."""
    texts = np.array([[(text or "").encode()] for text in of["color"]], object)
    return {name: np.array(of[name], np.float32).reshape(-1, 1) for name in ("x", "y")} | {"color": texts}


def test_xor_is_learned_by_default_and_served(make: Callable[[], Run]) -> None:
    run = make()
    outcome = run.train(XOR)
    assert outcome.metrics == {Part.TRAIN: outcome.metrics[Part.TRAIN]}  # there are no other rows
    assert outcome.metrics[Part.TRAIN]["accuracy"] == 1
    assert outcome.metadata["layers"] == [[8, "relu"], [4, "relu"], [1, "sigmoid"]]
    assert (outcome.framework, outcome.task_type, outcome.classes) == ("ONNX", "binary-classification", ("0", "1"))
    assert [epoch.number for epoch in run.epochs] == list(range(1, 51))
    assert run.epochs[-1].total == 50
    assert run.epochs[-1].metrics.keys() == {"loss", "accuracy"}
    assert run.epochs[-1].metrics["loss"] < run.epochs[0].metrics["loss"]
    session = served(run)
    assert session.signature.inputs == (TensorSpec("features", "FP32", (-1, 2)),)
    assert session.signature.outputs == (
        TensorSpec("label", "INT64", (-1,)), TensorSpec("probabilities", "FP32", (-1, 2)),
    )  # fmt: skip
    answers = session.run({"features": np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)})
    assert answers["label"].tolist() == [0, 1, 1, 0]
    np.testing.assert_allclose(answers["probabilities"].sum(axis=1), 1, rtol=1e-6)


def test_the_defaults_are_those_that_are_promised() -> None:
    told = KerasMlpParameters()
    assert (told.hidden_units, told.activation, told.learning_rate) == ((8, 4), "relu", 0.01)
    assert (told.epochs, told.batch_size, told.label_column, told.early_stopping_patience) == (50, 4, "label", None)


def test_the_same_seed_gives_the_same_version_to_the_byte(make: Callable[[], Run]) -> None:
    versions = []
    for seed in (1, 1, 2):
        run = make()
        run.train(rows("two", 60), epochs=3, seed=seed)
        versions.append((run.folder.artifact / "model.onnx").read_bytes())
    assert versions[0] == versions[1] != versions[2]


@pytest.mark.parametrize("kind", KINDS)
def test_both_formats_answer_alike_and_well_whatever_is_learned(make: Callable[[], Run], kind: str) -> None:
    asked = features(rows(kind, 40, seed=2))
    answers = []
    for format_ in ("onnx", "savedmodel"):
        run = make()
        outcome = run.train(rows(kind), rows(kind, 50, seed=1), rows(kind, 50, seed=2), format=format_)
        assert outcome.framework == {"onnx": "ONNX", "savedmodel": "TENSORFLOW"}[format_]
        assert outcome.input_name == ""
        good = outcome.metrics[Part.TEST]
        assert good["r2" if kind == "number" else "accuracy"] > 0.8
        assert "validation_loss" in run.epochs[-1].metrics
        answers.append(served(run).run(asked))
    onnx, saved = answers
    assert onnx.keys() == saved.keys() == ({"prediction"} if kind == "number" else {"label", "probabilities"})
    for name in onnx.keys() - {"label"}:
        np.testing.assert_allclose(onnx[name], saved[name], rtol=1e-4, atol=1e-5)
    if kind != "number":
        texts = [
            [label.decode() if isinstance(label, bytes) else str(label) for label in each["label"]] for each in answers
        ]
        assert texts[0] == texts[1]
        assert set(texts[0]) <= ({"0", "1"} if kind == "two" else {"lo", "mid", "hi"})


@pytest.mark.parametrize(("format_", "framework"), [("onnx", "onnx"), ("savedmodel", "tensorflow")])
def test_the_registry_lets_both_formats_in_and_finds_rows_independent(
    make: Callable[[], Run], format_: str, framework: str
) -> None:
    run = make()
    run.train(rows("three", 60), epochs=2, format=format_)
    report = judged(run.folder.artifact, framework)
    assert report.ok, report
    assert report.rows_independent is True
    assert report.signature is not None
    assert {spec.name: spec.shape for spec in report.signature.outputs} == {"label": (-1,), "probabilities": (-1, 3)}


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "elu", "selu", "softplus"])
def test_every_activation_is_the_same_in_both(make: Callable[[], Run], activation: str) -> None:
    """The recipe compares by itself, and fails where they differ."""
    outcome = make().train(rows("number", 100), epochs=2, activation=activation, hidden_units=[5])
    assert outcome.metadata["layers"] == [[5, activation], [1, "linear"]]


def test_a_version_that_answers_otherwise_than_keras_is_caught(
    make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(dense_network.ACTIVATIONS, "relu", "Tanh")
        sentence = make().refused("INVALID_OUTCOME", rows("two", 60), epochs=2)
        assert sentence.startswith("the ONNX graph answers otherwise than the model that was trained, in ")
    none = lambda raw, column: tf.zeros([tf.shape(raw)[0], len(column.categories)])  # noqa: E731 - of no category
    monkeypatch.setattr(keras_saved_model, "_ones", none)
    sentence = make().refused("INVALID_OUTCOME", rows("two", 60), epochs=2)
    assert "SavedModel" in sentence


def test_a_loss_that_is_no_number_ends_the_run_at_once(make: Callable[[], Run]) -> None:
    run = make()
    far = {"x": [1e25, 2e25, 3e25, 4e25], "label": [0.5, 1.5, 2.5, 3.5]}
    sentence = run.refused("LOSS_NOT_FINITE", far, scaling="none", learning_rate=10, checkpoint_every_epochs=1)
    assert "in epoch 1" in sentence
    assert "a smaller learning rate, or scaled features, may help" in sentence
    assert run.told == []
    assert list(run.folder.out.rglob("*.onnx")) == []


def test_columns_may_be_called_anything_but_in_a_saved_model(make: Callable[[], Run]) -> None:
    odd = {name: values for name, values in rows("two", 60).items() if name != "x"} | {"größe in m²": [1.0, 2.0] * 30}
    run = make()
    outcome = run.train(odd, epochs=1)
    assert [column.name for column in outcome.features] == ["y", "color", "größe in m²"]
    assert {spec.name for spec in served(run).signature.inputs} == {"y", "color", "größe in m²"}
    sentence = make().refused("INVALID_PARAMETERS", odd, epochs=1, format="savedmodel")
    assert "TensorFlow takes 'größe in m²' for no name" in sentence


def test_without_tensorflow_it_says_what_to_do(make: Callable[[], Run], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install tensorflow-cpu" in make().refused("RECIPE_NOT_ALLOWED", XOR)
