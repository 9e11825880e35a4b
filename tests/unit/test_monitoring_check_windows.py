"""Which window is checked, and how much of it was there."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.common.errors import InvalidArgument
from services.monitoring.models import Window
from services.monitoring.window_checks.window import ALL_THERE, Completeness, check_window, completeness, not_ahead

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
LAST_HOUR = Window(NOON - 55 * MINUTE, NOON + 5 * MINUTE)


def test_a_window_is_of_whole_buckets() -> None:
    assert check_window(None, NOON + MINUTE, 60 * MINUTE) == LAST_HOUR
    assert check_window(NOON - 51 * MINUTE, NOON + MINUTE, MINUTE) == LAST_HOUR
    with pytest.raises(InvalidArgument):
        check_window(NOON, NOON - MINUTE, MINUTE)


@pytest.mark.parametrize("end", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)])
def test_a_window_beyond_the_calendar_is_refused(end: datetime) -> None:
    with pytest.raises(InvalidArgument):
        check_window(None, end, 60 * MINUTE)


def test_a_window_that_is_too_long_blames_no_time_that_nobody_gave() -> None:
    with pytest.raises(InvalidArgument) as caught:
        check_window(NOON - timedelta(days=90), NOON, MINUTE)
    assert caught.value.message == "the window is 90.0 days long, and at most 30 days are checked; give a shorter one"
    assert [violation.field for violation in caught.value.violations] == ["from_time"]


@pytest.mark.parametrize(
    ("begin", "end", "words"),
    [
        (NOON + 10 * MINUTE, None, "from_time: 2026-03-01T12:10:00.* has not come yet.* give an earlier one"),
        (NOON + 60 * MINUTE, NOON + 120 * MINUTE, "^to_time: 2026-03-01T14:00:00"),
        (NOON - MINUTE, NOON + 6 * MINUTE, "to_time: .* leave it out for a window up to now"),
    ],
)
def test_a_window_in_the_future_is_refused_with_what_to_do(begin: datetime, end: datetime | None, words: str) -> None:
    with pytest.raises(InvalidArgument, match=words) as caught:
        not_ahead(begin, end, NOON)
    assert caught.value.reason == "INVALID_WINDOW"


def test_a_clock_that_is_a_little_ahead_is_no_future() -> None:
    not_ahead(NOON, NOON + 5 * MINUTE, NOON)
    not_ahead(None, None, NOON)


def test_a_check_says_from_when_on_rows_were_not_counted_yet() -> None:
    waiting = [NOON - 20 * MINUTE, NOON - 10 * MINUTE, NOON]
    found = completeness(LAST_HOUR, waiting, NOON + MINUTE)
    assert found == Completeness(2, NOON - 20 * MINUTE)
    first = "; 2 of its buckets of 5 minutes, the first of 2026-03-01 11:40 UTC, wait to be counted"
    assert found.note.startswith(first)
    alone = completeness(LAST_HOUR, waiting[1:], NOON + MINUTE).note
    assert alone.startswith("; 1 of its buckets of 5 minutes, that of 2026-03-01 11:50 UTC, waits to be counted")


def test_who_asks_is_told_of_the_bucket_under_way_where_it_waits() -> None:
    assert completeness(LAST_HOUR, [NOON], NOON + MINUTE, under_way=True) == Completeness(1, NOON)
    assert completeness(LAST_HOUR, [], NOON + MINUTE, under_way=True) == Completeness(0, NOON)


def test_the_bucket_that_is_not_over_is_no_gap_by_schedule() -> None:
    assert completeness(LAST_HOUR, [NOON], NOON + MINUTE) == Completeness(0, NOON)
    assert completeness(LAST_HOUR, [], NOON + MINUTE) == Completeness(0, NOON)
    assert completeness(LAST_HOUR, [], NOON + 5 * MINUTE) == Completeness(0, NOON + 5 * MINUTE)
    assert completeness(LAST_HOUR, [], NOON + 600 * MINUTE).complete_until == LAST_HOUR.to_time
    assert completeness(LAST_HOUR, [], NOON - 600 * MINUTE).complete_until == LAST_HOUR.from_time
    assert ALL_THERE.note == ""
