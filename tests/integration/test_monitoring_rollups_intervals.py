"""How often hours and days are recounted: when their interval has come, and not with every late event."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from services.monitoring.rollups.models import Granularity
from tests.monitoring import new_event, serve
from tests.rollups import Rollups, leave_to_the_test, rollups

LATE = timedelta(minutes=2)
INTERVALS = {Granularity.HOUR: timedelta(hours=1), Granularity.DAY: timedelta(hours=24)}


def test_an_hour_is_recounted_each_hour_and_a_day_each_day_and_late_events_are_answered_for_all_the_same(
    clone_database: Callable[[str], str],
) -> None:
    url = clone_database("monitoring")
    leave_to_the_test(url)
    now = datetime.now(UTC)
    with serve(url) as monitoring:
        for granularity, interval in INTERVALS.items():
            model, begin = granularity.name.lower(), granularity.floor(now)
            age_s = (now - begin).total_seconds() + 600
            with rollups(url, now=begin + LATE) as rolled:
                monitoring.record(new_event(model=model, age_s=age_s))
                rolled.work()
                assert counted(rolled, granularity, model) == 1
                monitoring.record(new_event(model=model, age_s=age_s))
                rolled.now = begin + interval - LATE
                rolled.work()
                assert counted(rolled, Granularity.FIVE_MINUTES, model) == 2
                assert counted(rolled, granularity, model) == 1, "its interval is not over"
                assert rolled.total(model).counts.inference_count == 2, "read of its parts for as long"
                rolled.now = begin + interval + LATE
                rolled.work()
                assert counted(rolled, granularity, model) == 2


def counted(rolled: Rollups, granularity: Granularity, model: str) -> int:
    """Say how many predictions of a model the rollups of a granularity have."""
    return sum(row["inference_count"] for row in rolled.rows(granularity) if row["model"] == model)
