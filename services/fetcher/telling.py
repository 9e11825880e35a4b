"""How far a fetch is and how fast, told twice a second: also while nothing comes, for that is news as well."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from services.common.errors import DomainError

INTERVAL_S = 0.5
WINDOW: Final = 10
"""Intervals that a speed is taken over."""
_log = structlog.get_logger(__name__)

Write = Callable[[int, int], None]
"""Writes how many bytes are here, and how many come in a second."""


class Pace:
    """How fast something grows, over the latest `WINDOW` looks at it: a stall is seen as soon as these are over."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)

    def per_second(self, now_s: float, count: int) -> int:
        """Look at it: how much there is at a time; gives its growth in a second."""
        self._seen.append((now_s, count))
        first_s, first = self._seen[0]
        return round((count - first) / (now_s - first_s)) if now_s > first_s else 0


class Telling:
    """Tells by a thread of its own, inside the block; at its end of all that is here, and that nothing comes."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._pace = Pace()
        self._here = 0
        self._came = 0
        self._told = (0, 0)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, name="fetch-telling", daemon=True)

    def here(self, size_bytes: int) -> None:
        """Note how many bytes are here."""
        self._here = size_bytes

    def came(self, size_bytes: int) -> None:
        """Count bytes that came over the network; from one thread at a time."""
        self._came += size_bytes

    def __enter__(self) -> Self:
        self._pace.per_second(time.monotonic(), 0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._tell(0)

    def _repeat(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self._tell(self._pace.per_second(time.monotonic(), self._came))

    def _tell(self, bytes_per_second: int) -> None:
        told = (self._here, bytes_per_second)
        if told == self._told and not bytes_per_second:
            return  # as long as bytes come it is told in any case: who dies in the middle is not thought to go on
        try:
            self._write(*told)
            self._told = told
        except DomainError as error:
            # Progress is news, no result: the database may be back before it matters.
            _log.info("progress not reported", reason=error.reason)
