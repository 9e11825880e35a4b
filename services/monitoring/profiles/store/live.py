"""Live rows as they were counted, bucket by bucket, and the marks of buckets that are to be counted anew."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from uuid import UUID

import numpy as np
from psycopg import Connection, errors, sql
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.errors import Aborted
from services.common.postgres import Database
from services.monitoring.models import Window
from services.monitoring.profiles.count import BucketCounts
from services.monitoring.profiles.models import BUCKET, GROUPS, QUALITY_COUNTS
from services.monitoring.profiles.packing import (
    pack_counts,
    pack_floats,
    pack_samples,
    unpack_counts,
    unpack_floats,
    unpack_samples,
)
from services.monitoring.profiles.store.payloads import Payloads, on_connection, on_database, payloads
from services.monitoring.store.days import Days, partition_name

# Closed buckets first, the newest before the others; those that are open or were counted just now wait their turn. Of
# open ones the marks of the rollups tell, which count a bucket, and leave a mark here, only when it is over: of those
# versions that are compared with something, since nobody would ever take the others off the list.
_MARKED = """
SELECT start_time, model, version
FROM (
    SELECT start_time, model, version FROM monitoring.profile_marks
    UNION
    SELECT start_time, model, version
    FROM monitoring.rollup_marks
    JOIN monitoring.profile_attachments USING (model, version)
    WHERE granularity = 1 AND start_time > %(closed)s
) AS mark
WHERE (start_time <= %(closed)s OR NOT EXISTS (
    SELECT
    FROM monitoring.live_profiles AS live
    WHERE (live.model, live.version, live.start_time) = (mark.model, mark.version, mark.start_time)
      AND live.count_time > %(counted_before)s
))
AND (start_time, model, version) NOT IN (
    SELECT * FROM unnest(%(times)s::timestamptz[], %(models)s::text[], %(versions)s::text[])
)
ORDER BY start_time > %(closed)s, start_time DESC, model, version
LIMIT %(limit)s
"""
_UNMARK = """
DELETE FROM monitoring.profile_marks
WHERE start_time = %(start_time)s AND model = %(model)s AND version = %(version)s
"""
_MARK_DAY = """
INSERT INTO monitoring.profile_marks (model, version, start_time)
SELECT %(model)s, %(version)s, bucket
FROM generate_series(%(from_time)s::timestamptz, %(to_time)s::timestamptz - interval '5 minutes', '5 minutes') AS bucket
"""
_RECOUNTS = """
SELECT model, version, recount_day
FROM monitoring.profile_attachments
WHERE recount_day IS NOT NULL
ORDER BY recount_day DESC, model, version
FOR UPDATE SKIP LOCKED
"""
# A recount that goes back to the first day there is, does so still.
_PUT_OFF = """
UPDATE monitoring.profile_attachments
SET recount_day = greatest(recount_day, put_off.day),
    recount_first_day = CASE WHEN recount_day IS NULL THEN put_off.day
                             WHEN recount_first_day IS NOT NULL THEN least(recount_first_day, put_off.day) END
FROM (SELECT (%(start_time)s AT TIME ZONE 'UTC')::date) AS put_off (day)
WHERE model = %(model)s AND version = %(version)s
"""
_STEP_BACK = """
UPDATE monitoring.profile_attachments
SET recount_day = CASE WHEN recount_day > greatest(%(first_day)s, recount_first_day) THEN recount_day - 1 END
WHERE model = %(model)s AND version = %(version)s
"""
_WAITING = "SELECT count(*) AS marks FROM (SELECT FROM monitoring.profile_marks LIMIT %(limit)s) AS waiting"

_ATTACHED = """
SELECT profile_id, columns FROM monitoring.profile_attachments WHERE model = %(model)s AND version = %(version)s
"""
_GONE = "SELECT EXISTS (SELECT FROM monitoring.dropped_days WHERE table_name = 'inferences' AND day >= %s) AS gone"
_HOLD = "LOCK TABLE monitoring.{table} IN ACCESS SHARE MODE"
_ONE_SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ"

_WRITE = """
INSERT INTO monitoring.live_profiles (
    model, version, profile_id, start_time, count_time, share, row_count, duplicate_count, counts, groups, extremes,
    samples, unknown
)
VALUES (
    %(model)s, %(version)s, %(profile_id)s, %(start_time)s, %(count_time)s, %(share)s, %(row_count)s,
    %(duplicate_count)s, %(counts)s, %(groups)s, %(extremes)s, %(samples)s, %(unknown)s
)
ON CONFLICT (model, version, profile_id, start_time) DO UPDATE
SET count_time = excluded.count_time, share = excluded.share, row_count = excluded.row_count,
    duplicate_count = excluded.duplicate_count, counts = excluded.counts, groups = excluded.groups,
    extremes = excluded.extremes, samples = excluded.samples, unknown = excluded.unknown
"""
_READ = """
SELECT start_time, share, row_count, duplicate_count, counts, groups, extremes, samples, unknown
FROM monitoring.live_profiles
WHERE model = %(model)s AND version = %(version)s AND profile_id = %(profile_id)s
  AND start_time >= %(from_time)s AND start_time < %(to_time)s
ORDER BY start_time
"""
_READ_SPAN = timedelta(hours=3)
_SHARE = """
SELECT coalesce(min(share), 1.0) AS share
FROM monitoring.live_profiles
WHERE model = %(model)s AND version = %(version)s AND profile_id = %(profile_id)s
  AND start_time >= %(from_time)s AND start_time < %(to_time)s
"""
# Marks of events that are stored, of buckets whose rollup is counted, and the days that an attachment will mark. A mark
# of the rollups that was set aside says nothing: it left one for the profile.
_UNCOUNTED = """
SELECT start_time FROM monitoring.profile_marks
WHERE model = %(model)s AND version = %(version)s AND start_time >= %(from_time)s AND start_time < %(to_time)s
UNION
SELECT start_time FROM monitoring.rollup_marks
WHERE granularity = 1 AND NOT set_aside AND model = %(model)s AND version = %(version)s
  AND start_time >= %(from_time)s AND start_time < %(to_time)s
UNION
SELECT bucket
FROM monitoring.profile_attachments
CROSS JOIN generate_series(
    greatest(%(from_time)s, recount_first_day::timestamp AT TIME ZONE 'UTC'),
    least(%(to_time)s, (recount_day + 1)::timestamp AT TIME ZONE 'UTC') - interval '5 minutes',
    interval '5 minutes'
) AS bucket
WHERE model = %(model)s AND version = %(version)s AND recount_day IS NOT NULL
ORDER BY start_time
"""


@dataclass(frozen=True, slots=True)
class Mark:
    """A bucket to count."""

    model: str
    version: str
    start_time: datetime

    @property
    def window(self) -> Window:
        """Its span of time."""
        return Window(self.start_time, self.start_time + BUCKET)


class LiveStore:
    """Counts of buckets, and marks."""

    def __init__(self, database: Database, days: Days) -> None:
        self._db = database
        self._days = days

    def marked(
        self, *, closed: datetime, counted_before: datetime, limit: int, without: Collection[Mark] = ()
    ) -> list[Mark]:
        """List buckets to count: those that began at `closed` or before, and later ones that were not counted since."""
        left_out = {
            "times": [mark.start_time for mark in without],
            "models": [mark.model for mark in without],
            "versions": [mark.version for mark in without],
        }
        values = {"closed": closed, "counted_before": counted_before, "limit": limit, **left_out}
        with self._db.transaction() as connection:
            return [Mark(**row) for row in connection.execute(_MARKED, values)]

    def mark_day(
        self, first_day: date, last_time: datetime, *, most_waiting: int, wanted: Callable[[str, str], bool]
    ) -> bool:
        """Mark the next day of an attachment's recount, unless enough is marked already; False: nothing was to do.

        Args:
            first_day: the oldest day with events.
            last_time: no bucket that begins later is marked.
            most_waiting: so many marks are enough.
            wanted: says of a model and a version whether it is to be counted now; the days of others wait.
        """
        with self._db.transaction() as connection:
            waiting = connection.execute(_WAITING, {"limit": most_waiting}).fetchone()
            if waiting is not None and waiting["marks"] >= most_waiting:
                return False
            with connection.cursor(name="recounts") as rows:  # any number of them may be switched off
                rows.execute(_RECOUNTS)
                found = next((row for row in rows if wanted(row["model"], row["version"])), None)
            if found is None:
                return False
            names = {"model": found["model"], "version": found["version"]}
            begin = datetime.fromisoformat(f"{max(found['recount_day'], first_day)}T00:00:00+00:00")
            end = min(begin + timedelta(days=1), last_time + BUCKET)
            if found["recount_day"] >= first_day and _is_there(connection, begin.date()):
                connection.execute(_MARK_DAY, {**names, "from_time": begin, "to_time": end})
            connection.execute(_STEP_BACK, {**names, "first_day": first_day})
            return True

    @contextmanager
    def counting(self, mark: Mark, first_day: date) -> Iterator[Bucket | None]:
        """Lend a bucket on one snapshot, its marks gone when the block ends well; None where it is to stay as it is:
        its version has no profile, or its events were dropped.

        Raises:
            Aborted: another replica counts it just now (TRANSACTION_CONFLICT), or the partition that it belongs in was
                dropped just now (PARTITION_MISSING).
        """
        day = mark.start_time.date()
        if first_day <= day:
            self._days.ensure([day])
        try:
            with self._db.transaction() as connection:
                connection.execute(_ONE_SNAPSHOT)
                # The lock comes before the snapshot: what is there then can't be dropped under it.
                there = _held(connection, day) and first_day <= day
                values = {"model": mark.model, "version": mark.version, "start_time": mark.start_time}
                connection.execute(_UNMARK, values)
                gone = connection.execute(_GONE, [day]).fetchone()
                attached = connection.execute(_ATTACHED, values).fetchone()
                whole = there and gone is not None and not gone["gone"]
                yield Bucket(connection, mark, **attached) if whole and attached is not None else None
        except errors.CheckViolation as error:
            self._days.forget()
            message = "The day's partition was dropped just now; count it again."
            raise Aborted(message, reason="PARTITION_MISSING") from error

    def payloads(self, model: str, version: str, window: Window, *, columns: int) -> Payloads:
        """Read the events of a window, each slice on a snapshot of its own."""
        return payloads(on_database(self._db), model, version, window, columns=columns)

    def share(self, model: str, version: str, profile_id: UUID, window: Window) -> float:
        """Give the least share of its events that was read of a bucket of a window."""
        values = {"model": model, "version": version, "profile_id": profile_id, **_bounds(window)}
        with self._db.transaction() as connection:
            found = connection.execute(_SHARE, values).fetchone()
        return 1.0 if found is None else float(found["share"])

    def uncounted(self, model: str, version: str, window: Window) -> list[datetime]:
        """List the buckets of a window that wait to be counted, or counted anew."""
        with self._db.transaction() as connection:
            found = connection.execute(_UNCOUNTED, {"model": model, "version": version, **_bounds(window)})
            return [row["start_time"] for row in found]

    def read(
        self, model: str, version: str, profile_id: UUID, window: Window
    ) -> Iterator[tuple[datetime, BucketCounts]]:
        """Give the counts of the buckets of a window that have rows, some hours' at a time."""
        time = window.from_time
        while time < window.to_time:
            until = min(time + _READ_SPAN, window.to_time)
            names = {"model": model, "version": version, "profile_id": profile_id}
            with self._db.transaction() as connection, connection.cursor(binary=True) as cursor:
                found = cursor.execute(_READ, {**names, "from_time": time, "to_time": until}).fetchall()
            yield from ((row["start_time"], _counts_from(row)) for row in found)
            time = until


class Bucket:
    """The events of a bucket, and where their counts go."""

    def __init__(self, connection: Connection[DictRow], mark: Mark, profile_id: UUID, columns: Sequence[str]) -> None:
        self._connection = connection
        self._mark = mark
        self.profile_id = profile_id
        self.columns = columns

    def payloads(self, *, columns: int) -> Payloads:
        """Give the events with captured features, some at a time."""
        query = on_connection(self._connection)
        return payloads(query, self._mark.model, self._mark.version, self._mark.window, columns=columns)

    def put_off(self) -> None:
        """Have its day counted anew once its version is counted again."""
        mark = self._mark
        values = {"model": mark.model, "version": mark.version, "start_time": mark.start_time}
        self._connection.execute(_PUT_OFF, values)

    def write(self, counts: BucketCounts, now: datetime) -> None:
        """Keep the counts, in place of those before."""
        values = {
            "model": self._mark.model,
            "version": self._mark.version,
            "profile_id": self.profile_id,
            "start_time": self._mark.start_time,
            "count_time": now,
            "share": counts.share,
            "row_count": counts.row_count,
            "duplicate_count": counts.duplicate_count,
            "counts": pack_counts(np.concatenate((counts.counts, counts.quality.ravel()))),
            "groups": pack_counts(np.column_stack((counts.group_row_counts, counts.groups))),
            "extremes": pack_floats(np.column_stack((counts.extremes, counts.last_times_ms.astype(np.float64)))),
            "samples": pack_samples(counts.samples),
            "unknown": Jsonb(dict(counts.unknown)),
        }
        self._connection.execute(_WRITE, values)


def _counts_from(row: DictRow) -> BucketCounts:
    groups = unpack_counts(row["groups"]).reshape(GROUPS, -1)
    bins = groups.shape[1] - 1
    counts = unpack_counts(row["counts"])
    extremes = unpack_floats(row["extremes"]).reshape(-1, 3)
    return BucketCounts(
        share=row["share"],
        row_count=row["row_count"],
        duplicate_count=row["duplicate_count"],
        group_row_counts=groups[:, 0],
        counts=counts[:bins],
        groups=groups[:, 1:],
        quality=counts[bins:].reshape(-1, len(QUALITY_COUNTS)),
        extremes=extremes[:, :2],
        last_times_ms=extremes[:, 2].astype(np.int64),
        samples=unpack_samples(row["samples"]),
        unknown=row["unknown"],
    )


def _bounds(window: Window) -> dict[str, datetime]:
    return {"from_time": window.from_time, "to_time": window.to_time}


def _is_there(connection: Connection[DictRow], day: date) -> bool:
    table = f"monitoring.{partition_name('inferences', day)}"
    found = connection.execute("SELECT to_regclass(%s) IS NOT NULL AS there", [table]).fetchone()
    return found is not None and bool(found["there"])


def _held(connection: Connection[DictRow], day: date) -> bool:
    """Keep a day's events from being dropped until this transaction ends; False where they are gone."""
    table = sql.Identifier(partition_name("inferences", day))
    try:
        with connection.transaction():
            connection.execute(sql.SQL(_HOLD).format(table=table))
    except errors.UndefinedTable:
        return False
    return True
