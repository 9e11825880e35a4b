"""The daily partitions of what grows with traffic: made ready, and dropped when their time is over."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.ids import first_id


@dataclass(frozen=True, slots=True)
class DailyTable:
    """A table that is partitioned by day; `bound` gives the smallest value of its key from a time on."""

    name: str
    bound: Callable[[datetime], str]


EVENTS = tuple(DailyTable(name, lambda time: str(first_id(time))) for name in ("inferences", "feedback"))
_DAY = timedelta(days=1)
_NAME = re.compile(r"[a-z_]+_(?P<day>\d{8})")

_PRESENT = """
SELECT now() AS time, (SELECT event_time FROM monitoring.inferences ORDER BY inference_id DESC LIMIT 1) AS newest
"""

# Replicas make and drop days one at a time.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.monitoring.days', 0))"

_EXISTING = """
SELECT parent.relname AS parent, child.relname AS name
FROM pg_inherits
JOIN pg_class AS parent ON parent.oid = pg_inherits.inhparent
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = ANY (%s::regclass[])
"""

# CREATE TABLE … PARTITION OF would lock the parent against everyone; ATTACH lets reads and writes go on.
_CREATE = "CREATE TABLE monitoring.{child} (LIKE monitoring.{parent} INCLUDING DEFAULTS INCLUDING STORAGE)"
_ATTACH = "ALTER TABLE monitoring.{parent} ATTACH PARTITION monitoring.{child} FOR VALUES FROM ({first}) TO ({end})"
_DROP = "DROP TABLE {child}"
_REMEMBER = """
INSERT INTO monitoring.dropped_days (table_name, day) VALUES (%s, %s)
ON CONFLICT ON CONSTRAINT dropped_days_pkey DO NOTHING
"""

# Dropping locks the parent: whoever reads a long time makes us give up soon, rather than everyone wait behind us.
_HURRY = "SET LOCAL lock_timeout = '1s'"


def by_time(name: str) -> DailyTable:
    """Describe a table whose partitions' key is a time."""
    return DailyTable(name, datetime.isoformat)


def partition_name(table: str, day: date) -> str:
    """Name the partition of a day."""
    return f"{table}_{day:%Y%m%d}"


class Days:
    """The days of some tables that have their partitions; those of events where no tables are named."""

    def __init__(self, database: Database, tables: Sequence[DailyTable] = EVENTS) -> None:
        self._db = database
        self._tables = tables
        self._ready: frozenset[date] = frozenset()
        self._lock = threading.Lock()

    def ensure(self, days: Iterable[date]) -> None:
        """Make the partitions of these days where they are missing. Costs nothing for days seen before."""
        wanted = frozenset(days)
        if wanted <= self._ready:
            return
        with self._lock, self._db.transaction() as connection:
            connection.execute(_LOCK)
            existing = {name for _, name in self._existing(connection)}
            for day in sorted(wanted):
                for table in self._tables:
                    if partition_name(table.name, day) not in existing:
                        _create(connection, table, day)
        self._ready |= wanted

    def forget(self) -> None:
        """Look again which days are there: someone else has dropped one."""
        self._ready = frozenset()

    def prepare(self) -> None:
        """Make the partitions of today and tomorrow, by the database's clock."""
        now, _ = self._present()
        self.ensure((now.date(), (now + _DAY).date()))

    def reference_time(self) -> datetime:
        """Give the time that retentions are counted back from: the database's, never later than the newest event's.

        So no clock takes what is within its retention of the newest event; where no events come any more, nothing goes.
        """
        now, newest = self._present()
        return now if newest is None else min(now, newest)

    def oldest(self, kept: timedelta) -> date:
        """Give the oldest day, by `reference_time`, of what is kept for so long; only what lies before it may go."""
        return (self.reference_time() - kept).date()

    def drop_before(self, day: date) -> list[str]:
        """Drop the partitions of all days before this one, remember that they went, and give their names.

        Raises:
            Aborted: a long query reads the table just now (LOCK_TIMEOUT); try again later.
        """
        dropped: list[str] = []
        with self._db.transaction() as connection:
            connection.execute(_HURRY)
            connection.execute(_LOCK)
            for table, name in sorted(self._existing(connection), key=lambda found: found[1]):
                if _day_of(name) < day:
                    connection.execute(sql.SQL(_DROP).format(child=sql.Identifier("monitoring", name)))
                    connection.execute(_REMEMBER, [table, _day_of(name)])
                    dropped.append(name)
        self._ready = frozenset(ready for ready in self._ready if ready >= day)
        return dropped

    def _present(self) -> tuple[datetime, datetime | None]:
        """Give the database's time, and that of the newest event."""
        with self._db.transaction() as connection:
            row = connection.execute(_PRESENT).fetchone()
        if row is None:
            raise AssertionError("a SELECT without FROM has one row")
        newest: datetime | None = row["newest"]
        return row["time"].astimezone(UTC), newest and newest.astimezone(UTC)

    def _existing(self, connection: Connection[DictRow]) -> list[tuple[str, str]]:
        parents = [f"monitoring.{table.name}" for table in self._tables]
        return [(row["parent"], row["name"]) for row in connection.execute(_EXISTING, [parents])]


def _create(connection: Connection[DictRow], table: DailyTable, day: date) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    names = {"parent": sql.Identifier(table.name), "child": sql.Identifier(partition_name(table.name, day))}
    connection.execute(sql.SQL(_CREATE).format(**names))
    bounds = {"first": sql.Literal(table.bound(start)), "end": sql.Literal(table.bound(start + _DAY))}
    connection.execute(sql.SQL(_ATTACH).format(**names, **bounds))


def _day_of(name: str) -> date:
    match = _NAME.fullmatch(name)
    return datetime.strptime(match["day"], "%Y%m%d").replace(tzinfo=UTC).date() if match else date.max
