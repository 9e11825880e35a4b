"""How long a job waits after a fault that may pass."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Full jitter: a wait drawn from 0 to a bound that doubles with each attempt, up to a cap, in seconds.

    (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog 2015.) What the other side asked for is waited
    beside it, cap or no cap, up to `max_asked_s`.
    """

    base_s: float = 1.0
    cap_s: float = 300.0
    max_asked_s: float = 3_600.0

    def bound_s(self, attempt: int) -> float:
        """Give the longest drawn wait after the attempt of this number, from 1 on."""
        return min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, 60))

    def delay_s(self, attempt: int, retry_after_s: float | None = None) -> float:
        """Draw the wait after the attempt of this number; never shorter than `retry_after_s`."""
        asked_s = min(max(retry_after_s or 0.0, 0.0), self.max_asked_s)
        return asked_s + random.uniform(0, self.bound_s(attempt))  # noqa: S311 - spreads load, guards no secret
