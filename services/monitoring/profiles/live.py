"""Live traffic in the bins of its reference: counted bucket by bucket as it comes, and summed for any window."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import structlog

from services.common.errors import Aborted, DeadlineExceeded, DomainError
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.models import FUTURE_TOLERANCE, Retention, Window
from services.monitoring.profiles.count import BucketCounter
from services.monitoring.profiles.models import BUCKET, LiveWindow, Reference
from services.monitoring.profiles.references import References
from services.monitoring.profiles.store.live import LiveStore, Mark
from services.monitoring.profiles.sums import sum_up
from services.monitoring.store.days import Days

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MARKS_AT_ONCE = 100
_MOST_WAITING = 576
"""Marks of two days: an old day's buckets are marked for a recount only when fewer wait."""
CATCH_UP_S = 10.0
"""Who asks waits so long at most for buckets to be counted."""
_TRIES = 3


def floor(time: datetime) -> datetime:
    """Give the beginning of the bucket that a time lies in."""
    return time - (time - _EPOCH) % BUCKET


class LiveProfiles:
    """Sums of what was counted; see `LiveWindow`."""

    def __init__(self, store: LiveStore, recounts: Recounts | None = None) -> None:
        """Without `recounts` nothing is counted but by the chore."""
        self._store = store
        self._recounts = recounts

    def catch_up(self, reference: Reference, version: str, window: Window) -> Collection[datetime]:
        """Count what waits in a window, the bucket under way too, for CATCH_UP_S at most; gives what is counted now."""
        if self._recounts is None:
            return ()
        waiting = self._store.uncounted(reference.model, version, window)
        return self._recounts.count_now(reference.model, version, waiting, within_s=CATCH_UP_S)

    def uncounted(
        self, reference: Reference, version: str, window: Window, *, counted: Collection[datetime] = ()
    ) -> Sequence[datetime]:
        """Give the beginnings, ascending, of a window's buckets that wait to be counted; `counted` were just now.

        Their marks may stand still: of the bucket under way until it is over, of another until its rollup is counted.
        """
        waiting = self._store.uncounted(reference.model, version, window)
        return [start_time for start_time in waiting if start_time not in counted]

    def window(
        self,
        reference: Reference,
        version: str,
        from_time: datetime,
        to_time: datetime,
        *,
        counted: Collection[datetime] = (),
    ) -> LiveWindow:
        """Sum the live rows of a version over the whole buckets that meet a window. No raw event is read.

        Args:
            reference: the profile in whose bins they were counted, attached to the version then.
            version: of the reference's model.
            from_time: the bucket that it lies in is the first.
            to_time: the end; a bucket that begins before it is in.
            counted: buckets that `catch_up` has counted.
        """
        window = Window(floor(from_time), floor(to_time + BUCKET - timedelta(microseconds=1)))
        # Before what was counted is read: what is counted in between is said to wait, and never the other way round.
        uncounted = self.uncounted(reference, version, window, counted=counted)
        share = self._store.share(reference.model, version, reference.id, window)
        found = self._store.read(reference.model, version, reference.id, window)
        summed = sum_up(reference, window.from_time, window.to_time, found, share=share)
        return replace(summed, uncounted_buckets=uncounted)


class Recounts:
    """The chore that keeps live profiles up to date."""

    def __init__(
        self,
        store: LiveStore,
        references: References,
        configurations: Configurations,
        retention: Retention,
        days: Days,
        clock: Clock,
        *,
        retention_days: int,
        open_interval: timedelta,
    ) -> None:
        self._store = store
        self._references = references
        self._configurations = configurations
        self._retention = retention
        self._days = days
        self._clock = clock
        self._kept = timedelta(days=retention_days)
        self._open_interval = open_interval

    def recount(self, turn: Turn) -> None:
        """Count what is marked, closed buckets first and an open one at most once in its interval."""
        present = self._days.reference_time()
        stuck: set[Mark] = set()
        while turn.renew():
            marks = self._marked(stuck)
            if not marks and not self._mark_older(present):
                return
            for mark in marks:
                if not turn.renew():
                    return
                if mark.start_time > self._clock() - BUCKET:
                    stuck.add(mark)  # an open one stays marked, and is counted once a turn
                try:
                    self._count(mark, turn.renew, present)
                except (Aborted, DeadlineExceeded) as error:  # its mark, if there is one yet, waits for the next turn
                    _log.warning("bucket not counted", start_time=mark.start_time.isoformat(), reason=error.reason)
                    stuck.add(mark)
                except DomainError:
                    raise  # the database is away: so it is for all
                except Exception:  # noqa: BLE001 - logged, and tried again: what one bucket holds ends no other's counting
                    _log.exception("bucket not counted", model=mark.model, start_time=mark.start_time.isoformat())
                    stuck.add(mark)

    def count_now(
        self, model: str, version: str, buckets: Sequence[datetime], *, within_s: float
    ) -> Collection[datetime]:
        """Count these buckets for whoever waits for them, the newest first; gives those that are counted now.

        The chore may be at one at the same time: of two counts the first to end holds, and the other is made again.
        """
        counted: set[datetime] = set()
        until_s = time.monotonic() + within_s
        present = self._days.reference_time()
        for mark in (Mark(model, version, start_time) for start_time in reversed(buckets)):
            if not self._wanted(model, version):
                break
            for _ in range(_TRIES):
                if time.monotonic() >= until_s:
                    return counted
                try:
                    self._count(mark, lambda: time.monotonic() < until_s, present)
                except (Aborted, DeadlineExceeded) as error:
                    _log.info("bucket not counted", start_time=mark.start_time.isoformat(), reason=error.reason)
                else:
                    counted.add(mark.start_time)
                    break
        return counted

    def _marked(self, stuck: Collection[Mark]) -> list[Mark]:
        now = self._clock()
        counted_before = now - self._open_interval
        return self._store.marked(
            closed=now - BUCKET, counted_before=counted_before, without=stuck, limit=_MARKS_AT_ONCE
        )

    def _mark_older(self, present: datetime) -> bool:
        last_time = floor(self._clock() + FUTURE_TOLERANCE)
        first_day = self._retention.first_day(present)
        return self._store.mark_day(first_day, last_time, most_waiting=_MOST_WAITING, wanted=self._wanted)

    def _wanted(self, model: str, version: str) -> bool:
        return self._configurations.effective(model, version).profiles.enabled

    def _count(self, mark: Mark, goes_on: Callable[[], bool], present: datetime) -> None:
        """Count a bucket, unless what it is made of is past its retention; `present` is what these are counted from."""
        first_day = max(self._retention.first_day(present), (present - self._kept).date())
        with self._store.counting(mark, first_day) as bucket:
            if bucket is None:
                return
            if not self._wanted(mark.model, mark.version):
                bucket.put_off()
                return
            reference = self._references.get(bucket.profile_id)
            counter, payloads = (
                BucketCounter(reference, bucket.columns),
                bucket.payloads(columns=len(reference.features)),
            )
            for events in payloads.slices:
                counter.add(events)
                if not goes_on():
                    raise Aborted("the turn is over; the bucket is counted in the next one", reason="TURN_OVER")
            counts = counter.result(payloads.share)
            if counts.row_count:  # events are never deleted one by one: what was counted once stays
                bucket.write(counts, self._clock())
