"""Inference ids: UUIDv7 (RFC 9562, section 5.7), whose first 48 bits are the Unix time in ms."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from uuid import UUID, SafeUUID

from services.common.errors import InvalidArgument

# Both cases spelt out: re.IGNORECASE takes twice as long.
_HEX = "[0-9a-fA-F]"
_is_uuid7 = re.compile(f"{_HEX}{{8}}-{_HEX}{{4}}-7{_HEX}{{3}}-[89abAB]{_HEX}{{3}}-{_HEX}{{12}}").fullmatch
TIME_SHIFT = 80
"""An id's time is what is left of its number without so many bits."""
_MAX_TIME_MS = (1 << 48) - 1
_LAST_DATETIME_MS = 253_402_300_799_999
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_set_number, _set_safety = vars(UUID)["int"].__set__, vars(UUID)["is_safe"].__set__
_MILLISECOND = timedelta(milliseconds=1)


def find_id(text: str) -> UUID | None:
    """Read a UUIDv7 in its canonical form of 36 characters; None where it is something else."""
    return _made(int(text.replace("-", ""), 16)) if _is_uuid7(text) else None


def _made(value: int) -> UUID:
    """Make a UUID without its constructor, which looks through seven ways of being called: every event passes here."""
    made = object.__new__(UUID)
    _set_number(made, value)
    _set_safety(made, SafeUUID.unknown)
    return made


def get_id(text: str) -> UUID:
    """Read the `inference_id` of a request.

    Raises:
        InvalidArgument: it is no UUIDv7 (INVALID_ID).
    """
    found = find_id(text)
    if found is None:
        raise InvalidArgument.field("inference_id", not_an_id(text), reason="INVALID_ID")
    return found


def not_an_id(text: str) -> str:
    """Say what is wrong with an id."""
    example = "019a3f5e-7c00-7abc-8def-0123456789ab"
    return f"{text[:64]!r} is not a UUIDv7 like {example}; send the inference_id that the prediction gave"


def time_ms_of(inference_id: UUID) -> int:
    """Give an id's time, in ms since 1970."""
    return inference_id.int >> TIME_SHIFT


def time_of(inference_id: UUID) -> datetime:
    """Give an id's time; one after the year 9999, which no datetime reaches, counts as that year's end."""
    return _EPOCH + min(time_ms_of(inference_id), _LAST_DATETIME_MS) * _MILLISECOND


def first_id(time: datetime) -> UUID:
    """Give the smallest value that an id of this time or later can have: a bound for ranges of ids."""
    time_ms = -((_EPOCH - time) // _MILLISECOND)
    return UUID(int=min(max(time_ms, 0), _MAX_TIME_MS) << TIME_SHIFT)
