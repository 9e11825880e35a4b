"""The connection that the parts of monitoring's client share, and the windows that they take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.channels import Connection
from penstock.errors import FieldViolation, InvalidArgument
from penstock.stubs import MonitoringStub
from penstock.values import to_timestamp

MAX_PAGE_SIZE = 1_000


class MonitoringConnected:
    """Holds the connection."""

    def __init__(self, connection: Connection[MonitoringStub]) -> None:
        self._connection = connection


def to_window(
    from_time: datetime | None, to_time: datetime | None, window: timedelta | None = None
) -> tuple[Timestamp | None, Timestamp | None]:
    """Encode a window by its ends, or by its end and its length.

    Raises:
        InvalidArgument: it has a beginning and a length too (INVALID_WINDOW), or a time is naive (NAIVE_TIME).
    """
    if window is not None:
        if from_time is not None:
            sentence = "give from_time or window, not both"
            violation = FieldViolation("window", sentence)
            raise InvalidArgument(f"window: {sentence}", reason="INVALID_WINDOW", violations=[violation])
        from_time = (to_time or datetime.now(UTC)) - window
    return to_timestamp("from_time", from_time), to_timestamp("to_time", to_time)


def page_size_of(limit: int | None) -> int:
    """Choose a page that suits a limit, within what the service takes."""
    return MAX_PAGE_SIZE if limit is None else max(1, min(limit, MAX_PAGE_SIZE))
