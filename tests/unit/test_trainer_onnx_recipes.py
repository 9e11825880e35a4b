"""Optimised and quantised graphs answer as their parents do, or are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.context import Context
from services.trainer.recipes.onnx_optimize import OnnxOptimize
from services.trainer.recipes.onnx_quantize import OnnxQuantize
from services.trainer.recipes.parent_version import ParentInput, ParentVersion
from services.trainer.task import Column, Event, Outcome, Part, RunFolder, Task

COLUMNS = tuple(f"column_{number}" for number in range(8))
CLASSES = ("cat", "dog", "eel")
MATRIX = ParentInput("features", "FP32", (-1, 8), COLUMNS)


def network(*, regression: bool = False, label: bool = True, scale: float = 1.0) -> onnx.ModelProto:
    """A network 8 → 64 → 3 (or 1), with an operator that does nothing, and constants to fold."""
    generator = np.random.default_rng(7)
    width = 1 if regression else len(CLASSES)
    first = generator.standard_normal((8, 64)).astype(np.float32) * scale
    second = generator.standard_normal((64, width)).astype(np.float32)
    constants = [
        numpy_helper.from_array(first, "first"),
        numpy_helper.from_array(second, "second"),
        numpy_helper.from_array(np.full(64, 0.05, np.float32), "half"),
        numpy_helper.from_array(np.array(CLASSES, dtype=object), "classes"),
    ]
    nodes = [
        helper.make_node("Identity", ["features"], ["same"]),
        helper.make_node("MatMul", ["same", "first"], ["hidden"]),
        helper.make_node("Add", ["half", "half"], ["bias"]),
        helper.make_node("Add", ["hidden", "bias"], ["biased"]),
        helper.make_node("Relu", ["biased"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["raw"]),
    ]
    if regression:
        nodes.append(helper.make_node("Identity", ["raw"], ["prediction"]))
        outputs = [helper.make_tensor_value_info("prediction", TensorProto.FLOAT, ["rows", 1])]
    else:
        nodes += [
            helper.make_node("Softmax", ["raw"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["raw"], ["place"], axis=1, keepdims=0),
            helper.make_node("Gather", ["classes", "place"], ["label"]),
        ]
        outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", width])]
        if label:
            outputs.insert(0, helper.make_tensor_value_info("label", TensorProto.STRING, ["rows"]))
        else:
            nodes, constants = nodes[:-2], constants[:-1]
    inputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["rows", 8])]
    graph = helper.make_graph(nodes, "network", inputs, outputs, constants)
    model = helper.make_model(graph, producer_name="a test", opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return model


class Made:
    """A run whose parent is a network."""

    def __init__(self, path: Path, model: onnx.ModelProto, version: ParentVersion) -> None:
        self.folder = RunFolder(path)
        self.folder.make()
        self.parent = self.folder.parent / "model.onnx"
        onnx.save(model, self.parent)
        version.write(self.folder)
        self.told: list[Event] = []

    def with_rows(self, labels: Sequence[Any] | None = None, *, columns: Sequence[str] = COLUMNS) -> Made:
        """Give each part 200 rows, labelled as the parent answers them (numbers: nearly so), or as said."""
        for seed, part in enumerate(Part):
            matrix = np.random.default_rng(seed).standard_normal((200, 8)).astype(np.float32)
            said = answers(self.parent, matrix)
            own = said.get("label")
            if own is None:
                own = said.get("prediction", np.zeros((200, 1)))[:, 0] + np.random.default_rng(9).standard_normal(200)
            table = {name: matrix[:, place] for place, name in enumerate(columns)}
            pq.write_table(pa.table(table | {"kind": pa.array([*(labels or own)])}), self.folder.rows(part))
        return self

    def run(self, recipe: OnnxOptimize | OnnxQuantize, **parameters: Any) -> Outcome:
        task = Task("a-run", "animals", recipe.name, parameters)
        return recipe.train(Context(task, self.folder, self.told.append))

    @property
    def graph(self) -> onnx.ModelProto:
        return onnx.load(str(self.folder.artifact / "model.onnx"))


def answers(path: Path, matrix: NDArray[np.float32]) -> Mapping[str, NDArray[Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"features": matrix}), strict=True))


@pytest.fixture
def classifier(tmp_path: Path) -> Made:
    version = ParentVersion("1", "ONNX", (MATRIX,), "classification", "kind", CLASSES)
    return Made(tmp_path / "run", network(), version)


@pytest.fixture
def regression(tmp_path: Path) -> Made:
    version = ParentVersion("1", "ONNX", (MATRIX,), "regression", "kind")
    return Made(tmp_path / "run", network(regression=True), version)


def refusal(made: Made, recipe: OnnxOptimize | OnnxQuantize, **parameters: Any) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as failed:
        made.run(recipe, **parameters)
    return failed.value


@pytest.mark.parametrize("level", ["basic", "extended"])
def test_an_optimised_graph_has_fewer_operators_and_the_same_answers(classifier: Made, level: str) -> None:
    outcome = classifier.with_rows().run(OnnxOptimize(), level=level)
    matrix = np.random.default_rng(11).standard_normal((50, 8)).astype(np.float32)
    before, after = answers(classifier.parent, matrix), answers(classifier.folder.artifact / "model.onnx", matrix)
    assert (before["label"] == after["label"]).all()
    np.testing.assert_allclose(before["probabilities"], after["probabilities"], rtol=1e-4, atol=1e-6)
    assert len(classifier.graph.graph.node) < len(onnx.load(str(classifier.parent)).graph.node)
    assert {each.domain for each in classifier.graph.opset_import} <= {"", "com.microsoft"}
    assert classifier.graph.producer_name == "a test"
    assert outcome.metrics[Part.TEST]["agreement"] == 1.0
    assert outcome.metrics[Part.TEST]["accuracy"] == 1.0
    assert outcome.features == tuple(Column(name, "FP32") for name in COLUMNS)
    assert (outcome.input_name, outcome.label, outcome.task_type) == ("features", "kind", "classification")
    assert tuple(outcome.classes) == CLASSES


def test_without_rows_an_optimised_graph_is_compared_on_drawn_inputs(classifier: Made) -> None:
    outcome = classifier.run(OnnxOptimize())
    assert outcome.metrics == {}
    assert "compared on 16 drawn inputs" in outcome.notes
    assert outcome.metadata["largest_difference"] <= 1e-4


def test_an_optimised_graph_that_answers_otherwise_is_refused(
    classifier: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rewrite_otherwise(source: Path, target: Path, level: str) -> tuple[int, int]:
        onnx.save(network(scale=1.1), target)
        return 9, 8

    monkeypatch.setattr("services.trainer.recipes.onnx_optimize.rewrite", rewrite_otherwise)
    failed = refusal(classifier.with_rows(), OnnxOptimize())
    assert failed.reason == "INVALID_OUTCOME"
    assert "otherwise than the parent" in failed.message


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_a_quantised_graph_is_eight_bits_wide_and_says_what_the_parent_says(
    classifier: Made, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    touched = Path.unlink

    def unlinked(path: Path, missing_ok: bool = False) -> None:
        made.append(path)
        touched(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlinked)
    outcome = classifier.with_rows().run(OnnxQuantize(), method=method, min_agreement=0.9, max_score_drop=0.1)
    kinds = {each.data_type for each in classifier.graph.graph.initializer}
    assert TensorProto.INT8 in kinds
    metrics = outcome.metrics[Part.TEST]
    assert metrics["parent_accuracy"] == 1.0
    assert 0.9 <= metrics["agreement"] <= 1.0
    assert metrics["accuracy"] == pytest.approx(metrics["agreement"])
    assert metrics["parent_size_bytes"] == classifier.parent.stat().st_size
    assert outcome.metadata["method"] == method
    assert not [path for path in made if path.parent == classifier.parent.parent], "a run may not write to its parent"


@pytest.mark.parametrize("method", ["dynamic", "static"])
def test_what_was_optimised_to_basic_operators_is_quantised_throughout(
    classifier: Made, tmp_path: Path, method: str
) -> None:
    after = optimised(classifier, tmp_path, "basic")
    after.run(OnnxQuantize(), method=method, min_agreement=0.9, max_score_drop=0.1)
    weights = {each.name: each.data_type for each in after.graph.graph.initializer if len(each.dims) == 2}
    assert len(weights) == 2
    assert set(weights.values()) == {TensorProto.INT8}


@pytest.mark.parametrize("method", ["dynamic", "static"])
@pytest.mark.parametrize("parent", ["classifier", "regression"])
def test_joined_operators_are_refused_with_what_to_quantise_instead(
    parent: str, method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    # The regression would be quantised in part, without a word; the classifier not at all.
    after = optimised(request.getfixturevalue(parent), tmp_path, "extended")
    failed = refusal(after, OnnxQuantize(), method=method)
    assert failed.reason == "INVALID_PARAMETERS"
    assert "FusedGemm" in failed.message
    assert "the level basic" in failed.message


def optimised(made: Made, tmp_path: Path, level: str) -> Made:
    """A run whose parent is what onnx-optimize made of another's."""
    made.with_rows().run(OnnxOptimize(), level=level)
    return Made(tmp_path / level, made.graph, ParentVersion.read(made.folder)).with_rows()


def test_a_quantised_regression_is_held_to_the_parents_numbers(regression: Made) -> None:
    outcome = regression.with_rows().run(OnnxQuantize(), max_score_drop=0.1)
    assert 0 < outcome.metrics[Part.TEST]["difference"] < 0.1


def test_what_strays_is_refused_with_how_far(classifier: Made) -> None:
    failed = refusal(classifier.with_rows(), OnnxQuantize(), min_agreement=1)
    assert failed.reason == "INVALID_OUTCOME"
    assert "min_agreement is 100.0%" in failed.message


def test_a_regression_that_strays_is_refused(regression: Made) -> None:
    failed = refusal(regression.with_rows(), OnnxQuantize(), max_difference=0)
    assert failed.reason == "INVALID_OUTCOME"
    assert "max_difference is 0" in failed.message


def test_a_lower_score_is_refused_though_labels_agree(classifier: Made) -> None:
    failed = refusal(classifier.with_rows(), OnnxQuantize(), min_agreement=0, max_score_drop=0)
    assert "max_score_drop is 0" in failed.message


def test_probabilities_alone_are_read_by_the_classes(tmp_path: Path) -> None:
    version = ParentVersion("1", "ONNX", (MATRIX,), "classification", "kind", CLASSES)
    made = Made(tmp_path / "run", network(label=False), version)
    labels = ["cat"] * 200
    outcome = made.with_rows(labels).run(OnnxQuantize(), min_agreement=0.5, max_score_drop=1)
    assert 0 < outcome.metrics[Part.TEST]["accuracy"] < 1


def test_what_has_no_weights_cannot_be_quantised(tmp_path: Path) -> None:
    model = network(regression=True)
    del model.graph.node[1:6]
    model.graph.node[1].input[0] = "same"
    del model.graph.output[0].type.tensor_type.shape.dim[1:]
    model.graph.output[0].type.tensor_type.shape.dim.add().dim_value = 8
    made = Made(tmp_path / "run", model, ParentVersion("1", "ONNX", (MATRIX,), "classification", "kind"))
    failed = refusal(made.with_rows(["0"] * 200), OnnxQuantize())
    assert failed.reason == "INVALID_PARAMETERS"
    assert "nothing to quantise" in failed.message


def test_rows_without_the_parents_columns_are_refused_by_name(classifier: Made) -> None:
    failed = refusal(classifier.with_rows(columns=[f"other_{each}" for each in range(8)]), OnnxQuantize())
    assert failed.reason == "INVALID_DATA"
    assert "column_0" in failed.message


def test_a_parent_whose_columns_nobody_knows_cannot_be_held_to_rows(tmp_path: Path) -> None:
    made = Made(tmp_path / "run", network(), ParentVersion())
    failed = refusal(made.with_rows(), OnnxQuantize())
    assert failed.reason == "INVALID_PARAMETERS"
    assert "columns the registry knows" in failed.message


def test_a_parent_without_a_graph_is_refused(classifier: Made) -> None:
    classifier.parent.rename(classifier.folder.parent / "saved_model.pb")
    for recipe in (OnnxOptimize(), OnnxQuantize()):
        failed = refusal(classifier, recipe)
        assert failed.reason == "INVALID_PARAMETERS"
        assert "saved_model.pb" in failed.message


@pytest.mark.parametrize("content", [b"", b"no graph at all"])
def test_a_parent_that_does_not_open_is_refused(classifier: Made, content: bytes) -> None:
    classifier.parent.write_bytes(content)
    assert refusal(classifier, OnnxOptimize()).reason == "INVALID_OUTCOME"


def test_what_lies_beside_the_graph_comes_along_and_its_weights_do_not(tmp_path: Path) -> None:
    version = ParentVersion("1", "ONNX", (MATRIX,), "classification", "kind", CLASSES)
    made = Made(tmp_path / "run", network(), version)
    onnx.save(network(), made.parent, save_as_external_data=True, location="weights.bin", size_threshold=64)
    (made.folder.parent / "labels.txt").write_text("cat\ndog\neel\n")
    made.run(OnnxOptimize())
    assert sorted(path.name for path in made.folder.artifact.iterdir()) == ["labels.txt", "model.onnx"]
    matrix = np.ones((1, 8), np.float32)
    expected = answers(made.parent, matrix)["probabilities"]
    np.testing.assert_allclose(
        answers(made.folder.artifact / "model.onnx", matrix)["probabilities"], expected, rtol=1e-4
    )
