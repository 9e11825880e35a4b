"""Rows as what versions take, answers as labels or numbers, and slices."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from penstock.api.registry.v1.registry_pb2 import Metadata, ModelVersion, Validation
from penstock.api.tensors.v1 import tensors_pb2 as tensors
from penstock.cli.model_editing import parse_criterion
from penstock.values import to_struct
from services.trainer.recipes.scores import BINARY, CLASSIFICATION, REGRESSION
from services.trainer.registering.lineage import MAX_FIELD_BYTES, metadata_of
from services.trainer.registering.models import Registration
from services.trainer.registering.names import next_name
from services.trainer.task import Column, Outcome, RunFolder
from services.trainer.validating.held_out import MAX_ROWS, held_out
from services.trainer.validating.inputs import Inputs, all_inputs, finite_rows, inputs_of
from services.trainer.validating.measuring import MAX_VALUE_CHARS, bounded, sliced
from services.trainer.validating.models import Trial, Untried, VersionFails
from services.trainer.validating.outputs import Answers, answers_of, task_type_of, worth_keeping
from tests.validating import kept

FP32, INT64, BYTES = tensors.DATA_TYPE_FP32, tensors.DATA_TYPE_INT64, tensors.DATA_TYPE_BYTES


def spec(name: str, datatype: tensors.DataType.ValueType, *shape: int, columns: tuple[str, ...] = ()) -> Any:
    return tensors.TensorSpec(name=name, datatype=datatype, shape=shape, columns=columns)


def version(inputs: list[Any], outputs: list[Any], *, classes: tuple[str, ...] = (), task: str = "") -> ModelVersion:
    fields = to_struct({"classes": list(classes)}) if classes else None
    return ModelVersion(
        version="2",
        signature=tensors.Signature(inputs=inputs, outputs=outputs),
        metadata=Metadata(task_type=task, fields=fields),
        validation=Validation(rows_independent=True),
    )


@pytest.mark.parametrize(
    ("versions", "expected"),
    [
        ([], "1.0.0"), (["1.3.0", "1.12.9"], "1.13.0"), (["v7", "v2"], "v8"), (["prod", "x"], "1.0.0"),
        (["v1.2"], "v1.3.0"), (["2.0.0-rc.1"], "2.1.0"), (["1.4.0+a"], "1.5.0"),
    ],
)  # fmt: skip
def test_a_generated_name_is_above_all_that_are_there(versions: list[str], expected: str) -> None:
    assert next_name(versions) == expected


def test_metadata_stay_within_what_the_registry_takes() -> None:
    outcome = Outcome(
        framework="ONNX",
        features=[Column(f"column_{number:05}", "FP32") for number in range(2_000)],
        classes=[str(number) for number in range(10)],
        metadata={"huge": "x" * 20_000, "dataset": "not the run's to say"},
    )
    written = metadata_of(Registration("run", "m", outcome, RunFolder(None), dataset="d/1"))  # type: ignore[arg-type]
    assert written.ByteSize() < 16 * 1024
    assert MAX_FIELD_BYTES < 16 * 1024
    fields = written.fields.fields
    assert (fields["column_count"].number_value, fields["dataset"].string_value) == (2_000, "d/1")
    assert "huge" not in fields


def test_a_matrix_has_the_columns_that_its_signature_names() -> None:
    rows = pa.table({"b": [1, None], "a": [2.5, 3.5], "rest": [0, 0]})
    inputs = inputs_of(version([spec("X", FP32, -1, 2, columns=("a", "b"))], []), rows)
    assert inputs.batched
    assert inputs.arrays["X"].dtype == np.float32
    np.testing.assert_array_equal(inputs.arrays["X"], [[2.5, 1], [3.5, np.nan]])


def test_each_input_of_one_column_has_the_column_of_its_name() -> None:
    rows = pa.table({"word": ["a", None], "count": [1, 2]})
    inputs = inputs_of(version([spec("word", BYTES, -1, 1), spec("count", INT64, -1)], []), rows)
    assert inputs.arrays["word"].tolist() == [["a"], [""]]
    assert inputs.arrays["count"].tolist() == [1, 2]
    assert not inputs_of(version([spec("count", INT64, 1)], []), rows).batched


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        ([spec("X", FP32, -1, 2)], "what its columns are called"),
        ([spec("word", FP32, -1)], "takes 'word' as float32"),
        ([spec("holes", INT64, -1)], "cannot be missing, and some are"),
        ([spec("half", INT64, -1)], "takes 'half' as int64"),
    ],
)
def test_rows_that_a_version_cannot_take_say_why(inputs: list[Any], said: str) -> None:
    rows = pa.table({"word": ["a", "b"], "holes": [1, None], "half": [0.5, 1.0]})
    with pytest.raises(Untried, match=said):
        inputs_of(version(inputs, []), rows)


def all_finite() -> Any:
    """Of two rows."""
    return np.ones(2, dtype=bool)


def test_labels_come_first_then_probabilities_then_one_probability() -> None:
    label, scores = spec("label", INT64, -1), spec("p", FP32, -1, 2)
    of_two = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)
    both = answers_of(
        version([], [label, scores], classes=("0", "1")), {"label": np.array([1, 0]), "p": of_two}, BINARY, all_finite
    )
    assert both.predictions.tolist() == ["1", "0"]
    assert both.probabilities is not None
    named = answers_of(version([], [scores], classes=("no", "yes")), {"p": of_two}, BINARY, all_finite)
    assert named.predictions.tolist() == ["yes", "no"]
    assert answers_of(version([], [scores]), {"p": of_two}, BINARY, all_finite).predictions.tolist() == ["1", "0"]
    second = version([], [spec("y", FP32, -1, 1)], classes=("no", "yes"))
    one = answers_of(second, {"y": np.array([[0.7], [0.2]])}, BINARY, all_finite)
    assert one.predictions.tolist() == ["yes", "no"]
    logits = answers_of(version([], [scores]), {"p": of_two * 10}, BINARY, all_finite)
    assert logits.probabilities is None, "scores that are no probabilities have no log loss"


def test_a_regression_gives_a_finite_number_a_row() -> None:
    found = answers_of(version([], [spec("y", FP32, -1, 1)]), {"y": np.array([[1.5], [2.0]])}, REGRESSION, all_finite)
    assert found.predictions.tolist() == [1.5, 2.0]
    one = version([], [spec("y", FP32, -1)])
    with pytest.raises(VersionFails, match="1 of 2 rows"):
        answers_of(one, {"y": np.array([1.5, np.nan])}, REGRESSION, all_finite)
    with pytest.raises(Untried, match="no number a row"):
        answers_of(version([], [spec("y", FP32, -1, 2)]), {"y": np.zeros((2, 2))}, REGRESSION, all_finite)
    with pytest.raises(Untried, match="neither a label nor probabilities"):
        answers_of(one, {"y": np.zeros(2)}, CLASSIFICATION, all_finite)


def test_what_is_not_finite_is_the_versions_fault_where_its_rows_are_finite() -> None:
    rows = {"x": np.array([[0.0, 1.0], [np.nan, 1.0]], np.float32), "city": np.array(["", "Bern"], object)}
    y = spec("y", FP32, -1)

    def read(*values: float) -> Any:
        finite = finite_rows(lambda: iter([Inputs(rows, 2, batched=True)] * 2))
        return answers_of(version([], [y]), {"y": np.array(values)}, REGRESSION, lambda: finite)

    with pytest.raises(Untried, match=r"2 of 4 rows .* their own values are missing") as unfit:
        read(1.0, np.nan, 2.0, np.inf)
    assert type(unfit.value) is Untried
    with pytest.raises(VersionFails, match="1 of 4 rows"):
        read(1.0, np.nan, np.nan, 2.0)


def test_the_task_is_as_it_was_said_or_as_the_labels_are() -> None:
    assert task_type_of(version([], [], task=REGRESSION), CLASSIFICATION, np.array([0.5])) == CLASSIFICATION
    assert task_type_of(version([], [], task=REGRESSION), "", np.array([0, 1])) == REGRESSION
    assert task_type_of(version([], []), "", np.array([0.5, 1.5])) == REGRESSION
    assert task_type_of(version([], []), "", np.array([0.0, 1.0])) == BINARY
    assert task_type_of(version([], [], task="else"), "", np.array(["a", "b", "c"], object)) == CLASSIFICATION


def test_rows_without_a_label_are_left_out_and_many_are_drawn(tmp_path: Path) -> None:
    rows = pa.table({"x": range(4), "y": pa.array([1.0, None, float("nan"), 2.0])})
    found = held_out(Trial("t", "m", "1", kept(rows, tmp_path), label="y"))
    assert found is not None
    assert found.labels.tolist() == [1.0, 2.0]
    assert [batch.to_pydict() for batch in found.batches(["x"])] == [{"x": [0, 3]}]
    assert found.notes[0].startswith("2 of 4 rows have no label")
    many = kept(pa.table({"x": range(MAX_ROWS + 5), "y": np.arange(MAX_ROWS + 5) % 2}), tmp_path)
    drawn, again = (held_out(Trial("t", "m", "1", many, label="y")) for _ in range(2))
    assert drawn is not None
    assert again is not None
    assert drawn.row_count == MAX_ROWS
    places = np.concatenate([batch.column("x").to_numpy() for batch in drawn.batches(["x"])])
    assert (places % 2).tolist() == drawn.labels.tolist(), "each row has its own label still"
    assert drawn.chosen.tolist() == again.chosen.tolist()
    assert drawn.notes == ("of 20,005 rows 20,000 were drawn by a seed",)


def test_rows_of_several_files_come_in_their_order_a_few_at_a_time(tmp_path: Path) -> None:
    texts = ["é" * 80, None, "b", "a"]
    files = [
        *kept(pa.table({"y": [1, None, 3], "s": texts[:3]}), tmp_path, row_group_size=1),
        *kept(pa.table({"y": [4], "s": texts[3:]}), tmp_path),
    ]
    found = held_out(Trial("t", "m", "1", files, label="y", slices=["s", "planet"]))
    assert found is not None
    assert found.slices.to_pydict() == {"s": ["é" * (MAX_VALUE_CHARS + 1), "b", "a"]}, "none of them is kept whole"
    assert [batch.to_pydict() for batch in found.batches(["s", "y"])] == [
        {"s": [texts[0]], "y": [1]}, {"s": ["b"], "y": [3]}, {"s": ["a"], "y": [4]}
    ]  # fmt: skip
    assert held_out(Trial("t", "m", "1", ())) is None
    with pytest.raises(Untried, match="takes a column 'x'"):
        all_inputs(version([spec("x", FP32, -1)], []), found)
    with pytest.raises(Untried, match="takes no tensors"):
        all_inputs(version([], []), found)


def test_a_request_has_no_more_rows_or_bytes_than_a_server_takes() -> None:
    rows = pa.table({"word": ["a" * 50, "b" * 10, "c", "d", "e"], "x": [1.0] * 5})
    inputs = inputs_of(version([spec("word", BYTES, -1, 1), spec("x", FP32, -1)], []), rows)
    assert [len(piece["x"]) for piece in inputs.pieces(256, 40)] == [1, 2, 2]
    assert [len(piece["x"]) for piece in inputs.pieces(2, 10_000)] == [2, 2, 1]
    assert [len(piece["word"]) for piece in inputs.pieces(1, 10_000)] == [1] * 5


def test_of_an_answer_that_alone_is_kept_by_which_it_is_read() -> None:
    many = {
        "pixels": np.zeros((2, 3, 3)), "label": np.array([[1], [0]]), "other": np.array([5, 5]),
        "scores": np.zeros((2, 2)), "embedding": np.zeros((2, 999)), "size": np.zeros(2),
    }  # fmt: skip
    assert list(worth_keeping(many)) == ["label", "scores", "size"]


def test_slices_of_numbers_have_an_rmse_and_their_worst_is_the_largest() -> None:
    labels = np.zeros(90)
    answers = Answers(REGRESSION, np.repeat([1.0, 3.0, 9.0], [40, 40, 10]))
    rows = pa.table({"site": ["a"] * 40 + ["b"] * 40 + ["c"] * 10, "half": [None] * 45 + [True] * 45})
    found, notes = sliced(labels, answers, rows, ["site", "half", "x", "y", "z", "left"])
    assert (found["rmse[site=a]"], found["rmse[site=b]"], found["worst_slice_rmse[site]"]) == (1, 3, 3)
    assert {"rmse[half=]", "rmse[half=1]"} <= set(found)
    assert "rmse[site=c]" not in found
    assert "slices by left were left out" in notes[0]
    assert any("site=c (10)" in note for note in notes)


def test_slices_whose_names_the_registry_would_not_keep_or_could_not_tell_apart_are_left_out() -> None:
    answers, long = Answers(CLASSIFICATION, np.array(["a"] * 80, object)), "c" * 120
    labels = np.array(["a"] * 40 + ["b"] * 40, object)
    rows = pa.table({long: ["x" * 60] * 80, "s": ["x\u200b"] * 40 + ["x\u200c"] * 40})
    found, notes = sliced(labels, answers, rows, [long, "s"])
    assert found == {"accuracy[s=x?]": 1.0, "worst_slice_accuracy[s]": 0.0}, "the worst one counts by whatever name"
    assert [note.partition(",")[0] for note in notes] == [
        f"the slice {long}={'x' * 60} is not kept by itself", f"there is no worst slice of {long}",
        "the slice s=x? is not kept by itself",
    ]  # fmt: skip


def test_what_criteria_name_is_kept_before_all_else() -> None:
    metrics = {f"m{number}": float(number) for number in range(300)} | {"odd": float("nan")}
    kept = bounded(metrics, ["m299", "odd", "none"])
    assert len(kept) == 256
    assert next(iter(kept)) == "m299"


def test_a_slice_can_be_bounded_at_the_command_line() -> None:
    assert parse_criterion("accuracy[region=north] >= 0.9").metric == "accuracy[region=north]"
    with pytest.raises(ValueError, match="is no criterion"):
        parse_criterion("accuracy[region=north>=0.9")
