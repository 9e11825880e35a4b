"""The chore of the rollups: what is marked is counted anew, buckets first, then hours of them, then days of those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

import structlog

from services.common.errors import Aborted, DeadlineExceeded
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.models import Retention
from services.monitoring.rollups.metrics import kept_of
from services.monitoring.rollups.models import Granularity, Mark
from services.monitoring.rollups.plan import SETTLE, Kept
from services.monitoring.rollups.store.recounts import RecountStore

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
MARKS_A_TURN = 1_000
"""Spans of a granularity that one turn recounts; where there are more, the next turn follows at once."""
TRIES = 3
LAG = timedelta(minutes=1)
"""Hours and days are counted so long after their interval begins: the last bucket has been counted by then."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Recounts:
    """Counts anew what is marked. Safe to run twice and at once: each span is a transaction that only one wins.

    `again` has another turn begin when this one is over.
    """

    def __init__(
        self,
        store: RecountStore,
        configurations: Configurations,
        retention: Retention,
        clock: Clock,
        again: Callable[[], None],
    ) -> None:
        self._store = store
        self._configurations = configurations
        self._retention = retention
        self._clock = clock
        self._again = again
        self._done: dict[Granularity, datetime] = {}

    def work(self, turn: Turn) -> None:
        """Take a turn: buckets always, hours and days when their interval has come. While rollups are switched off,
        marks are set aside instead.
        """
        rollups = self._configurations.effective().rollups
        now = self._clock()
        kept = kept_of(self._configurations, self._retention, self._store.reference_time())
        while turn.renew() and self._store.adopt_early_feedback(limit=MARKS_A_TURN):
            pass
        if not rollups.enabled:
            while turn.renew() and self._store.set_aside(ended_by=now - SETTLE, kept=kept, limit=MARKS_A_TURN):
                pass
            return
        self._recount(turn, Granularity.FIVE_MINUTES, kept, now)
        self._recount_feedback(turn, kept, now)
        for granularity, interval in (
            (Granularity.HOUR, rollups.hourly_interval),
            (Granularity.DAY, rollups.daily_interval),
        ):
            since = _EPOCH + (now - LAG - _EPOCH) // interval * interval
            if self._done.get(granularity) != since and self._recount(turn, granularity, kept, now):
                self._done[granularity] = since

    def _recount(self, turn: Turn, granularity: Granularity, kept: Kept, now: datetime) -> bool:
        """Count the marked spans that are over; False where some are left for the next turn."""
        marks = self._store.marked(granularity, ended_by=now - SETTLE, limit=MARKS_A_TURN)
        return self._count_all(turn, marks, kept, self._store.recount)

    def _recount_feedback(self, turn: Turn, kept: Kept, now: datetime) -> None:
        """Count the feedback of buckets that got nothing else; it goes into what they and longer spans hold already."""
        marks = self._store.feedback_marked(ended_by=now - SETTLE, limit=MARKS_A_TURN)
        self._count_all(turn, marks, kept, self._store.recount_feedback)

    def _count_all(self, turn: Turn, marks: Sequence[Mark], kept: Kept, recount: Callable[[Mark, Kept], None]) -> bool:
        for mark in marks:
            if not turn.renew():
                return False
            _count(mark, kept, recount)
        if len(marks) == MARKS_A_TURN:
            self._again()
        return len(marks) < MARKS_A_TURN


def _count(mark: Mark, kept: Kept, recount: Callable[[Mark, Kept], None]) -> None:
    """Count one span; where another replica is at it or the database is too slow, its marks wait for a turn."""
    for _ in range(TRIES):
        try:
            recount(mark, kept)
        except Aborted:
            continue
        except DeadlineExceeded as error:
            _log.warning("span not counted, trying again", reason=error.reason, **_named(mark))
        return
    _log.warning("span not counted, trying again", reason="TRANSACTION_CONFLICT", **_named(mark))


def _named(mark: Mark) -> dict[str, str]:
    return {
        "model": mark.model,
        "version": mark.version,
        "granularity": mark.granularity.name,
        "start_time": mark.start_time.isoformat(),
    }
