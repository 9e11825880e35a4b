"""What is remembered of loads that failed: for how long nobody tries again, and how much the next try may cost."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from services.common.errors import DomainError
from services.inference.sessions.cached_session import SessionLimits

MAX_REMEMBERED_FAILURES = 1_000
# Of the model itself, whose bytes never change: it will most likely fail again.
BROKEN = frozenset({"MODEL_LOAD_FAILED", "WARM_UP_FAILED"})


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed load: its error, how often in a row, when, and until when nobody tries again (on the cache's clock)."""

    error: DomainError
    count: int
    at: float
    until: float

    @property
    def broken(self) -> bool:
        """Whether it was the model's own fault."""
        return self.error.reason in BROKEN


class LoadFailures:
    """The last failures by version, a bounded number of them; its caller holds the cache's lock to change them."""

    def __init__(self, limits: SessionLimits, clock: Callable[[], float]) -> None:
        self._limits = limits
        self._clock = clock
        self._failures: dict[str, Failure] = {}

    def find(self, key: str) -> Failure | None:
        """Find the failure of a version's last load."""
        return self._failures.get(key)

    def check(self, key: str) -> None:
        """Raise the error of the version's last load, for as long as nobody is to try again."""
        failure = self._failures.get(key)
        if failure is not None and self._clock() < failure.until:
            error = copy.copy(failure.error)
            error.retry_after_s = failure.until - self._clock()
            raise error

    def remember(self, key: str, error: DomainError) -> None:
        """Note a failure: the pause after it is twice as long as after the one before."""
        count = self._failures[key].count + 1 if key in self._failures else 1
        pause_s = min(self._limits.failure_backoff_s * 2 ** min(count - 1, 30), self._limits.max_failure_backoff_s)
        now = self._clock()
        self._failures[key] = Failure(error, count, now, now + pause_s)
        while len(self._failures) > MAX_REMEMBERED_FAILURES:
            del self._failures[next(iter(self._failures))]

    def forget(self, key: str) -> None:
        """Let the next request try at once, as if it had never failed."""
        self._failures.pop(key, None)
