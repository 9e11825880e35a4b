"""Durations in requests: read as people write them, within bounds."""

from __future__ import annotations

from datetime import timedelta

from penstock.durations import MAX_DURATION, parse_duration, write_duration
from services.common.errors import InvalidArgument


def read_duration(
    text: str, field: str, *, least: timedelta = timedelta(), most: timedelta = MAX_DURATION
) -> timedelta:
    """Read a duration; `field` is named in the error, the bounds are allowed themselves.

    Raises:
        InvalidArgument: it is no duration, or out of its bounds (INVALID_FIELD).
    """
    try:
        duration = parse_duration(text, zero=not least)
    except ValueError as error:
        raise InvalidArgument.field(field, str(error), reason="INVALID_FIELD") from error
    if not least <= duration <= most:
        allowed = f"{write_duration(least)} to {write_duration(most)}"
        raise InvalidArgument.field(field, f"got {text}; {allowed} is allowed", reason="INVALID_FIELD")
    return duration
