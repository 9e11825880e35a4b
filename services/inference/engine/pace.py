"""How long a model's runs take, to tell quick ones, during which no other thread need be woken, from all others."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Final

from services.common.pools import WAITING

QUICK_NS: Final = 1_000_000
"""To put another thread in one's place, and to come back, takes tens of microseconds on a busy core."""
_AT_WORK: Final = nullcontext()


class Pace:
    """What is remembered of a version's runs. Threads may be a run apart about it: it only says who makes room."""

    __slots__ = ("_quick_rows", "_slowest_ns")

    def __init__(self) -> None:
        self._slowest_ns = 0.0
        self._quick_rows = 0

    def ran(self, rows: int, duration_ns: int) -> None:
        """Take note of a run. A slow one is forgotten after some tens of quick ones."""
        slowest_ns = self._slowest_ns * 0.9
        self._slowest_ns = slowest_ns if slowest_ns > duration_ns else float(duration_ns)
        if duration_ns < QUICK_NS and rows > self._quick_rows:
            self._quick_rows = rows

    def is_quick(self, rows: int) -> bool:
        """Whether so many rows are likely to be quick: all runs of late were, and this is not much more than they."""
        return self._slowest_ns < QUICK_NS and rows <= 2 * self._quick_rows

    def during(self, rows: int) -> AbstractContextManager[None]:
        """Give the block in which to run so many rows, or to wait for such a run."""
        return _AT_WORK if self.is_quick(rows) else WAITING
