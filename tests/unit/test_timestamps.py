"""Times as requests bring them."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from services.common import timestamps
from services.common.errors import InvalidArgument


def test_a_time_is_read_in_utc() -> None:
    assert timestamps.read("time", Timestamp(seconds=1, nanos=2_000)) == datetime(1970, 1, 1, 0, 0, 1, 2, UTC)


@pytest.mark.parametrize("odd", [{"seconds": 10**15}, {"seconds": -(10**15)}, {"nanos": -1}, {"nanos": 2**31 - 1}])
def test_a_time_outside_the_calendar_is_refused(odd: dict[str, int]) -> None:
    with pytest.raises(InvalidArgument, match="years 1 to 9999") as refused:
        timestamps.read("from_time", Timestamp(**odd))
    assert (refused.value.reason, refused.value.violations[0].field) == ("INVALID_TIME", "from_time")
