"""What a run's own parameters may be."""

from __future__ import annotations

from typing import Any

import pytest

from services.common.errors import InvalidArgument
from services.trainer.runs.planning import slices_of


@pytest.mark.parametrize("said", [5, "region", {"region": 1}, [], [1], [""], ["a"] * 6, ["x" * 129], ["a\0"], None])
def test_slices_that_are_no_columns_are_refused(said: Any) -> None:
    with pytest.raises(InvalidArgument, match="slices") as refused:
        slices_of({"slices": said})
    assert refused.value.reason == "INVALID_PARAMETERS"


def test_slices_are_columns_by_name() -> None:
    assert slices_of({"slices": ["region", "x" * 128]}) == ("region", "x" * 128)
    assert slices_of({}) == ()
