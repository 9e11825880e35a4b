"""Times as requests bring them."""

from __future__ import annotations

from datetime import UTC, datetime

from google.protobuf.timestamp_pb2 import Timestamp

from services.common.errors import InvalidArgument


def read(field: str, timestamp: Timestamp) -> datetime:
    """Give a time in UTC.

    Raises:
        InvalidArgument: it lies outside the years 1 to 9999, or its nanoseconds are none (INVALID_TIME).
    """
    try:
        return timestamp.ToDatetime(UTC)
    except (ValueError, OverflowError) as error:
        raise InvalidArgument.field(
            field,
            f"got {timestamp.seconds} s and {timestamp.nanos} ns; a time of the years 1 to 9999 is allowed",
            reason="INVALID_TIME",
        ) from error
