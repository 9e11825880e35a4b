"""What the session cache holds, may hold, and has counted."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Protocol

from services.common.counters import Cell, Tally
from services.inference.models import ResolvedVersion
from services.inference.runtimes.runtime import Session


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What the cache may hold and do.

    `budget_bytes`: measured memory of all sessions together. `max_sessions`: their number. `parallel_loads`: loads
    at once; with 1, each load's memory is measured undisturbed by another. `max_waiting_loads`: models that may
    wait for a load. `failure_backoff_s` to `max_failure_backoff_s`: for how long a failed load is remembered, twice
    as long each time. `drain_s`: how long a load waits for running requests to give back the room it needs.
    """

    budget_bytes: int = 2 * 2**30
    max_sessions: int = 100
    parallel_loads: int = 1
    max_waiting_loads: int = 64
    failure_backoff_s: float = 1.0
    max_failure_backoff_s: float = 60.0
    drain_s: float = 30.0


class CacheCounters(Tally):
    """What happened since the start; read by the metrics."""

    hits = Cell()
    misses = Cell()
    loads = Cell()
    failed_loads = Cell()
    evictions = Cell()

    def __init__(self) -> None:
        super().__init__()
        self.load_seconds = 0.0

    def hit(self) -> None:
        """Count a hit. Every request does: a third of what `hits += 1` costs."""
        own = self.row.own
        own[0] = self.row.cells[0] = own[0] + 1

    def add(self, other: CacheCounters) -> None:
        """Count in what another cache counted."""
        for name in (*self.names, "load_seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


class CachedSession:
    """A loaded session with the number of its users. Whoever acquired it must release it, once."""

    __slots__ = ("closing", "last_used", "load_s", "pinned", "resources", "session", "size_bytes", "users", "version")

    def __init__(self, version: ResolvedVersion, session: Session, resources: ExitStack) -> None:
        self.version = version
        self.session = session
        self.resources = resources
        self.size_bytes = version.size_bytes
        self.load_s = 0.0
        self.users = 0
        self.last_used = 0.0
        self.pinned = version.serving.pinned
        self.closing = False


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """One cached session as operators see it; `idle_s` since its last use began."""

    version: ResolvedVersion
    size_bytes: int
    in_flight: int
    idle_s: float
    load_s: float
    pinned: bool


class Sessions(Protocol):
    """Has the models in memory; see `SessionCache`."""

    def acquire(self, version: ResolvedVersion, timeout_s: float) -> CachedSession:
        """Return the version's session, loading it if need be."""
        ...

    def release(self, entry: CachedSession) -> None:
        """Give a session back."""
        ...
