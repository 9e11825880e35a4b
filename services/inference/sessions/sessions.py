"""The session cache: which models are in memory, and for how long.

A hit is one short lock and a dictionary lookup. Everything slow (loading, closing, trimming) happens on threads of
its own; a request that finds its model cold waits for the load that is under way, whoever began it.
"""

from __future__ import annotations

import copy
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from services.common.errors import DeadlineExceeded, DomainError, FailedPrecondition, ResourceExhausted, Unavailable
from services.common.pools import WAITING
from services.inference.models import ResolvedVersion
from services.inference.runtimes.runtime import Session
from services.inference.sessions.cached_session import CacheCounters, CachedSession, SessionInfo, SessionLimits
from services.inference.sessions.failures import LoadFailures
from services.inference.sessions.memory import resident_bytes, trim_memory
from services.inference.sessions.warm_up import warm_up

log = logging.getLogger(__name__)

Loader = Callable[[ResolvedVersion, ExitStack], Session]
"""Opens a version. What must be undone when the session goes, its own close too, is pushed on the stack."""
Fetcher = Callable[[ResolvedVersion, ExitStack], object]
"""Brings what a version's load reads, and checks it; the stack lets it go when the session does."""


class _Load:
    """A load under way, and those who wait for it."""

    __slots__ = ("done", "entry", "error", "version", "waiters")

    def __init__(self, version: ResolvedVersion) -> None:
        self.version = version
        self.done = threading.Event()
        self.waiters = 0
        self.entry: CachedSession | None = None
        self.error: DomainError | None = None


class SessionCache:
    """Sessions of one runtime, least recently used first out, none closed under a running request.

    `prepare` is called before each load is measured: it makes ready, once, what all of them share. `fetch` brings what
    a load needs before any other session makes room for it: one that cannot be had costs nobody anything.
    """

    def __init__(
        self,
        load: Loader,
        limits: SessionLimits | None = None,
        *,
        prepare: Callable[[], object] | None = None,
        fetch: Fetcher | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.limits = limits or SessionLimits()
        self.counters = CacheCounters()
        self._load = load
        self._prepare = prepare
        self._fetch = fetch
        self._clock = clock
        # One lock for all: a hit holds it for a fifth of a microsecond. The condition is for waiting on room.
        self._lock = threading.Lock()
        self._room = threading.Condition(self._lock)
        self._entries: dict[str, CachedSession] = {}
        self._closing: set[CachedSession] = set()
        self._warming: set[CachedSession] = set()
        self._loads: dict[str, _Load] = {}
        self._failures = LoadFailures(self.limits, clock)
        self._closed = False
        # Threads start with the first task, so this opens nothing yet. Closing has a thread of its own because a
        # load may be waiting for just that.
        self._loader = ThreadPoolExecutor(self.limits.parallel_loads, thread_name_prefix="session-load")
        self._closer = ThreadPoolExecutor(1, thread_name_prefix="session-close")

    # Using sessions

    def acquire(self, version: ResolvedVersion, timeout_s: float) -> CachedSession:
        """Return the version's session, loading it if need be; the caller must `release` it.

        Raises DeadlineExceeded when the load takes longer than `timeout_s` (it goes on, for others), the load's own
        error while a failure is remembered, and ResourceExhausted with SESSION_BUDGET_EXCEEDED or LOAD_QUEUE_FULL.
        """
        with self._lock:
            entry = self._entries.get(version.key)
            if entry is not None:
                entry.users += 1
                entry.last_used = self._clock()
                self.counters.hit()
                return entry
            load = self._join_load(version)
        return self._await(load, timeout_s)

    def release(self, entry: CachedSession) -> None:
        """Give a session back; the last user of an evicted one sends it to be closed."""
        with self._lock:
            entry.users -= 1
            if entry.closing and entry.users == 0:
                self._closer.submit(self._close_entry, entry)

    @contextmanager
    def use(self, version: ResolvedVersion, timeout_s: float) -> Iterator[Session]:
        """Acquire, and release at the end of the block."""
        entry = self.acquire(version, timeout_s)
        try:
            yield entry.session
        finally:
            self.release(entry)

    def replace(self, old_key: str, version: ResolvedVersion, timeout_s: float) -> None:
        """Load `version`, and only then let the old session go; if the load fails the old one stays."""
        self.release(self.acquire(version, timeout_s))
        if old_key != version.key:
            self.unload(old_key)

    def unload(self, key: str) -> bool:
        """Evict a session, pinned or not; requests that run on it finish. False where it is not loaded."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._evict(entry)
            return entry is not None

    def pin(self, key: str, *, pinned: bool) -> bool:
        """Keep a session whatever else loads, or no longer. False where it is not loaded."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                entry.pinned = pinned
            return entry is not None

    def is_loaded(self, key: str) -> bool:
        """Say whether the version is in memory, without counting as a use."""
        return key in self._entries

    def find_failure(self, key: str) -> DomainError | None:
        """The error of the version's last load, if that is why it is not in memory."""
        failure = self._failures.find(key)
        return failure.error if failure else None

    def forget_failure(self, key: str) -> None:
        """Let the next request try at once, for example because an operator asked."""
        with self._lock:
            self._failures.forget(key)

    def list_sessions(self) -> list[SessionInfo]:
        """List what is in memory, the least recently used first."""
        now = self._clock()
        with self._lock:
            entries = sorted(self._entries.values(), key=lambda entry: entry.last_used)
            return [
                SessionInfo(
                    entry.version, entry.size_bytes, entry.users, now - entry.last_used, entry.load_s, entry.pinned
                )
                for entry in entries
            ]

    def terminate_runs(self, *, longer_than_s: float) -> int:
        """End the runs, on any session, that have been going for so long; says how many of that age still go on."""
        with self._lock:
            entries = [*self._entries.values(), *self._closing, *self._warming]
        return sum(entry.session.terminate(longer_than_s=longer_than_s) for entry in entries)

    @property
    def used_bytes(self) -> int:
        """The measured memory of all sessions, those on their way out too."""
        with self._lock:
            return self._held_bytes()

    def refuse(self) -> None:
        """Let no new request in, and every session go once its last user is done."""
        with self._lock:
            self._closed = True
            for entry in list(self._entries.values()):
                self._evict(entry)

    def close(self, timeout_s: float) -> None:
        """Refuse new requests, end the loads' waiting, and close every session that is free within the time."""
        self.refuse()
        self._loader.shutdown(wait=False)
        with self._room:
            if not self._room.wait_for(lambda: not self._closing and not self._loads, timeout_s):
                log.warning("%d sessions are still in use; they go with the process", len(self._closing))
                return
        self._closer.shutdown(wait=True)

    # Loading, on the loader's threads

    def _join_load(self, version: ResolvedVersion) -> _Load:
        """Find the load under way or begin one; the caller holds the lock."""
        key = version.key
        if self._closed:
            raise _stopping()
        self._failures.check(key)
        self.counters.misses += 1
        load = self._loads.get(key)
        if load is None:
            if len(self._loads) >= self.limits.max_waiting_loads + self.limits.parallel_loads:
                sentence = f"{len(self._loads)} models are waiting to be loaded; try again later"
                raise ResourceExhausted(sentence, reason="LOAD_QUEUE_FULL")
            load = self._loads[key] = _Load(version)
            self._loader.submit(self._run_load, load)
        load.waiters += 1
        return load

    def _await(self, load: _Load, timeout_s: float) -> CachedSession:
        with WAITING:
            loaded = load.done.wait(timeout_s)
        if not loaded:
            with self._lock:
                # It may have ended since; then this caller already counts among the session's users.
                if load.entry is None and load.error is None:
                    load.waiters -= 1
                    sentence = f"Request timeout expired: {load.version.key} is still loading"
                    raise DeadlineExceeded(sentence, reason="MODEL_LOADING")
        if load.error is not None:
            raise copy.copy(load.error) from load.error
        if load.entry is None:  # pragma: no cover - a load ends with one of the two
            raise AssertionError(load.version.key)
        return load.entry

    def _run_load(self, load: _Load) -> None:
        """Load one model, and tell all who wait, whatever happened."""
        began = self._clock()
        entry, error = None, None
        try:
            entry = self._open(load.version)
        except DomainError as known:
            error = known
        except BaseException:  # a runtime may raise anything, Rust's panics too, and those who wait must hear of it
            log.exception("loading %s failed", load.version.key)
            error = FailedPrecondition(
                "the model cannot be loaded; the server's log says why", reason="MODEL_LOAD_FAILED"
            )
        with self._lock:
            if entry is not None:
                entry.load_s = self._clock() - began
                error = self._admit(entry, load.waiters)
            if error is not None:
                self.counters.failed_loads += 1
                self._failures.remember(load.version.key, error)
            else:
                self._failures.forget(load.version.key)
            load.entry, load.error = (entry, None) if error is None else (None, error)
            del self._loads[load.version.key]
            self._room.notify_all()
        load.done.set()

    def _open(self, version: ResolvedVersion) -> CachedSession:
        """Load and measure: what the process grew by, and at least what the runtime admits to."""
        with self._lock:
            self._check_room(version.size_bytes)
        resources = ExitStack()
        try:
            if self._prepare is not None:
                self._prepare()
            if self._fetch is not None:
                self._fetch(version, resources)
            self._make_room(version)
            before = resident_bytes()
            session = self._load(version, resources)
            entry = CachedSession(version, session, resources)
            self._warm_up(entry)
        except BaseException:
            resources.close()
            raise
        entry.size_bytes = max(session.size_bytes, resident_bytes() - before)
        return entry

    def _warm_up(self, entry: CachedSession) -> None:
        """Run what the version wants run before it is asked; one of these that hangs is ended as any other run is."""
        with self._lock:
            self._warming.add(entry)
        try:
            warm_up(entry.version, entry.session)
        finally:
            with self._lock:
                self._warming.discard(entry)

    def _make_room(self, version: ResolvedVersion) -> None:
        """Evict, and wait, until at least the file's size is free: the real size shows only afterwards.

        For a model whose last load failed by its own fault goes only what nobody has used since that: it would most
        likely fail again, and what others need would be loaded anew each time. Its error is told again instead.
        """
        size_bytes = version.size_bytes
        with self._room:
            failure = self._failures.find(version.key)
            if failure is None or not failure.broken:
                self._evict_for(size_bytes)
            elif not self._evict_for(size_bytes, unused_since=failure.at):
                raise copy.copy(failure.error)
            # Memory that is being freed right now would be taken off what the new model is measured to need.
            free = self._room.wait_for(
                lambda: (
                    self._held_bytes() + size_bytes <= self.limits.budget_bytes
                    and all(entry.users for entry in self._closing)
                ),
                self.limits.drain_s,
            )
            if not free:
                raise self._over_budget(size_bytes)

    def _admit(self, entry: CachedSession, users: int) -> DomainError | None:
        """Take a measured session in, or turn it away; the caller holds the lock."""
        entry.users = users
        entry.last_used = self._clock()
        try:
            self._evict_for(entry.size_bytes)
        except DomainError as error:
            entry.users = 0
            self._begin_closing(entry)
            return error
        self._entries[entry.version.key] = entry
        self.counters.loads += 1
        self.counters.load_seconds += entry.load_s
        return None

    # Evicting; the caller holds the lock

    def _check_room(self, size_bytes: int) -> None:
        """Raise if there can be no room: the cache closes, or what is pinned takes too much."""
        if self._closed:
            raise _stopping()
        pinned = [entry for entry in self._entries.values() if entry.pinned]
        if sum(entry.size_bytes for entry in pinned) + size_bytes > self.limits.budget_bytes:
            raise self._over_budget(size_bytes)
        if len(pinned) >= self.limits.max_sessions:
            raise ResourceExhausted(
                f"all {self.limits.max_sessions} sessions are pinned; unpin one", reason="SESSION_BUDGET_EXCEEDED"
            )

    def _evict_for(self, size_bytes: int, *, unused_since: float = math.inf) -> bool:
        """Evict the least recently used, idle ones first, until one more has room; raises if there can be none.

        `unused_since` spares what is in use or was used later; False, and nobody evicted, where that leaves no room.
        """
        self._check_room(size_bytes)
        evictable = (entry for entry in self._entries.values() if not entry.pinned)
        candidates = sorted(evictable, key=lambda entry: (entry.users > 0, entry.last_used))
        kept_bytes = sum(entry.size_bytes for entry in self._entries.values())
        chosen: list[CachedSession] = []
        for entry in candidates:
            fits = kept_bytes + size_bytes <= self.limits.budget_bytes
            if fits and len(self._entries) - len(chosen) < self.limits.max_sessions:
                break
            if unused_since < math.inf and (entry.users or entry.last_used > unused_since):
                return False
            kept_bytes -= entry.size_bytes
            chosen.append(entry)
        for entry in chosen:
            self._evict(entry)
            self.counters.evictions += 1
        return True

    def _evict(self, entry: CachedSession) -> None:
        """Take a session out of sight; it closes once nobody uses it."""
        del self._entries[entry.version.key]
        self._begin_closing(entry)

    def _begin_closing(self, entry: CachedSession) -> None:
        entry.closing = True
        self._closing.add(entry)
        if entry.users == 0:
            self._closer.submit(self._close_entry, entry)

    def _close_entry(self, entry: CachedSession) -> None:
        try:
            entry.resources.close()
            trim_memory()
        except Exception:
            log.exception("closing %s failed", entry.version.key)
        finally:
            with self._room:
                self._closing.discard(entry)
                self._room.notify_all()

    def _held_bytes(self) -> int:
        return sum(entry.size_bytes for held in (self._entries.values(), self._closing) for entry in held)

    def _over_budget(self, size_bytes: int) -> ResourceExhausted:
        return ResourceExhausted(
            f"the model needs {size_bytes} bytes; the budget for all sessions is {self.limits.budget_bytes} and "
            "what is pinned or in use leaves too little: raise the budget, or unpin or unload a model",
            reason="SESSION_BUDGET_EXCEEDED",
        )


def _stopping() -> Unavailable:
    return Unavailable("the server is stopping; ask another", reason="STOPPING")
