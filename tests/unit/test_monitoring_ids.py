"""An id is its time: both ways, at the bounds too."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from penstock.ids import uuid7
from services.monitoring.ids import find_id, first_id, time_of

TIMES = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis adds the zone


@given(TIMES)
def test_an_id_lies_on_its_side_of_every_bound(time: datetime) -> None:
    inference_id = find_id(uuid7(time))
    assert inference_id is not None
    made = time_of(inference_id)
    assert timedelta() <= time - made < timedelta(milliseconds=1)
    assert first_id(made) <= inference_id < first_id(made + timedelta(microseconds=1))


def test_bounds_before_1970_and_after_9999_do_not_overflow() -> None:
    assert first_id(datetime(1, 1, 1, tzinfo=UTC)) == UUID(int=0)
    last = UUID("ffffffff-ffff-7fff-bfff-ffffffffffff")
    assert time_of(last).year == 9999
    assert first_id(datetime.max.replace(tzinfo=UTC)) < last
