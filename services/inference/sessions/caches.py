"""All sessions of this process: one cache for each runtime, since each runtime's memory has a budget of its own."""

from __future__ import annotations

import time
from collections.abc import Mapping

from services.common.counters import Counters
from services.common.errors import DomainError, FailedPrecondition
from services.inference.models import ResolvedVersion
from services.inference.sessions.cached_session import CacheCounters, CachedSession, SessionInfo
from services.inference.sessions.sessions import SessionCache

SESSIONS = "sessions"
"""The kind of the rows in which the caches count, by framework."""


class SessionCaches:
    """Hands every call to the cache of the version's framework; each method is as `SessionCache` says."""

    def __init__(self, caches: Mapping[str, SessionCache]) -> None:
        self.caches = caches
        """By framework; for whoever reports on each."""

    def acquire(self, version: ResolvedVersion, timeout_s: float) -> CachedSession:
        """Return the version's session, loading it if need be; the caller must `release` it.

        Raises what `SessionCache.acquire` does, and FailedPrecondition(FRAMEWORK_NOT_SERVED).
        """
        return self.of(version.framework).acquire(version, timeout_s)

    def release(self, entry: CachedSession) -> None:
        """Give a session back."""
        self.caches[entry.version.framework].release(entry)

    def of(self, framework: str) -> SessionCache:
        """Find a framework's cache; raises FailedPrecondition(FRAMEWORK_NOT_SERVED) where there is none."""
        cache = self.caches.get(framework)
        if cache is None:
            sentence = f"this server has no runtime for {framework}; it has {', '.join(self.caches)}"
            raise FailedPrecondition(sentence, reason="FRAMEWORK_NOT_SERVED")
        return cache

    def unload(self, key: str) -> bool:
        """Evict a session, pinned or not; False where it is not loaded."""
        return any(cache.unload(key) for cache in self.caches.values())

    def pin(self, key: str, *, pinned: bool) -> bool:
        """Keep a session whatever else loads, or no longer. False where it is not loaded."""
        return any(cache.pin(key, pinned=pinned) for cache in self.caches.values())

    def is_loaded(self, key: str) -> bool:
        """Say whether the version is in memory, without counting as a use."""
        return any(cache.is_loaded(key) for cache in self.caches.values())

    def find_failure(self, key: str) -> DomainError | None:
        """The error of the version's last load, if that is why it is not in memory."""
        return next((error for cache in self.caches.values() if (error := cache.find_failure(key))), None)

    def forget_failure(self, key: str) -> None:
        """Let the next request try at once."""
        for cache in self.caches.values():
            cache.forget_failure(key)

    def list_sessions(self) -> list[SessionInfo]:
        """List what is in memory, the least recently used first."""
        sessions = [session for cache in self.caches.values() for session in cache.list_sessions()]
        return sorted(sessions, key=lambda session: -session.idle_s)

    def terminate_runs(self, *, longer_than_s: float) -> int:
        """End the runs, on any session, that have been going for so long; says how many of that age still go on."""
        return sum(cache.terminate_runs(longer_than_s=longer_than_s) for cache in self.caches.values())

    @property
    def used_bytes(self) -> int:
        """The measured memory of all sessions, those on their way out too."""
        return sum(cache.used_bytes for cache in self.caches.values())

    def keep_counts_in(self, counters: Counters) -> None:
        """Count on where this worker's slot says; before anything is loaded."""
        for framework, cache in self.caches.items():
            cache.counters.keep_in(counters, SESSIONS, framework)

    @property
    def counters(self) -> CacheCounters:
        """Add up what happened in all caches since the start."""
        total = CacheCounters()
        for cache in self.caches.values():
            total.add(cache.counters)
        return total

    def close(self, timeout_s: float) -> None:
        """Refuse new requests everywhere, then close every session that is free within the time."""
        for cache in self.caches.values():
            cache.refuse()
        deadline = time.monotonic() + timeout_s
        for cache in self.caches.values():
            cache.close(max(0.0, deadline - time.monotonic()))
