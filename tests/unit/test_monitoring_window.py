"""The window of a question, and its defaults."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.common.errors import InvalidArgument
from services.monitoring.models import Window

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
FIRST = datetime.min.replace(tzinfo=UTC)


def test_it_is_the_last_hour_by_default() -> None:
    assert Window.of(None, None, NOW) == Window(NOW - HOUR, NOW)
    assert Window.of(None, NOW - 5 * HOUR, NOW) == Window(NOW - 6 * HOUR, NOW - 5 * HOUR)
    assert Window.of(NOW - 5 * HOUR, None, NOW) == Window(NOW - 5 * HOUR, NOW)


def test_it_reaches_back_no_further_than_time_does() -> None:
    assert Window.of(None, FIRST + HOUR / 2, NOW).from_time == FIRST


@pytest.mark.parametrize(("begin", "end"), [(NOW, NOW), (NOW, NOW - HOUR), (NOW + HOUR, None), (None, FIRST)])
def test_it_must_begin_before_it_ends(begin: datetime | None, end: datetime | None) -> None:
    with pytest.raises(InvalidArgument, match="is not before to_time"):
        Window.of(begin, end, NOW)
