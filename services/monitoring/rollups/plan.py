"""Which rollups answer for a window: the coarsest that are there, and events only where no rollup can tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from services.monitoring.models import FUTURE_TOLERANCE, Window
from services.monitoring.rollups.models import FINEST_FIRST, Granularity

SETTLE = timedelta(seconds=5)
"""A bucket is counted so long after its end: most of its events have come by then, and need no second count."""
MAX_EVENT_BUCKETS = 12
"""Buckets that wait for their recount are read from their events, so many at most: the newest ones."""

_BUCKET = Granularity.FIVE_MINUTES
_COARSEST_FIRST = FINEST_FIRST[::-1]
Starts = Mapping[Granularity, frozenset[datetime]]


@dataclass(frozen=True, slots=True)
class Kept:
    """Since when there are events, and rollups of each granularity; midnights, in UTC."""

    events: datetime
    rollups: Mapping[Granularity, datetime]

    def finest(self, time: datetime) -> Granularity | None:
        """Give the finest rollup that is kept of a time."""
        return next((one for one in FINEST_FIRST if self.rollups[one] <= time), None)


@dataclass(slots=True)
class Plan:
    """What is to be read for a window.

    Attributes:
        window: what the answer covers.
        rollups: whole spans to read of each granularity.
        events: spans to count from events, each within one bucket or whole ones.
        complete_until: the first span that waits for its recount and is read as it stands; None: there is none.
        feedback_complete_until: the first one of which only feedback waits; it is read as it stands, always: its
            predictions are counted, and a label costs no query more than it costs to count it.
    """

    window: Window
    rollups: dict[Granularity, list[Window]] = field(default_factory=dict)
    events: list[Window] = field(default_factory=list)
    complete_until: datetime | None = None
    feedback_complete_until: datetime | None = None


def open_since(now: datetime) -> datetime:
    """Give the beginning of the first bucket that is still open: those from here on are read from their events."""
    return _BUCKET.floor(now - SETTLE)


def make_plan(
    window: Window, marked: Starts, kept: Kept, now: datetime, coarsest: Granularity = Granularity.DAY
) -> Plan:
    """Take a window apart.

    Args:
        window: what is asked for.
        marked: the spans that wait for their recount.
        kept: what there is.
        now: spans that have not ended by then are not rolled up yet.
        coarsest: the longest span that may be read whole, that of the steps of a series.
    """
    if window.to_time <= kept.rollups[coarsest]:
        return Plan(window)
    window = _covered(window, kept, now, coarsest)
    stale = _Stale.of(window, marked, kept, open_since(now))
    plan = Plan(window)
    end = min(window.to_time, _horizon(now))
    time = window.from_time
    while time < end:
        time = _take(plan, time, end, stale, kept, coarsest)
    return plan


def _covered(window: Window, kept: Kept, now: datetime, coarsest: Granularity) -> Window:
    """Give what can be told of a window: to the minute where there are events, else in whole spans."""
    begin, end = max(window.from_time, kept.rollups[coarsest]), window.to_time
    finest = kept.finest(begin)
    if finest is not None and (finest is not _BUCKET or begin < kept.events):
        begin = finest.floor(begin)
    if end < _horizon(now):
        finest = kept.finest(end)
        if finest is not None and (finest is not _BUCKET or end < kept.events):
            end = finest.ceil(end)
    return Window(begin, end)


def _horizon(now: datetime) -> datetime:
    """Give a time that no event lies after."""
    return _BUCKET.ceil(now + FUTURE_TOLERANCE) + _BUCKET.span


@dataclass(frozen=True, slots=True)
class _Stale:
    """Spans whose rollups do not hold: of each granularity, and of buckets those that are read from events."""

    starts: Mapping[Granularity, frozenset[datetime]]
    from_events: frozenset[datetime]
    open_from: datetime

    @classmethod
    def of(cls, window: Window, marked: Starts, kept: Kept, open_from: datetime) -> _Stale:
        starts: dict[Granularity, frozenset[datetime]] = {}
        finer: frozenset[datetime] = frozenset()
        for granularity in FINEST_FIRST:
            of_finer = {granularity.floor(start) for start in finer}
            finer = starts[granularity] = marked.get(granularity, frozenset()) | of_finer
        # Where buckets are kept no longer, one that is counted by itself would leave the rest of its hour to nobody.
        since = max(kept.events, kept.rollups[_BUCKET])
        countable = [
            start
            for start in starts[_BUCKET]
            if since <= start < open_from and window.from_time < start + _BUCKET.span and start < window.to_time
        ]
        newest = sorted(countable, reverse=True)[:MAX_EVENT_BUCKETS]
        return cls(starts, frozenset(newest), open_from)

    def holds(self, granularity: Granularity, start: datetime) -> bool:
        """Whether a span is over and counted."""
        return start + granularity.span <= self.open_from and start not in self.starts[granularity]


def _take(plan: Plan, time: datetime, end: datetime, stale: _Stale, kept: Kept, coarsest: Granularity) -> datetime:
    """Take the next piece of a window; gives where it ends."""
    for granularity in _usable(time, end, kept, coarsest):
        if stale.holds(granularity, time):
            _append(plan.rollups.setdefault(granularity, []), time, time + granularity.span)
            return time + granularity.span
    bucket = _BUCKET.floor(time)
    whole = time == bucket and bucket + _BUCKET.span <= end
    if time >= kept.events and (not whole or bucket >= stale.open_from or bucket in stale.from_events):
        until = min(bucket + _BUCKET.span, end)
        _append(plan.events, time, until)
        return until
    return _as_it_stands(plan, time, end, kept, coarsest)


def _as_it_stands(plan: Plan, time: datetime, end: datetime, kept: Kept, coarsest: Granularity) -> datetime:
    """Read a rollup that waits for its recount: a finer one is not there, and its events are too many, or gone."""
    if plan.complete_until is None:
        plan.complete_until = time
    usable = list(_usable(time, end, kept, coarsest))
    if not usable:
        return min(_BUCKET.floor(time) + _BUCKET.span, end)
    _append(plan.rollups.setdefault(usable[-1], []), time, time + usable[-1].span)
    return time + usable[-1].span


def _usable(time: datetime, end: datetime, kept: Kept, coarsest: Granularity) -> Iterator[Granularity]:
    """Give the granularities of which a whole span begins here and is kept, the coarsest first."""
    for granularity in _COARSEST_FIRST:
        fits = granularity.value <= coarsest.value and time + granularity.span <= end
        if fits and granularity.floor(time) == time and kept.rollups[granularity] <= time:
            yield granularity


def _append(windows: list[Window], begin: datetime, end: datetime) -> None:
    """Add a window, as part of the one before where they touch."""
    if windows and windows[-1].to_time == begin:
        begin = windows.pop().from_time
    windows.append(Window(begin, end))
