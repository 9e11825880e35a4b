"""Durations as people write them: 45s, 15m, 1h30m, 24h, 7d, 2w."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Final

MAX_DURATION: Final = timedelta(days=36_500)
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_DURATION = re.compile(r"(?:[0-9]{1,12}(?:\.[0-9]{1,12})?[smhdw]){1,8}")
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhdw])")


def parse_duration(text: str, *, zero: bool = False) -> timedelta:
    """Read `90d`, `1h30m`, `15m`, `45s` or `2w`; `0s` only where `zero` has a meaning.

    Raises:
        ValueError: it is none of these, or over a hundred years.
    """
    compact = text.strip().lower()
    if not _DURATION.fullmatch(compact):
        raise ValueError(f"{text[:40]!r} is no duration: write for example 45s, 15m, 1h30m, 90d or 2w")
    seconds = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(compact))
    if seconds > MAX_DURATION.total_seconds() or not (seconds or zero):
        raise ValueError(f"{text[:40]!r} is out of range: over 0 and at most {MAX_DURATION.days} days")
    return timedelta(seconds=seconds)


def write_duration(duration: timedelta) -> str:
    """Write whole seconds with the largest unit that keeps them whole; a day is 24h, as hours are what people set."""
    seconds = round(duration.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0 and (unit != "d" or seconds > size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def duration_text(duration: timedelta | str | None) -> str:
    """Write a duration as the contracts take it: a text as it is, None as nothing said."""
    if duration is None:
        return ""
    return duration if isinstance(duration, str) else write_duration(duration)
