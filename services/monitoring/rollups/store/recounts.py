"""Counting marked spans anew. Each is one transaction on one snapshot: what it counts, it counts whole."""

from __future__ import annotations

from datetime import date, datetime, timedelta

from psycopg import Connection, errors, sql
from psycopg.rows import DictRow

from services.common.errors import Aborted
from services.common.postgres import Database
from services.monitoring.models import Window
from services.monitoring.rollups.models import FINEST_FIRST, Counts, Granularity, Mark
from services.monitoring.rollups.plan import Kept
from services.monitoring.rollups.store import rows
from services.monitoring.rollups.store.aside import forget, set_aside
from services.monitoring.rollups.store.counting import count
from services.monitoring.rollups.store.drops import read_kept
from services.monitoring.rollups.store.feedback import recount_feedback
from services.monitoring.store.days import Days, partition_name

_BUCKET = Granularity.FIVE_MINUTES
_CHUNK = timedelta(hours=1)
"""Events are counted so much at a time: the longest span there is takes no single long statement."""

# One statement, one snapshot: an event that it does not see is stored after the feedback, and marks its own bucket.
_ADOPT = """
WITH early AS (
    DELETE FROM monitoring.early_feedback
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM monitoring.early_feedback LIMIT %(limit)s))
    RETURNING inference_id
),
marked AS (
    INSERT INTO monitoring.feedback_marks (start_time, model, version)
    SELECT DISTINCT date_bin('5 minutes', event_time, '1970-01-01 00:00:00+00'), model, version
    FROM early
    JOIN monitoring.inferences USING (inference_id)
)
SELECT count(*) AS taken FROM early
"""

_MARKED = """
SELECT DISTINCT start_time, model, version
FROM monitoring.rollup_marks
WHERE granularity = %(granularity)s AND start_time <= %(latest)s
ORDER BY start_time, model, version
LIMIT %(limit)s
"""
_UNMARK = """
DELETE FROM monitoring.rollup_marks
WHERE granularity = %(granularity)s AND start_time = %(start_time)s AND model = %(model)s AND version = %(version)s
"""
_FEEDBACK_MARKED = """
SELECT DISTINCT start_time, model, version
FROM monitoring.feedback_marks
WHERE start_time <= %(latest)s
ORDER BY start_time, model, version
LIMIT %(limit)s
"""
_UNMARK_FEEDBACK = """
DELETE FROM monitoring.feedback_marks
WHERE start_time >= %(start_time)s AND start_time < %(end_time)s AND model = %(model)s AND version = %(version)s
"""
_MARK = """
INSERT INTO monitoring.rollup_marks (granularity, start_time, model, version)
VALUES (%(granularity)s, %(start_time)s, %(model)s, %(version)s)
"""
_MARK_PROFILE = """
INSERT INTO monitoring.profile_marks (model, version, start_time)
VALUES (%(model)s, %(version)s, %(start_time)s)
"""

_ONE_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"
# In the order in which they are dropped: so nobody waits in a circle.
_HOLD = "LOCK TABLE {tables} IN ACCESS SHARE MODE"


class RecountStore:
    """Marks, and the rollups that come of them."""

    def __init__(self, database: Database, rollup_days: Days) -> None:
        self._db = database
        self._days = rollup_days

    def reference_time(self) -> datetime:
        """Give the time that retentions are counted back from; see `Days`."""
        return self._days.reference_time()

    def adopt_early_feedback(self, *, limit: int) -> bool:
        """Mark the buckets of feedback whose event was not to be seen when it was stored; False where none is left."""
        with self._db.transaction() as connection:
            row = connection.execute(_ADOPT, {"limit": limit}).fetchone()
        return row is not None and row["taken"] == limit

    def set_aside(self, *, ended_by: datetime, kept: Kept, limit: int) -> bool:
        """Do what is to be done while nothing is counted: live profiles get their marks, and of all others one a bucket
        is kept for later, for as long as its events are; False where no more is to do.
        """
        with self._db.transaction() as connection:
            forget(connection, kept.events)
            return set_aside(connection, latest=ended_by - _BUCKET.span, limit=limit) == limit

    def marked(self, granularity: Granularity, *, ended_by: datetime, limit: int) -> list[Mark]:
        """List marked spans that were over by a time, the oldest first."""
        values = {"granularity": granularity.value, "latest": ended_by - granularity.span, "limit": limit}
        with self._db.transaction() as connection:
            found = connection.execute(_MARKED, values).fetchall()
        return [Mark(granularity, **row) for row in found]

    def feedback_marked(self, *, ended_by: datetime, limit: int) -> list[Mark]:
        """List buckets in which nothing but feedback came, and that were over by a time, the oldest first."""
        with self._db.transaction() as connection:
            values = {"latest": ended_by - _BUCKET.span, "limit": limit}
            return [Mark(_BUCKET, **row) for row in connection.execute(_FEEDBACK_MARKED, values)]

    def recount_feedback(self, mark: Mark, kept: Kept) -> None:
        """Count the feedback of a bucket anew, and that of the longer spans that hold it, and nothing else of them.

        Where a longer span is the finest that is kept, it is counted once for all of its buckets that are marked.

        Raises:
            Aborted: another replica counts it just now (TRANSACTION_CONFLICT).
        """
        with self._db.transaction() as connection:
            connection.execute(_ONE_SNAPSHOT)
            events_there = _hold(connection, mark.start_time.date(), "feedback", "inferences")
            kept = read_kept(connection, kept)
            finest = kept.finest(mark.start_time)
            if not _unmark_feedback(connection, mark, finest or _BUCKET):
                return
            if finest is not None and events_there and kept.events <= mark.start_time:
                recount_feedback(connection, finest, mark.model, mark.version, mark.start_time)

    def recount(self, mark: Mark, kept: Kept) -> None:
        """Count a span anew, and have the next longer one counted too; a span whose data is gone stays as it is.

        Args:
            mark: the span; its marks of before this call are done with.
            kept: what the retentions keep; what was dropped under others is looked up.

        Raises:
            Aborted: another replica counts it just now (TRANSACTION_CONFLICT), or the partition that it belongs in was
                dropped just now (PARTITION_MISSING): it is made again by the next try.
        """
        if mark.granularity is _BUCKET and kept.rollups[_BUCKET] <= mark.start_time:
            self._days.ensure([mark.start_time.date()])
        try:
            with self._db.transaction() as connection:
                connection.execute(_ONE_SNAPSHOT)
                _recount(connection, mark, kept)
        except errors.CheckViolation as error:
            self._days.forget()
            message = "The day's partition was dropped just now; count it again."
            raise Aborted(message, reason="PARTITION_MISSING") from error


def _recount(connection: Connection[DictRow], mark: Mark, kept: Kept) -> None:
    day = mark.start_time.date()
    # Locks come before the snapshot: what is there then can't be dropped under it.
    finer_there = mark.granularity is Granularity.HOUR and _hold(connection, day, rows.TABLES[_BUCKET])
    events_there = _hold(connection, day, "feedback", "inferences")
    values = {"start_time": mark.start_time, "model": mark.model, "version": mark.version}
    if not connection.execute(_UNMARK, {**values, "granularity": mark.granularity.value}).rowcount:
        return  # another replica did it
    if mark.granularity is _BUCKET:
        _unmark_feedback(connection, mark, _BUCKET)
    kept = read_kept(connection, kept)
    if mark.granularity is _BUCKET and events_there and kept.events <= mark.start_time:
        connection.execute(_MARK_PROFILE, values)
    if kept.rollups[mark.granularity] <= mark.start_time:
        finer = _finer(mark.granularity)
        if finer is not None and kept.rollups[finer] <= mark.start_time and (finer is not _BUCKET or finer_there):
            counts = _sum(connection, mark, finer)
        elif events_there and kept.events <= mark.start_time:
            counts = _count_events(connection, mark)
        else:
            return
        rows.write(connection, mark, counts)
    coarser = _coarser(mark.granularity)
    if coarser is not None:
        longer = {**values, "granularity": coarser.value, "start_time": coarser.floor(mark.start_time)}
        connection.execute(_MARK, longer)


def _unmark_feedback(connection: Connection[DictRow], mark: Mark, granularity: Granularity) -> bool:
    """Take the marks off the span that holds a mark; False where there are none."""
    start = granularity.floor(mark.start_time)
    span = {"start_time": start, "end_time": start + granularity.span}
    values = {**span, "model": mark.model, "version": mark.version}
    return connection.execute(_UNMARK_FEEDBACK, values).rowcount > 0


def _hold(connection: Connection[DictRow], day: date, *tables: str) -> bool:
    """Keep a day's partitions from being dropped until this transaction ends; False where they are gone."""
    names = [sql.Identifier("monitoring", partition_name(table, day)) for table in tables]
    try:
        with connection.transaction():
            connection.execute(sql.SQL(_HOLD).format(tables=sql.SQL(", ").join(names)))
    except errors.UndefinedTable:
        return False
    return True


def _sum(connection: Connection[DictRow], mark: Mark, finer: Granularity) -> Counts:
    window = Window(mark.start_time, mark.start_time + mark.granularity.span)
    found = rows.read(connection, finer, mark.model, mark.version, [window])
    return Counts.merged(counts for _, counts in found)


def _count_events(connection: Connection[DictRow], mark: Mark) -> Counts:
    parts: list[Counts] = []
    time, end = mark.start_time, mark.start_time + mark.granularity.span
    while time < end:
        until = min(time + _CHUNK, end)
        parts += count(connection, mark.model, mark.version, Window(time, until), mark.granularity.span).values()
        time = until
    return Counts.merged(parts)


def _finer(granularity: Granularity) -> Granularity | None:
    place = FINEST_FIRST.index(granularity)
    return FINEST_FIRST[place - 1] if place else None


def _coarser(granularity: Granularity) -> Granularity | None:
    return next((one for one in FINEST_FIRST if one.value > granularity.value), None)
