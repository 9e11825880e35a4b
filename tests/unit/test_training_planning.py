"""What a run's own parameters may be."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import InvalidArgument
from services.trainer.datasets.splits import DefaultSplit, Split, SplitBy
from services.trainer.recipes.catalogue import find_recipe
from services.trainer.runs.columns import named_columns
from services.trainer.runs.planning import slices_of
from services.trainer.runs.splitting import split_of


@pytest.mark.parametrize("said", [5, "region", {"region": 1}, [], [1], [""], ["a"] * 6, ["x" * 129], ["a\0"], None])
def test_slices_that_are_no_columns_are_refused(said: Any) -> None:
    with pytest.raises(InvalidArgument, match="slices") as refused:
        slices_of({"slices": said})
    assert refused.value.reason == "INVALID_PARAMETERS"


def test_slices_are_columns_by_name() -> None:
    assert slices_of({"slices": ["region", "x" * 128]}) == ("region", "x" * 128)
    assert slices_of({}) == ()


def test_a_split_that_does_not_say_by_what_leaves_it_to_the_rows() -> None:
    assert split_of({}) is None
    assert split_of({"split": {}}) == split_of({"split": {"by": None}}) == DefaultSplit()
    said = {"train_share": 0.5, "seed": 3, "stratify_column": "kind"}
    assert split_of({"split": said}) == DefaultSplit(train_share=0.5, seed=3, stratify_column="kind")
    assert split_of({"split": {"by": "seed", **said}}) == Split(train_share=0.5, seed=3, stratify_column="kind")
    assert split_of({"split": {"by": "time", "column": "at"}}) == Split(by=SplitBy.TIME, column="at")


@pytest.mark.parametrize(
    "said", [{"column": "at"}, {"by": "key"}, {"by": "day"}, {"by": "key", "column": "a", "stratify_column": "b"}, 5]
)
def test_a_split_that_cannot_be_meant_is_refused(said: Any) -> None:
    with pytest.raises(InvalidArgument, match="split") as refused:
        split_of({"split": said})
    assert refused.value.reason == "INVALID_PARAMETERS"


def test_the_columns_that_a_run_needs_are_known_by_what_it_is_told() -> None:
    sklearn, slices = find_recipe("sklearn"), ("region",)
    assert named_columns(sklearn, {"feature_columns": ["x", "y"]}, slices) == {
        "parameters.slices": slices, "parameters.label_column": ["label"], "parameters.feature_columns": ("x", "y"),
    }  # fmt: skip
    space = {"seed": {"type": "categorical", "choices": [1]}}
    over = {"recipe": "sklearn", "parameters": {"label_column": "kind"}, "space": space}
    assert named_columns(find_recipe("search"), over, ())["parameters.parameters.label_column"] == ["kind"]
    assert named_columns(find_recipe("script"), {"code": "", "label_column": 7}, ()) == {"parameters.slices": ()}
