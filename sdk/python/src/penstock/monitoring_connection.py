"""The connection that the parts of monitoring's client share, and the windows that they take."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.channels import Connection
from penstock.durations import parse_duration
from penstock.errors import FieldViolation, InvalidArgument
from penstock.stubs import MonitoringStub
from penstock.values import to_timestamp

MAX_PAGE_SIZE = 1_000


class MonitoringConnected:
    """Holds the connection."""

    def __init__(self, connection: Connection[MonitoringStub]) -> None:
        self._connection = connection


def to_window(
    from_time: datetime | None, to_time: datetime | None, window: timedelta | str | None = None
) -> tuple[Timestamp | None, Timestamp | None]:
    """Encode a window by its ends, or by its end and its length, such as `6h`.

    Raises:
        InvalidArgument: it has a beginning and a length too, or its length is none (INVALID_WINDOW), or a time is naive
            (NAIVE_TIME).
    """
    if window is not None:
        if from_time is not None:
            raise _invalid("give from_time or window, not both")
        try:
            length = parse_duration(window) if isinstance(window, str) else window
        except ValueError as error:
            raise _invalid(str(error)) from error
        from_time = (to_time or datetime.now(UTC)) - length
    return to_timestamp("from_time", from_time), to_timestamp("to_time", to_time)


def _invalid(sentence: str) -> InvalidArgument:
    violation = FieldViolation("window", sentence)
    return InvalidArgument(f"window: {sentence}", reason="INVALID_WINDOW", violations=[violation])


def page_size_of(limit: int | None) -> int:
    """Choose a page that suits a limit, within what the service takes."""
    return MAX_PAGE_SIZE if limit is None else max(1, min(limit, MAX_PAGE_SIZE))
