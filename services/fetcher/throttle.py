"""Politeness towards hosts: what all replicas together ask of one, and the patience that it asked for.

A process takes from a host's bucket for a moment ahead, and spends that without asking the database again; what is
left of it a second later is let go.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

import structlog

from services.common.errors import DomainError
from services.fetcher.faults import HostBusy
from services.fetcher.metrics import FetchCounters
from services.fetcher.sources.source import Stopping
from services.fetcher.store.hosts import HostStore, Rate, Unit

MOST_SLEPT_S = 5.0
"""A request waits here for its turn so long at most; a job that would have to wait longer leaves its slot to others."""
MOST_SLOWED_S = 3_600.0
AHEAD_S = 0.25
HELD_S = 1.0
MOST_HELD = 1_024
_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HostLimits:
    """What one host is asked for by all replicas together; bytes None: as many as it gives."""

    requests: Rate
    bytes: Rate | None = None


@dataclass(slots=True)
class _Held:
    """What was taken ahead: so much is left of it, to be spent from `begin` to `end` of the monotonic clock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    count: float = 0.0
    begin: float = 0.0
    end: float = 0.0


class Throttle:
    """Lets requests to hosts through in their turn. Safe to use from many threads."""

    def __init__(self, hosts: HostStore, limits: HostLimits, counters: FetchCounters) -> None:
        self._hosts = hosts
        self._limits = limits
        self._counters = counters
        self._held: OrderedDict[tuple[str, Unit], _Held] = OrderedDict()
        self._lock = threading.Lock()

    def admit(self, host: str, stopping: Stopping) -> None:
        """Wait for the turn of a request.

        Raises:
            HostBusy: it would not come soon: the host asked for patience, or too much is asked of it.
            Stopped and the like: what `stopping` says while it waits.
        """
        self._spend(host, Unit.REQUESTS, 1, self._limits.requests, stopping, most_wait_s=MOST_SLEPT_S)

    def received(self, host: str, stopping: Stopping, size_bytes: int) -> None:
        """Count bytes that came, and wait until more may; raises what `stopping` says meanwhile."""
        self._counters.received_bytes.inc(size_bytes)
        if self._limits.bytes is not None:
            self._spend(host, Unit.BYTES, size_bytes, self._limits.bytes, stopping, most_wait_s=MOST_SLOWED_S)

    def pause(self, host: str, seconds: float) -> None:
        """Have no replica ask a host for so long, because it said so."""
        self._counters.pauses.inc()
        try:
            self._hosts.pause(host, seconds, self._limits.requests)
        except DomainError as error:
            # Whoever was told so waits in any case.
            _log.warning("a host's wish is not noted", host=host, reason=error.reason)
        held = self._held_of(host, Unit.REQUESTS)
        with held.lock:
            held.count = 0.0

    def _spend(
        self, host: str, unit: Unit, count: float, rate: Rate, stopping: Stopping, *, most_wait_s: float
    ) -> None:
        held = self._held_of(host, unit)
        with held.lock:
            now = time.monotonic()
            if held.count < count or now >= held.end:
                left = held.count if now < held.end else 0.0  # it is paid for
                taken = max(count - left, float(int(min(rate.per_s * AHEAD_S, rate.burst))))
                turn = self._hosts.take(host, unit, taken, rate, most_wait_s=most_wait_s)
                if not turn.taken:
                    sentence = (
                        f"{host} is asked again in {turn.wait_s:.0f} s: it wants patience, or is asked for too much at "
                        "once (PENSTOCK_FETCHER_HOST_REQUESTS_PER_SECOND)"
                    )
                    raise HostBusy(sentence, retry_after_s=turn.wait_s)
                now = time.monotonic()
                held.count, held.begin = left + taken, now + turn.wait_s
                held.end = held.begin + HELD_S
            held.count -= count
            wait_s = held.begin - now
        if wait_s > 0:
            self._wait(wait_s, unit, stopping)

    def _wait(self, seconds: float, unit: Unit, stopping: Stopping) -> None:
        stopped, begun = threading.Event(), time.monotonic()
        stopping.on_stop(stopped.set)
        try:
            stopped.wait(seconds)
        finally:
            stopping.forget(stopped.set)
            self._counters.throttled_seconds.labels(unit.value).inc(time.monotonic() - begun)
        stopping.check()

    def _held_of(self, host: str, unit: Unit) -> _Held:
        with self._lock:
            held = self._held.setdefault((host, unit), _Held())
            self._held.move_to_end((host, unit))
            if len(self._held) > MOST_HELD:
                self._held.popitem(last=False)
            return held
