"""A circuit breaker: what fails again and again is left alone for a while, and then tried by one."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from typing import Final

FAILURES: Final = 3
"""In a row, until it is left alone."""
FIRST_WAIT_S: Final = 1.0
MAX_WAIT_S: Final = 30.0


class CircuitBreaker:
    """Says whether to try. Threads may share it; while nothing fails it costs one comparison."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._wait_s = 0.0
        self._retry_at = 0.0
        self._trying = False

    @property
    def open(self) -> bool:
        """Whether it is left alone."""
        return self._wait_s > 0

    def allows(self) -> bool:
        """Say whether to try now. Once the wait is over one caller may, and the others when that went well."""
        if not self._wait_s:
            return True
        with self._lock:
            now = self._clock()
            if self._wait_s and now < self._retry_at:
                return False
            self._retry_at, self._trying = now + self._wait_s, self.open
            return True

    def succeeded(self) -> bool:
        """Note a success; says whether it ends a time of being left alone."""
        if not self._failures:
            return False
        with self._lock:
            ended = self.open
            self._failures, self._wait_s, self._trying = 0, 0.0, False
            return ended

    def failed(self) -> bool:
        """Note a failure; says whether it is left alone from now on, and was not before."""
        with self._lock:
            self._failures += 1
            opens = not self.open and self._failures >= FAILURES
            # Those that were on their way when it opened come late, and make the wait no longer.
            if opens or self._trying:
                wait_s = FIRST_WAIT_S if opens else min(2 * self._wait_s, MAX_WAIT_S)
                self._wait_s, self._trying = wait_s, False
                self._retry_at = self._clock() + wait_s * random.uniform(1.0, 1.2)  # noqa: S311 - spreads load
            return opens
