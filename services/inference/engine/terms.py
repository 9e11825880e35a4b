"""On what terms a version is served: its own settings, and the server's where it has none."""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass, replace

from services.inference.engine.signature import SignatureCheck
from services.inference.models import QueueFullAction, ResolvedVersion

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What holds for versions that say nothing else, see ServingSettings in registry.proto; and of the engine itself.

    `max_in_flight` bounds the threads that callers lend to one model, so that no model takes the whole pool;
    `most_in_flight` is the most that a version's own setting may make of it, 0: as it likes. `load_wait_s` bounds how
    long a request without a deadline waits for its model to be loaded. `parallel_runs`: runs at once of a version that
    is not batched and whose runtime has no opinion. `runners`: threads for who lends none, of which no model has more
    than half.
    """

    max_in_flight: int = 64
    most_in_flight: int = 0
    load_wait_s: float = 60.0
    max_batch_size: int = 32
    max_queue_size: int = 1_000
    parallel_runs: int = 1
    runners: int = 16


def within_threads(limits: EngineLimits, threads: int) -> EngineLimits:
    """Let no model hold more than three quarters of so many callers' threads, whatever the settings say."""
    most = max(1, threads * 3 // 4)
    if limits.max_in_flight > most:
        log.warning(
            "PENSTOCK_MAX_IN_FLIGHT is %d, and is taken for %d: with PENSTOCK_REQUEST_THREADS at %d, one model could "
            "hold up all others; raise that one too",
            *(limits.max_in_flight, most, threads),
        )
    return replace(limits, max_in_flight=min(limits.max_in_flight, most), most_in_flight=most)


class ModelShare:
    """What the versions of a model have in common: a lock, and the threads that they hold, callers' and runners."""

    __slots__ = ("in_flight", "lock", "runners")

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.in_flight = 0
        self.runners = 0


class Terms:
    """Worked out once for each change of the settings, since every request reads them."""

    __slots__ = (
        "default_level",
        "delay_ns",
        "displaces",
        "has_rows",
        "instances",
        "joins",
        "levels",
        "load_wait_s",
        "max_in_flight",
        "max_rows",
        "max_waiting",
        "timeout_ns",
    )

    def __init__(self, version: ResolvedVersion, limits: EngineLimits, check: SignatureCheck, *, joins: bool) -> None:
        serving = version.serving
        self.has_rows = version.rows_independent and check.joinable
        """One row comes out for each that goes in, and none depends on another."""
        self.max_rows = (serving.max_batch_size or limits.max_batch_size) if self.has_rows and joins else 1
        self.joins = self.max_rows > 1
        """Whether requests are batched at all."""
        self.instances = serving.instances or (1 if self.joins else 0)
        """Runs at once; 0: as the session thinks best."""
        self.max_in_flight = _in_flight(version, limits)
        self.max_waiting = serving.max_queue_size or limits.max_queue_size
        self.displaces = serving.queue_full_action is QueueFullAction.DISPLACE
        self.delay_ns = serving.max_queue_delay_us * 1000 if self.joins else 0
        self.levels = max(1, serving.priority_levels)
        self.default_level = (serving.default_priority or self.levels) - 1
        self.timeout_ns = serving.timeout_ms * 1_000_000
        self.load_wait_s = limits.load_wait_s

    def level(self, priority: int) -> int:
        """The place of a priority among the levels, from 0."""
        return priority - 1 if 0 < priority <= self.levels else self.default_level

    def start_by_ns(self, began_ns: int, deadline_ns: int, timeout_ns: int) -> int:
        """When, on the monotonic clock, a request must have begun to run at the latest; 0: whenever."""
        timeout_ns = timeout_ns or self.timeout_ns
        if not timeout_ns:
            return deadline_ns
        return min(began_ns + timeout_ns, deadline_ns) if deadline_ns else began_ns + timeout_ns


def _in_flight(version: ResolvedVersion, limits: EngineLimits) -> int:
    wanted, most = version.serving.max_in_flight or limits.max_in_flight, limits.most_in_flight
    if not most or wanted <= most:
        return wanted
    log.warning(
        "max_in_flight of %s is %d, and is taken for %d, three quarters of PENSTOCK_REQUEST_THREADS",
        *(version.key, wanted, most),
    )
    return most
