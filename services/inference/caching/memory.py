"""Answers in this process's memory: bounded in bytes, the least recently used goes first."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, defaultdict
from collections.abc import Callable

from services.inference.caching.answers import AnswerKey, Found, Held, KeptAnswer, size_bytes
from services.inference.caching.counts import CacheCounts


class _Entry:
    __slots__ = ("answer", "counts", "expires_ns", "model", "size_bytes")

    def __init__(self, key: AnswerKey, answer: KeptAnswer, expires_ns: int, size: int) -> None:
        self.answer = answer
        self.model = key.model
        self.counts: CacheCounts = key.counts
        self.expires_ns = expires_ns
        self.size_bytes = size


class MemoryAnswers:
    """See AnswerStore. `max_bytes` bounds all answers together, with what Python adds to their bytes."""

    backend = "memory"
    shared = False

    def __init__(self, max_bytes: int, clock_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._max_bytes = max_bytes
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self._by_model: defaultdict[str, set[bytes]] = defaultdict(set)
        self._size_bytes = 0
        self._purges = 0

    def find(self, key: AnswerKey) -> Found:
        """Look for an answer that is not too old, which makes it the most recently used."""
        now_ns = self._clock_ns()
        with self._lock:
            ticket = self._purges.to_bytes(8)
            entry = self._entries.get(key.digest)
            if entry is None:
                return Found(None, ticket)
            if now_ns < entry.expires_ns:
                self._entries.move_to_end(key.digest)
                return Found(entry.answer, ticket)
            self._drop(key.digest)
        entry.counts.evicted()
        return Found(None, ticket)

    def keep(self, key: AnswerKey, answer: KeptAnswer, ticket: bytes, ttl_ms: int) -> None:
        """Keep an answer, in place of those that were used least recently where there is no room."""
        size = size_bytes(answer.outputs)
        if size > self._max_bytes:
            return
        entry = _Entry(key, answer, self._clock_ns() + ttl_ms * 1_000_000, size)
        evicted: list[_Entry] = []
        with self._lock:
            if ticket != self._purges.to_bytes(8):
                return
            self._drop(key.digest)
            self._entries[key.digest] = entry
            self._by_model[key.model].add(key.digest)
            self._size_bytes += size
            while self._size_bytes > self._max_bytes:
                evicted.append(self._drop(next(iter(self._entries))) or entry)
        key.counts.stored()
        for each in evicted:
            each.counts.evicted()

    def purge(self, model: str) -> int:
        """Forget a model's answers, "": all, and those that are being worked out; says how many were there."""
        with self._lock:
            self._purges += 1
            digests = list(self._by_model.get(model, ())) if model else list(self._entries)
            for digest in digests:
                self._drop(digest)
            return len(digests)

    def held(self) -> Held:
        """Say what is kept."""
        with self._lock:
            return Held(True, len(self._entries), self._size_bytes, self._max_bytes)

    def close(self) -> None:
        """Forget everything."""
        self.purge("")

    def _drop(self, digest: bytes) -> _Entry | None:
        entry = self._entries.pop(digest, None)
        if entry is not None:
            self._size_bytes -= entry.size_bytes
            digests = self._by_model[entry.model]
            digests.discard(digest)
            if not digests:
                del self._by_model[entry.model]
        return entry
