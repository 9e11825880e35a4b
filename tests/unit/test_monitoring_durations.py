from __future__ import annotations

from datetime import timedelta

import pytest

from penstock.durations import write_duration
from services.common.errors import InvalidArgument
from services.monitoring.durations import read_duration


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("30s", 30), ("5m", 300), ("90m", 5_400), ("1h", 3_600), ("24h", 86_400), ("7d", 604_800)],
)
def test_a_duration_is_read_and_written_as_people_do(text: str, seconds: int) -> None:
    assert read_duration(text, "window") == timedelta(seconds=seconds)
    assert write_duration(timedelta(seconds=seconds)) == text


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5y", "9999999999d", "\u0665m", "1h" * 9])
def test_what_is_no_duration_is_refused_by_its_field(text: str) -> None:
    with pytest.raises(InvalidArgument, match="window") as refused:
        read_duration(text, "window")
    assert refused.value.reason == "INVALID_FIELD"


@pytest.mark.parametrize("text", ["4m", "25h", "3651d"])
def test_a_duration_out_of_its_bounds_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="5m to 24h is allowed"):
        read_duration(text, "window", least=timedelta(minutes=5), most=timedelta(hours=24))
