"""What a finetune begins with is found in the version itself, and nothing else is taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pyarrow as pa
import pytest

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.dense_network import Dense
from services.trainer.recipes.keras_onnx import write_onnx
from services.trainer.recipes.keras_parent import Parent
from services.trainer.recipes.onnx_version import RECIPE, run
from services.trainer.recipes.preprocessing import Preprocessing
from services.trainer.recipes.targets import Target

RNG = np.random.default_rng(3)
TABLE = pa.table({"x": [1.0, 2.0, None], "kind": ["a", "b", ""]})


def dense(inner: int, outer: int, activation: str) -> Dense:
    kernel, bias = RNG.normal(size=(inner, outer)), RNG.normal(size=outer)
    return Dense(kernel.astype(np.float32), bias.astype(np.float32), activation)


@pytest.fixture
def made(tmp_path: Path) -> Parent:
    preprocessing = Preprocessing.fit(TABLE, ("x", "kind"), scaled=True, max_categories=50)
    target = Target("classification", ("lo", "mid", "hi"))
    made = Parent(preprocessing, target, (dense(3, 5, "tanh"), dense(5, 3, "softmax")))
    write_onnx(tmp_path / "model.onnx", made)
    return made


def test_a_version_holds_its_weights_and_what_goes_with_them(tmp_path: Path, made: Parent) -> None:
    found = Parent.read(tmp_path)
    assert (found.preprocessing, found.target) == (made.preprocessing, made.target)
    for one, other in zip(found.network, made.network, strict=True):
        np.testing.assert_array_equal(one.kernel, other.kernel)
        np.testing.assert_array_equal(one.bias, other.bias)
        assert one.activation == other.activation


def test_the_graph_computes_what_the_layers_say(tmp_path: Path, made: Parent) -> None:
    answers = run(tmp_path / "model.onnx", made.preprocessing.served(TABLE))
    first, last = made.network
    logits = np.tanh(made.preprocessing.matrix(TABLE) @ first.kernel + first.bias) @ last.kernel + last.bias
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    np.testing.assert_allclose(answers["probabilities"], weights / weights.sum(axis=1, keepdims=True), rtol=1e-5)
    assert answers["label"].tolist() == [made.target.classes[place] for place in logits.argmax(axis=1)]


@pytest.mark.parametrize("texts", [True, False])
def test_the_graph_reads_odd_values_as_training_does(tmp_path: Path, texts: bool) -> None:
    columns = ("x", "y", "kind") if texts else ("x", "y")
    training = pa.table({"x": [1.0, 2.0, 9.0], "y": [-1e30, 1e30, 0.0], "kind": ["a", "b", "b"]})
    preprocessing = Preprocessing.fit(training, columns, scaled=True, max_categories=50)
    odd = pa.table({
        "x": [float("nan"), float("inf"), -float("inf"), 3e38, 1e300, -0.0, 1e-45],
        "y": [None, 1e38, 2.0**24 + 1, -1.0, 0.1, 1e30, 5.0],
        "kind": ["", None, "c", "A", "a ", "a", "ä"],
    })  # fmt: skip
    for place in range(preprocessing.width):  # a network that says what stands in one column of the matrix
        kernel = np.eye(preprocessing.width, dtype=np.float32)[:, place : place + 1]
        seen = Parent(preprocessing, Target("regression"), (Dense(kernel, np.zeros(1, np.float32), "linear"),))
        write_onnx(tmp_path / "model.onnx", seen)
        answers = run(tmp_path / "model.onnx", preprocessing.served(odd))["prediction"]
        np.testing.assert_array_equal(answers[:, 0], preprocessing.matrix(odd)[:, place])


def spoil(path: Path, how: str) -> None:
    model = onnx.load(path)
    if how == "of another make":
        del model.metadata_props[:]
    elif how == "without weights":
        del model.graph.initializer[:]
    elif how == "of another recipe":
        onnx.helper.set_model_props(model, {RECIPE: '{"recipe": "sklearn"}'})
    elif how == "not JSON":
        onnx.helper.set_model_props(model, {RECIPE: "{"})
    elif how == "a list":
        onnx.helper.set_model_props(model, {RECIPE: "[1]"})
    onnx.save(model, path)
    if how == "cut":
        path.write_bytes(path.read_bytes()[:100])
    if how == "gone":
        path.unlink()
    if how == "two":
        onnx.save(model, path.with_name("other.onnx"))


@pytest.mark.parametrize(
    "how", ["of another make", "without weights", "of another recipe", "not JSON", "a list", "cut", "gone", "two"]
)
def test_another_version_is_no_parent(tmp_path: Path, made: Parent, how: str) -> None:
    spoil(tmp_path / "model.onnx", how)
    with pytest.raises(TrainingFailed, match="begins with the weights of a version that keras-mlp made") as caught:
        Parent.read(tmp_path)
    assert caught.value.reason == "INVALID_PARAMETERS"
