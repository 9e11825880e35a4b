"""The last five minutes, counted from events; those who watch a model share what was counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.monitoring.models import Window
from services.monitoring.rollups.models import Counts, Totals
from services.monitoring.rollups.store.counting import Place

LIVE_STEP = timedelta(seconds=10)
LIVE_STEPS = 30
SHARED_S = 1.0
_SHORTEST = timedelta(seconds=1)
Live = tuple[Sequence[Totals], Totals]
"""The steps, the oldest first, and all of them."""


def so_far(window: Window, now: datetime) -> Window:
    """Give what has passed of a window, a second at least: of what is under way, rates are those until now."""
    end = min(window.to_time, max(now, window.from_time + min(_SHORTEST, window.to_time - window.from_time)))
    return Window(window.from_time, end)


@dataclass(frozen=True, slots=True)
class LiveReading:
    """What was counted of a model at some time, by version and step."""

    time: datetime
    window: Window
    counts: Mapping[Place, Counts]

    def of(self, version: str) -> Live:
        """Give the steps of a version, of all where it is empty, empty steps too; and all of them."""
        steps: dict[datetime, list[Counts]] = {}
        for (named, start), counts in self.counts.items():
            if version in ("", named):
                steps.setdefault(start, []).append(counts)
        starts = [self.window.from_time + number * LIVE_STEP for number in range(LIVE_STEPS)]
        points = [
            Totals(so_far(Window(start, start + LIVE_STEP), self.time), Counts.merged(steps.get(start, ())))
            for start in starts
        ]
        return points, Totals(so_far(self.window, self.time), Counts.merged(point.counts for point in points))


@dataclass(slots=True)
class _Place:
    lock: threading.Lock = field(default_factory=threading.Lock)
    read_s: float = float("-inf")
    reading: LiveReading | None = None


class Readings:
    """The latest reading of each model that somebody watches, as long as it is less than a second old."""

    def __init__(self, read: Callable[[str], LiveReading]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self._places: dict[str, _Place] = {}

    def get(self, model: str) -> LiveReading:
        """Give a reading that began at most a second before this call, however long it takes: of those who ask at once,
        one reads and the others wait for it.
        """
        asked_s = time.monotonic()
        with self._lock:
            old = [name for name, place in self._places.items() if name != model and asked_s > place.read_s + SHARED_S]
            for name in old:
                if not self._places[name].lock.locked():
                    del self._places[name]
            place = self._places.setdefault(model, _Place())
        with place.lock:
            if place.reading is None or asked_s >= place.read_s + SHARED_S:
                began_s = time.monotonic()
                place.reading = self._read(model)
                place.read_s = began_s
            return place.reading
