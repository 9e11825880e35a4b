"""How long a call may still take, as gRPC says it and as the engine wants to know it."""

from __future__ import annotations

from typing import Protocol

NO_DEADLINE_S = 10 * 365 * 86_400.0


class _Call(Protocol):
    def time_remaining(self) -> float | None: ...


def remaining_s(call: _Call) -> float | None:
    """Give the time left, in seconds; None for a call without a deadline, to which gRPC gives one in centuries."""
    left_s = call.time_remaining()
    return None if left_s is None or left_s > NO_DEADLINE_S else left_s
