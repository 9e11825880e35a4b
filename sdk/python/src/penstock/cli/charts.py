"""Bars and lines of characters, for numbers that are sooner seen than read."""

from __future__ import annotations

from collections.abc import Sequence

_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LEVELS = "▁▂▃▄▅▆▇█"


def bar(share: float, width: int) -> str:
    """Draw a share of 1 as a bar of so many cells, to an eighth of one; what is there at all is seen."""
    eighths = round(min(max(share, 0.0), 1.0) * width * 8)
    if share > 0:
        eighths = max(eighths, 1)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def sparkline(values: Sequence[float | None]) -> str:
    """Draw a series as one line, from 0 to its greatest value; a gap where there is none."""
    greatest = max((value for value in values if value is not None), default=0.0)
    return "".join(_level(value, greatest) for value in values)


def _level(value: float | None, greatest: float) -> str:
    if value is None:
        return " "
    if greatest <= 0 or value <= 0:
        return _LEVELS[0]
    return _LEVELS[min(len(_LEVELS) - 1, int(value / greatest * len(_LEVELS)))]
