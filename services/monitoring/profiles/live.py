"""Live traffic in the bins of its reference: counted bucket by bucket as it comes, and summed for any window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import structlog
from numpy.typing import NDArray

from services.common.errors import Aborted, DeadlineExceeded, DomainError
from services.monitoring.chores import Turn
from services.monitoring.models import FUTURE_TOLERANCE, Retention, Window
from services.monitoring.profiles.count import BucketCounter, BucketCounts, Sample, bin_slices
from services.monitoring.profiles.models import (
    BUCKET,
    GROUPS,
    QUALITY_COUNTS,
    Counts,
    FeatureKind,
    LiveFeature,
    LiveWindow,
    Reference,
)
from services.monitoring.profiles.reference import SAMPLE_SIZE
from services.monitoring.profiles.references import References
from services.monitoring.profiles.store.live import LiveStore, Mark
from services.monitoring.store.days import Days

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MARKS_AT_ONCE = 100
_MOST_WAITING = 576
"""Marks of two days: an old day's buckets are marked for a recount only when fewer wait."""


def floor(time: datetime) -> datetime:
    """Give the beginning of the bucket that a time lies in."""
    return time - (time - _EPOCH) % BUCKET


class LiveProfiles:
    """Sums of what was counted; see `LiveWindow`."""

    def __init__(self, store: LiveStore) -> None:
        self._store = store

    def window(self, reference: Reference, version: str, from_time: datetime, to_time: datetime) -> LiveWindow:
        """Sum the live rows of a version over the whole buckets that meet a window. No raw event is read.

        Args:
            reference: the profile in whose bins they were counted, attached to the version then.
            version: of the reference's model.
            from_time: the bucket that it lies in is the first.
            to_time: the end; a bucket that begins before it is in.
        """
        begin, end = floor(from_time), floor(to_time + BUCKET - timedelta(microseconds=1))
        found = self._store.read(reference.model, version, reference.id, Window(begin, end))
        return sum_up(reference, begin, end, found)


def sum_up(
    reference: Reference, from_time: datetime, to_time: datetime, buckets: Iterable[tuple[datetime, BucketCounts]]
) -> LiveWindow:
    """Add up buckets, one at a time: of all of them only what a window keeps by bucket is held."""
    total = _Sum(reference)
    for time, counts in buckets:
        total.add(time, counts)
    return total.window(from_time, to_time)


class _Sum:
    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        slices = bin_slices(reference)
        self._slices = slices
        bins, features = (slices[-1].stop if slices else 0), len(slices)
        self._times: list[datetime] = []
        self._row_counts: list[int] = []
        self._counts: list[Counts] = []
        self._quality: list[Counts] = []
        self._duplicate_count = 0
        self._groups: Counts = np.zeros((GROUPS, bins), np.int64)
        self._group_row_counts: Counts = np.zeros(GROUPS, np.int64)
        self._extremes = np.full((features, 2), np.nan)
        self._last_times_ms: Counts = np.zeros(features, np.int64)
        self._samples: dict[str, list[Sample]] = {}
        self._unknown: Counter[str] = Counter()

    def add(self, time: datetime, counts: BucketCounts) -> None:
        self._times.append(time)
        self._row_counts.append(counts.row_count)
        self._counts.append(counts.counts)
        self._quality.append(counts.quality)
        self._duplicate_count += counts.duplicate_count
        self._groups += counts.groups
        self._group_row_counts += counts.group_row_counts
        self._extremes[:, 0] = np.fmin(self._extremes[:, 0], counts.extremes[:, 0])
        self._extremes[:, 1] = np.fmax(self._extremes[:, 1], counts.extremes[:, 1])
        np.maximum(self._last_times_ms, counts.last_times_ms, out=self._last_times_ms)
        for name, sample in counts.samples.items():
            self._samples.setdefault(name, []).append(sample)
        self._unknown.update(counts.unknown)

    def window(self, from_time: datetime, to_time: datetime) -> LiveWindow:
        counts = _stacked(self._counts, (self._groups.shape[1],))
        quality = _stacked(self._quality, (len(self._slices), len(QUALITY_COUNTS)))
        features = {}
        for number, (name, feature) in enumerate(self._reference.features.items()):
            bins, last_ms = self._slices[number], int(self._last_times_ms[number])
            features[name] = LiveFeature(
                counts=counts[:, bins],
                groups=self._groups[:, bins],
                quality=quality[:, number],
                min=float(self._extremes[number, 0]),
                max=float(self._extremes[number, 1]),
                last_time=_EPOCH + timedelta(milliseconds=last_ms) if last_ms else None,
                sample=uniform(self._samples.get(name, ())) if feature.kind is FeatureKind.EMBEDDING else None,
            )
        return LiveWindow(
            from_time=from_time,
            to_time=to_time,
            bucket_times=self._times,
            row_counts=np.array(self._row_counts, np.int64),
            duplicate_count=self._duplicate_count,
            group_row_counts=self._group_row_counts,
            features=features,
            unknown_features=dict(self._unknown),
        )


def _stacked(arrays: Sequence[Counts], shape: tuple[int, ...]) -> Counts:
    return np.stack(arrays) if arrays else np.zeros((0, *shape), np.int64)


def uniform(samples: Sequence[Sample]) -> NDArray[np.float32] | None:
    """Give a uniform sample of all that the samples were taken of.

    A bucket that left vectors out kept those with its least keys: below the least of these buckets' greatest keys
    every bucket has all of its own, and what lies below is uniform over all.
    """
    if not samples:
        return None
    keys = np.concatenate([sample.keys for sample in samples])
    vectors = np.concatenate([sample.vectors for sample in samples])
    limits = [sample.keys[-1] for sample in samples if not sample.whole and sample.keys.size]
    if limits:
        kept = keys <= min(limits)
        keys, vectors = keys[kept], vectors[kept]
    return vectors[np.argsort(keys, kind="stable")[:SAMPLE_SIZE]]


class Recounts:
    """The chore that keeps live profiles up to date."""

    def __init__(
        self,
        store: LiveStore,
        references: References,
        retention: Retention,
        days: Days,
        clock: Clock,
        *,
        retention_days: int,
        open_interval: timedelta,
    ) -> None:
        self._store = store
        self._references = references
        self._retention = retention
        self._days = days
        self._clock = clock
        self._kept = timedelta(days=retention_days)
        self._open_interval = open_interval

    def recount(self, turn: Turn) -> None:
        """Count what is marked, closed buckets first and an open one at most once in its interval."""
        stuck: set[Mark] = set()
        while turn.renew():
            marks = [mark for mark in self._marked() if mark not in stuck]
            if not marks and not self._mark_older():
                return
            for mark in marks:
                if not turn.renew():
                    return
                if mark.start_time > self._clock() - BUCKET:
                    stuck.add(mark)  # an open one stays marked, and is counted once a turn
                try:
                    self._count(mark, turn)
                except (Aborted, DeadlineExceeded) as error:  # its mark, if there is one yet, waits for the next turn
                    _log.warning("bucket not counted", start_time=mark.start_time.isoformat(), reason=error.reason)
                    stuck.add(mark)
                except DomainError:
                    raise  # the database is away: so it is for all
                except Exception:  # noqa: BLE001 - logged, and tried again: what one bucket holds ends no other's counting
                    _log.exception("bucket not counted", model=mark.model, start_time=mark.start_time.isoformat())
                    stuck.add(mark)

    def keep_days(self, turn: Turn) -> None:  # noqa: ARG002 - it is one short step
        """Make the days of live profiles ready that are to come, and drop those past their retention."""
        now = self._clock()
        self._days.ensure((now.date(), (now + timedelta(days=1)).date()))
        for name in self._days.drop_before((now - self._kept).date()):
            _log.info("day dropped", partition=name)

    def _marked(self) -> list[Mark]:
        now = self._clock()
        counted_before = now - self._open_interval
        return self._store.marked(closed=now - BUCKET, counted_before=counted_before, limit=_MARKS_AT_ONCE)

    def _mark_older(self) -> bool:
        now = self._clock()
        first_day = self._retention.first_day(now)
        return self._store.mark_day(first_day, floor(now + FUTURE_TOLERANCE), most_waiting=_MOST_WAITING)

    def _count(self, mark: Mark, turn: Turn) -> None:
        now = self._clock()
        first_day = max(self._retention.first_day(now), (now - self._kept).date())
        with self._store.counting(mark, first_day) as bucket:
            if bucket is None:
                return
            counter = BucketCounter(self._references.get(bucket.profile_id))
            for events in bucket.events():
                counter.add(events)
                if not turn.renew():
                    raise Aborted("the turn is over; the bucket is counted in the next one", reason="TURN_OVER")
            counts = counter.result()
            if counts.row_count:  # events are never deleted one by one: what was counted once stays
                bucket.write(counts, now)
