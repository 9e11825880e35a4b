"""Taking events in: each is stored once, however often it comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from uuid import UUID

from services.common.keys import caller
from services.monitoring.counters import IngestCounters
from services.monitoring.models import FUTURE_TOLERANCE, Accepted, Event, Recorded, Rejection, Result, Retention
from services.monitoring.store.events import EventStore

Clock = Callable[[], datetime]


class EventLog:
    """Records events."""

    def __init__(self, store: EventStore, retention: Retention, counters: IngestCounters, clock: Clock) -> None:
        self._store = store
        self._retention = retention
        self._counters = counters
        self._clock = clock

    def accepted(self) -> Accepted:
        """Say which events are taken at the moment, by their time."""
        now = self._clock()
        oldest, newest = self._retention.oldest(now), now + FUTURE_TOLERANCE
        return Accepted(round(oldest.timestamp() * 1000), round(newest.timestamp() * 1000))

    def record(self, batch: Sequence[Event | Rejection]) -> list[Result]:
        """Store a batch, refused events in quarantine, and say what became of each, in order.

        All of it is durable when this returns; nothing of it is stored when it raises.

        Raises:
            Unavailable: the database can't be reached; sent again, what was stored after all is a DUPLICATE.
        """
        events = {event.inference_id: event for event in reversed(batch) if isinstance(event, Event)}
        rejections = [event for event in batch if isinstance(event, Rejection)]
        with self._counters.batch_seconds.time():
            stored = self._store.add(list(events.values()), rejections, sent_by=caller().name)
        results = _results(batch, stored)
        self._counters.count(results)
        return results


def _results(batch: Sequence[Event | Rejection], stored: frozenset[UUID]) -> list[Result]:
    """Of the same id twice in a batch, the first is the one stored."""
    if len(stored) == len(batch):
        return [Recorded.STORED] * len(batch)
    new = set(stored)
    results: list[Result] = []
    for event in batch:
        if isinstance(event, Rejection):
            results.append(event)
        elif event.inference_id in new:
            new.remove(event.inference_id)
            results.append(Recorded.STORED)
        else:
            results.append(Recorded.DUPLICATE)
    return results
