"""Reading what was counted, and counting what is not yet: each answer is of one snapshot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import LiteralString, NamedTuple

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.errors import InvalidArgument
from services.common.postgres import Database
from services.monitoring.models import Window
from services.monitoring.rollups.models import Counts, Granularity
from services.monitoring.rollups.plan import Kept, Plan, Starts, open_since
from services.monitoring.rollups.store import rows
from services.monitoring.rollups.store.counting import Place, count, count_feedback_of_users
from services.monitoring.rollups.store.drops import read_kept

Planner = Callable[[Starts, Kept], Plan]

# Of open buckets there is nothing to know: they are counted in any case.
_MARKED = """
SELECT DISTINCT granularity, start_time
FROM monitoring.rollup_marks
WHERE granularity IN (1, 2, 3) AND start_time >= %(from_time)s AND start_time < %(to_time)s
  AND model = %(model)s AND (%(version)s::text IS NULL OR version = %(version)s)
"""

# Feedback on what is read from events is counted with them.
_FEEDBACK_WAITS = """
SELECT min(start_time) AS start_time
FROM monitoring.feedback_marks
WHERE start_time > %(from_time)s - interval '5 minutes' AND start_time < %(to_time)s
  AND model = %(model)s AND (%(version)s::text IS NULL OR version = %(version)s)
  AND NOT EXISTS (
      SELECT
      FROM unnest(%(begins)s::timestamptz[], %(ends)s::timestamptz[]) AS counted (begin_time, end_time)
      WHERE begin_time < start_time + interval '5 minutes' AND start_time < end_time
  )
"""

# What no rollup holds yet is marked: a bucket itself, or the hour that it is in.
_SEEN: Mapping[Granularity, LiteralString] = {
    Granularity.FIVE_MINUTES: """
SELECT {column} AS name FROM monitoring.rollups_five_minutes
WHERE start_time >= %(from_bucket)s AND start_time < %(to_time)s {condition}
UNION
SELECT {column} FROM monitoring.rollup_marks
WHERE granularity = 1 AND start_time >= %(from_bucket)s AND start_time < %(to_time)s {condition}
ORDER BY name
""",
    Granularity.HOUR: """
SELECT {column} AS name FROM monitoring.rollups_hours
WHERE start_time >= %(from_hour)s AND start_time < %(to_time)s {condition}
UNION
SELECT {column} FROM monitoring.rollup_marks
WHERE granularity = 1 AND start_time >= %(from_bucket)s AND start_time < %(to_time)s {condition}
UNION
SELECT {column} FROM monitoring.rollup_marks
WHERE granularity = 2 AND start_time >= %(from_hour)s AND start_time < %(to_time)s {condition}
ORDER BY name
""",
}
_SHORT = timedelta(days=1)


MAX_ROLLUPS = 50_000
"""Rollups that one answer reads."""


class Wanted(NamedTuple):
    """What is asked for.

    Attributes:
        model: whose.
        version: None: all of the model's.
        window: what a planner may ask for.
        kept: what the retentions keep.
        now: marks of what is still open are not looked at.
        latencies: whether their histograms are read.
    """

    model: str
    version: str | None
    window: Window
    kept: Kept
    now: datetime
    latencies: bool = True


def too_many_points(found: str) -> InvalidArgument:
    """Refuse a question whose answer would be too large."""
    return InvalidArgument.field(
        "from_time",
        f"that makes {found}: take a coarser granularity, a later from_time, or one version",
        reason="TOO_MANY_POINTS",
    )


class MetricsStore:
    """Rollups, and events where no rollup can tell."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def read(self, wanted: Wanted, planner: Planner, take: Callable[[Place, Counts], None]) -> Plan:
        """Make a plan from what is there, and hand over what it says: parts of spans of versions, in no order.

        Args:
            wanted: what is asked for.
            planner: chooses what to read, given the marks and what there is.
            take: is given each part as it is read.

        Raises:
            InvalidArgument: over MAX_ROLLUPS would have to be read (TOO_MANY_POINTS).
        """
        model, version = wanted.model, wanted.version
        with self._db.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            marked = _marked(connection, model, version, wanted.window, open_since(wanted.now))
            plan = planner(marked, read_kept(connection, wanted.kept))
            number = 0
            for granularity, windows in plan.rollups.items():
                reading = rows.read(connection, granularity, model, version, windows, latencies=wanted.latencies)
                with closing(reading) as found:
                    for place, counts in found:
                        number += 1
                        if number > MAX_ROLLUPS:
                            raise too_many_points(f"over {MAX_ROLLUPS} steps of versions to add up")
                        take(place, counts)
            for part in plan.events:
                for place, counts in count(connection, model, version, part, Granularity.FIVE_MINUTES.span).items():
                    take(place, counts)
            plan.feedback_complete_until = _feedback_waits(connection, model, version, plan)
        return plan

    def count(self, model: str, version: str | None, window: Window, step: timedelta) -> dict[Place, Counts]:
        """Count events, by version and steps from the beginning of 1970 on."""
        with self._db.transaction() as connection:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            return count(connection, model, version, window, step)

    def judged_of_users(
        self, model: str, version: str, window: Window, groups: int, few: int
    ) -> Mapping[int, tuple[int, int]]:
        """Count judged rows, and those of them that were right, by groups of users; see `count_feedback_of_users`."""
        with self._db.transaction() as connection:
            found = count_feedback_of_users(connection, model, version, window, groups=groups, few=few)
            return {row["user_group"]: (row["judged_count"], row["correct_count"]) for row in found}

    def versions(self, model: str, window: Window) -> tuple[str, ...]:
        """List the versions of a model that predicted in a window."""
        return self._seen(sql.SQL("version"), sql.SQL("AND model = %(model)s"), window, model)

    def models(self, window: Window) -> tuple[str, ...]:
        """List the models that predicted in a window."""
        return self._seen(sql.SQL("model"), sql.SQL(""), window)

    def _seen(self, column: sql.SQL, condition: sql.SQL, window: Window, model: str = "") -> tuple[str, ...]:
        granularity = Granularity.FIVE_MINUTES if window.to_time - window.from_time <= _SHORT else Granularity.HOUR
        values = {
            "model": model,
            "from_hour": Granularity.HOUR.floor(window.from_time),
            "from_bucket": Granularity.FIVE_MINUTES.floor(window.from_time),
            "to_time": window.to_time,
        }
        statement = sql.SQL(_SEEN[granularity]).format(column=column, condition=condition)
        with self._db.transaction() as connection:
            return tuple(row["name"] for row in connection.execute(statement, values))


def _marked(
    connection: Connection[DictRow], model: str, version: str | None, window: Window, open_from: datetime
) -> Starts:
    values = {
        "model": model,
        "version": version,
        "from_time": Granularity.DAY.floor(window.from_time),
        "to_time": min(window.to_time, open_from),
    }
    marked: dict[Granularity, set[datetime]] = {}
    for row in connection.execute(_MARKED, values):
        marked.setdefault(Granularity(row["granularity"]), set()).add(row["start_time"])
    return {granularity: frozenset(starts) for granularity, starts in marked.items()}


def _feedback_waits(connection: Connection[DictRow], model: str, version: str | None, plan: Plan) -> datetime | None:
    """Give the first of the rollups that were read, of which feedback waits to be counted."""
    window = plan.window
    values = {
        "model": model,
        "version": version,
        "from_time": window.from_time,
        "to_time": window.to_time,
        "begins": [part.from_time for part in plan.events],
        "ends": [part.to_time for part in plan.events],
    }
    row = connection.execute(_FEEDBACK_WAITS, values).fetchone()
    return None if row is None or row["start_time"] is None else max(row["start_time"], window.from_time)
