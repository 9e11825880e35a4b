"""How often the response cache helped, by version. Workers add up, and a worker's death loses nothing."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from services.common.counters import Counters, Row

KIND = "response_cache"
_HITS, _MISSES, _STORED, _EVICTED, _ERRORS = range(5)
_CELLS = 5


@dataclass(frozen=True, slots=True)
class VersionCounts:
    """The counts of one version. `errors` are looks and writes that the backend did not answer."""

    model: str
    version: str
    hits: int = 0
    misses: int = 0
    stored: int = 0
    evicted: int = 0
    errors: int = 0


class CacheCounts:
    """What this process counts for one version."""

    __slots__ = ("_lock", "_row")

    def __init__(self, row: Row) -> None:
        self._row = row
        self._lock = threading.Lock()

    def hit(self) -> None:
        """Count an answer from the cache."""
        with self._lock:
            self._row.add(_HITS, 1)

    def miss(self) -> None:
        """Count a look in vain."""
        with self._lock:
            self._row.add(_MISSES, 1)

    def stored(self) -> None:
        """Count an answer that is kept."""
        with self._lock:
            self._row.add(_STORED, 1)

    def evicted(self) -> None:
        """Count an answer that was pushed out, or too old."""
        with self._lock:
            self._row.add(_EVICTED, 1)

    def error(self) -> None:
        """Count a backend that did not answer."""
        with self._lock:
            self._row.add(_ERRORS, 1)

    def reset(self) -> None:
        """Begin at zero."""
        with self._lock:
            for cell, count in enumerate(self._row.own):
                self._row.add(cell, -count)


class CacheStatistics:
    """The counts of every version that asked the cache."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._counts: dict[tuple[str, str], CacheCounts] = {}
        self._lock = threading.Lock()

    def of(self, model: str, version: str) -> CacheCounts:
        """Find a version's counts, or begin them."""
        found = self._counts.get((model, version))
        if found is None:
            with self._lock:
                row = self._counters.row((KIND, model, version), _CELLS)
                found = self._counts.setdefault((model, version), CacheCounts(row))
        return found

    def all(self) -> list[VersionCounts]:
        """Read the counts of all processes, by model and version."""
        sums = self._counters.sums(KIND)
        return [VersionCounts(model, version, *counts) for (_, model, version), counts in sorted(sums.items())]

    def reset(self) -> None:
        """Set to zero what this process counted, and what whoever had its slot before did."""
        inherited = {(model, version) for _, model, version in self._counters.own(KIND)}
        for model, version in inherited.union(self._counts):
            self.of(model, version).reset()
