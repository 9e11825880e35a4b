"""What a key may spend: requests and bytes a minute, each a token bucket, in this process alone.

(The package `limits` was looked at: it counts windows and tells no wait, and a stream has to know how long to pause.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import ResourceExhausted

REQUEST_LIMIT, BYTE_LIMIT = "REQUEST_LIMIT", "BYTE_LIMIT"
MAX_PAUSE_S = 30.0
"""A stream over its budget is slowed down so far, and ended beyond."""
Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Rates:
    """What a key may spend in a minute; None is without a limit."""

    requests_per_minute: int | None = None
    bytes_per_minute: int | None = None

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "bytes_per_minute"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                raise ValueError(f"{name} is {value!r}; a whole number from 1 is allowed, or nothing")


class _Bucket:
    """Holds a minute's worth at most and fills evenly. What is spent may exceed it: the debt is waited off."""

    __slots__ = ("_balance", "_capacity", "_clock", "_filled")

    def __init__(self, per_minute: int, clock: Clock) -> None:
        self._capacity = float(per_minute)
        self._balance = self._capacity
        self._clock = clock
        self._filled = clock()

    def wait_s(self) -> float:
        """Say how long until one may be spent."""
        now = self._clock()
        self._balance = min(self._capacity, self._balance + (now - self._filled) * self._capacity / 60)
        self._filled = now
        return max(0.0, (1 - self._balance) * 60 / self._capacity)

    def spend(self, count: int) -> None:
        self._balance -= count


class Budget:
    """The buckets of one key. Calls of the key share it, from whatever threads."""

    def __init__(self, name: str, rates: Rates, clock: Clock = time.monotonic) -> None:
        self.name = name
        self.rates = rates
        self._lock = threading.Lock()
        self._requests = _Bucket(rates.requests_per_minute, clock) if rates.requests_per_minute else None
        self._bytes = _Bucket(rates.bytes_per_minute, clock) if rates.bytes_per_minute else None
        self.refused: dict[str, int] = {REQUEST_LIMIT: 0, BYTE_LIMIT: 0}
        """How many calls were refused, by reason."""
        self.paused_s = 0.0
        """How long streams were made to wait, in all."""

    def admit(self) -> None:
        """Take one request; a refused one costs nothing.

        Raises:
            ResourceExhausted: the minute's requests (REQUEST_LIMIT) or bytes (BYTE_LIMIT) are spent; `retry_after_s`
                says how long until some are there again.
        """
        with self._lock:
            reason, wait_s = self._shortage(self._requests)
            if wait_s == 0 and self._requests is not None:
                self._requests.spend(1)
        if wait_s > 0:
            raise self.refusal(reason, wait_s)

    def spend(self, size_bytes: int) -> None:
        """Take bytes that have come or gone. A message larger than the balance is let pass, and its debt waited off."""
        if self._bytes is not None:
            with self._lock:
                self._bytes.spend(size_bytes)

    def pause_s(self, *, takes_request: bool) -> tuple[str, float]:
        """Say for how long a stream has to wait before its next message, and for which limit.

        Where it need not wait and `takes_request`, one request is taken.
        """
        with self._lock:
            requests = self._requests if takes_request else None
            reason, wait_s = self._shortage(requests)
            if wait_s == 0 and requests is not None:
                requests.spend(1)
        return reason, wait_s

    def paused(self, seconds: float) -> None:
        """Count the time that a stream was made to wait."""
        with self._lock:
            self.paused_s += seconds

    def refusal(self, reason: str, wait_s: float) -> ResourceExhausted:
        """Count a refusal, and make its error."""
        with self._lock:
            self.refused[reason] += 1
        requests = reason == REQUEST_LIMIT
        limit = self.rates.requests_per_minute if requests else self.rates.bytes_per_minute
        return ResourceExhausted(
            f"the key {self.name!r} may {'make' if requests else 'move'} {limit:,} "
            f"{'requests' if requests else 'bytes'} a minute here, and has; try again in {wait_s:.1f} s",
            reason=reason,
            retry_after_s=wait_s,
        )

    def _shortage(self, requests: _Bucket | None) -> tuple[str, float]:
        for reason, bucket in ((REQUEST_LIMIT, requests), (BYTE_LIMIT, self._bytes)):
            if bucket is not None and (wait_s := bucket.wait_s()) > 0:
                return reason, wait_s
        return "", 0.0


def budget_of(name: str, rates: Rates, before: Budget | None) -> Budget | None:
    """Keep a key's budget as it stands while its rates do; a file that is read again refills nothing."""
    if rates == Rates():
        return None
    return before if before is not None and before.rates == rates else Budget(name, rates)


class BudgetCollector(Collector):
    """Yields penstock_key_refused_total and penstock_key_paused_seconds_total, of the keys that have limits."""

    def __init__(self, budgets: Callable[[], Iterable[Budget]]) -> None:
        self._budgets = budgets

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape."""
        refused = CounterMetricFamily(
            "penstock_key_refused", "Calls refused because a key's limit was reached.", labels=("key", "reason")
        )
        paused = CounterMetricFamily(
            "penstock_key_paused_seconds", "Time that a key's streams were made to wait, in s.", labels=("key",)
        )
        for budget in self._budgets():
            counts: Mapping[str, int] = dict(budget.refused)
            for reason, count in counts.items():
                refused.add_metric((budget.name, reason), count)
            paused.add_metric((budget.name,), budget.paused_s)
        yield from (refused, paused)
