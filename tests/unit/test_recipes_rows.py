"""What recipes learn from: which columns, which labels, and what is done to them before a model sees them."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from services.trainer.faults import TrainingFailed
from services.trainer.recipes.columns import choose
from services.trainer.recipes.preprocessing import Preprocessing
from services.trainer.recipes.row_parameters import RowParameters
from services.trainer.recipes.targets import Target, labels_of, present
from services.trainer.task import Column

NOON = datetime.datetime(2026, 1, 1, 12, tzinfo=datetime.UTC)


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def detected(labels: list[Any], task: str = "auto") -> Target:
    found = labels_of(table(label=labels), "label")
    return Target.detect(found[present(found)], task, scaled=True)


@pytest.mark.parametrize(
    ("labels", "task_type", "classes"),
    [
        ([0, 1, 1, 0], "binary-classification", ("0", "1")),
        ([10.0, 2.0, None, 10.0, 2.0], "binary-classification", ("2", "10")),
        ([True, False, True], "binary-classification", ("0", "1")),
        (["no", "yes", "", None], "binary-classification", ("no", "yes")),
        (["b", "a", "c"], "classification", ("a", "b", "c")),
        ([0, 1, 2] * 2, "classification", ("0", "1", "2")),
        (list(range(20)) * 2, "classification", tuple(map(str, range(20)))),
        (list(range(21)) * 2, "regression", ()),
        ([1, 2, 3], "regression", ()),  # each once: they count something
        ([0.5, 1.0, 1.5], "regression", ()),
        ([0, 1, 1], "binary-classification", ("0", "1")),
    ],
)
def test_the_task_is_seen_from_the_labels(labels: list[Any], task_type: str, classes: tuple[str, ...]) -> None:
    target = detected(labels)
    assert (target.task_type, target.classes) == (task_type, classes)


def test_the_task_can_be_said() -> None:
    assert detected([1, 2, 3], "classification").classes == ("1", "2", "3")
    assert detected([0, 1, 1, 0], "regression").task_type == "regression"
    assert detected([0, 1, 1, 0], "classification").task_type == "classification"


@pytest.mark.parametrize(
    ("labels", "task", "sentence"),
    [
        ([1, 1, 1], "auto", "all 3 labels are '1'"),
        (["a", "a"], "auto", "all 2 labels are 'a'"),
        ([0.5, float("inf")], "auto", "infinite"),
        (["a", "b"], "regression", "predicts numbers"),
        ([0.5, 1.5], "classification", "have fractions"),
        (["a", "b", "c"], "binary-classification", "a binary task has two"),
        ([f"c{number}" for number in range(1_001)], "auto", "at most 1000"),
        ([1e300, 0.5], "auto", "3.4e38"),
        (["a", "b" * 257], "auto", "a label has 257 characters"),
        ([2**60, 2**60 + 1], "classification", "no classes"),  # they would be one
    ],
)
def test_labels_that_nothing_can_be_learned_from_are_refused(labels: list[Any], task: str, sentence: str) -> None:
    with pytest.raises(TrainingFailed, match=sentence) as caught:
        detected(labels, task)
    assert caught.value.reason == "INVALID_DATA"


def test_a_label_is_a_column_of_a_type_that_labels_have() -> None:
    with pytest.raises(TrainingFailed, match="no column 'label' to learn; they have a, b: say label_column"):
        labels_of(table(a=[1], b=[2]), "label")
    with pytest.raises(TrainingFailed, match="timestamp"):
        labels_of(table(label=[NOON]), "label")
    with pytest.raises(TrainingFailed, match="list"):
        labels_of(table(label=[[1.0]]), "label")
    assert not present(labels_of(table(label=pa.nulls(3)), "label")).any()


def test_columns_are_chosen_by_what_stands_in_them() -> None:
    rows = table(
        label=[0, 1, 0], size=[1.5, None, 2.5], count=[1, 2, 3], wild=[True, False, None], color=["red", "blue", None],
        user_id=[1, 2, 3], ID=["x", "y", "z"], at=[NOON] * 3, day=[NOON.date()] * 3, embedding=[[1.0]] * 3,
        empty=pa.array([None] * 3, pa.float64()), blank=["", "", ""], nothing=pa.nulls(3),
        prediction=[1, 1, 1], confidence=[0.5] * 3, inference_id=["a", "b", "c"], model_version=["1", "1", "1"],
    )  # fmt: skip
    chosen = choose(rows, RowParameters(ignore_columns=("count", "gone")))
    assert chosen.names == ("size", "wild", "color")
    left_out, unknown = chosen.notes
    for reason in (
        "user_id (an identifier)",
        "ID (an identifier)",
        "at (a time)",
        "empty (no value in any training row)",
    ):
        assert reason in left_out
    assert unknown == "ignore_columns: the rows have no gone"


def test_texts_of_many_kinds_are_learned_from_only_if_one_asks() -> None:
    rows = table(label=[0, 1] * 30, x=[1.0, 2.0] * 30, note=[f"text {number}" for number in range(60)])
    assert choose(rows, RowParameters()).names == ("x",)
    assert choose(rows, RowParameters(max_categories=60)).names == ("x", "note")
    assert choose(rows, RowParameters(feature_columns=("note", "x"))).names == ("note", "x")
    fitted = Preprocessing.fit(rows, ("note",), scaled=True, max_categories=5)
    assert fitted.width == 5


@pytest.mark.parametrize(
    ("parameters", "reason", "sentence"),
    [
        ({"feature_columns": ("x", "y")}, "INVALID_PARAMETERS", "'y' is not among"),
        ({"feature_columns": ("at",)}, "INVALID_PARAMETERS", "'at' a time"),
        ({"feature_columns": ("prediction",)}, "INVALID_PARAMETERS", "what models answer"),
        ({"ignore_columns": ("x",)}, "INVALID_DATA", "no column to learn from; not learned from: at"),
    ],
)
def test_columns_that_cannot_be_learned_from_are_refused(
    parameters: Mapping[str, Any], reason: str, sentence: str
) -> None:
    rows = table(label=[0, 1], x=[1.0, 2.0], at=[NOON] * 2, prediction=[0, 1])
    with pytest.raises(TrainingFailed, match=sentence) as caught:
        choose(rows, RowParameters(**parameters))
    assert caught.value.reason == reason


def test_a_column_has_one_part_to_play() -> None:
    for parameters in ({"label_column": "x"}, {"ignore_columns": ("x",)}, {"feature_columns": ("x", "x")}):
        with pytest.raises(TrainingFailed) as caught:
            RowParameters.told({"feature_columns": ("x",), **parameters})
        assert caught.value.reason == "INVALID_PARAMETERS"


def test_what_is_missing_is_filled_and_numbers_are_scaled_as_training_had_them() -> None:
    training = table(
        x=[1.0, 2.0, 9.0, None], on=[True, False, False, False], color=["red", "blue", "red", None], same=[0.1] * 4
    )
    fitted = Preprocessing.fit(training, ("x", "color", "on", "same"), scaled=True, max_categories=50)
    assert fitted.features == (
        Column("x", "FP32"), Column("color", "BYTES"), Column("on", "FP32"), Column("same", "FP32"),
    )  # fmt: skip
    served = table(
        x=[float("nan"), float("inf"), 1e300], on=[None, True, True], color=["", "green", "blue"], same=[7.0] * 3
    )
    x, on, same, blue, red = fitted.matrix(served).T
    filled = np.array([1.0, 2.0, 9.0, 2.0])
    assert x == pytest.approx([(2 - filled.mean()) / filled.std()] * 3)  # the median, whatever is no number
    assert on == pytest.approx([-0.25 / np.sqrt(3 / 16), 0.75 / np.sqrt(3 / 16), 0.75 / np.sqrt(3 / 16)])
    assert same == pytest.approx([6.9] * 3)  # equal numbers have no scale
    assert red.tolist() == [1, 0, 0]  # the most frequent one, for none
    assert blue.tolist() == [0, 0, 1]  # and of one that training never saw all are zero


def test_numbers_alone_are_one_input_and_texts_make_each_column_one() -> None:
    rows = table(a=[1, 2], b=[0.5, None], color=["red", None])
    numbers = Preprocessing.fit(rows, ("b", "a"), scaled=False, max_categories=50)
    assert numbers.input_name == "features"
    np.testing.assert_array_equal(numbers.served(rows)["features"], np.array([[0.5, 1], [np.nan, 2]], np.float32))
    mixed = Preprocessing.fit(rows, ("color", "a"), scaled=False, max_categories=50)
    assert mixed.input_name == ""
    served = mixed.served(rows)
    assert list(served) == ["color", "a"]
    assert served["color"].tolist() == [["red"], [""]]
    assert served["a"].dtype == np.float32
    assert served["a"].shape == (2, 1)


def test_what_was_fitted_is_written_down_and_read_again() -> None:
    rows = table(x=[1.0, 2.0], color=["red", "blue"])
    fitted = Preprocessing.fit(rows, ("x", "color"), scaled=True, max_categories=50)
    assert Preprocessing.of(json.loads(json.dumps(fitted.to_json()))) == fitted
    target = detected(["a", "b"])
    assert Target.of(json.loads(json.dumps(target.to_json()))) == target


def test_rows_that_lack_what_a_version_takes_are_refused() -> None:
    fitted = Preprocessing.fit(table(x=[1.0], color=["red"]), ("x", "color"), scaled=True, max_categories=50)
    fitted.check(table(x=[3], color=["blue"], more=[1]))
    for rows in (table(x=[1.0]), table(x=["1"], color=["red"]), table(x=[1.0], color=[1])):
        with pytest.raises(TrainingFailed, match="the version takes") as caught:
            fitted.check(rows)
        assert caught.value.reason == "INVALID_DATA"
