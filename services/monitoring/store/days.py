"""The daily partitions of events and feedback: made ready, and dropped when their time is over."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.ids import first_id

TABLES = ("inferences", "feedback")
_DAY = timedelta(days=1)
_NAME = re.compile(r"(?:inferences|feedback)_(?P<day>\d{8})")

# Replicas make and drop days one at a time.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.monitoring.days', 0))"

_EXISTING = """
SELECT child.relname AS name
FROM pg_inherits
JOIN pg_class AS child ON child.oid = pg_inherits.inhrelid
WHERE pg_inherits.inhparent = ANY (%s::regclass[])
"""

# CREATE TABLE … PARTITION OF would lock the parent against everyone; ATTACH lets reads and writes go on.
_CREATE = "CREATE TABLE monitoring.{child} (LIKE monitoring.{parent} INCLUDING DEFAULTS INCLUDING STORAGE)"
_ATTACH = "ALTER TABLE monitoring.{parent} ATTACH PARTITION monitoring.{child} FOR VALUES FROM ({first}) TO ({end})"
_DROP = "DROP TABLE monitoring.{child}"

# Dropping locks the parent: whoever reads a long time makes us give up soon, rather than everyone wait behind us.
_HURRY = "SET LOCAL lock_timeout = '1s'"


def partition_name(table: str, day: date) -> str:
    """Name the partition of a day."""
    return f"{table}_{day:%Y%m%d}"


class Days:
    """The days that have their partitions."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._ready: frozenset[date] = frozenset()
        self._lock = threading.Lock()

    def ensure(self, days: Iterable[date]) -> None:
        """Make the partitions of these days where they are missing. Costs nothing for days seen before."""
        wanted = frozenset(days)
        if wanted <= self._ready:
            return
        with self._lock, self._db.transaction() as connection:
            connection.execute(_LOCK)
            existing = _existing(connection)
            for day in sorted(wanted):
                for table in TABLES:
                    if partition_name(table, day) not in existing:
                        _create(connection, table, day)
        self._ready |= wanted

    def forget(self) -> None:
        """Look again which days are there: someone else has dropped one."""
        self._ready = frozenset()

    def drop_before(self, day: date) -> list[str]:
        """Drop the partitions of all days before this one; returns their names.

        Raises:
            Aborted: a long query reads the table just now (LOCK_TIMEOUT); try again later.
        """
        dropped: list[str] = []
        with self._db.transaction() as connection:
            connection.execute(_HURRY)
            connection.execute(_LOCK)
            for name in sorted(_existing(connection)):
                if _day_of(name) < day:
                    connection.execute(sql.SQL(_DROP).format(child=sql.Identifier(name)))
                    dropped.append(name)
        self._ready = frozenset(ready for ready in self._ready if ready >= day)
        return dropped


def _existing(connection: Connection[DictRow]) -> set[str]:
    parents = [f"monitoring.{table}" for table in TABLES]
    return {row["name"] for row in connection.execute(_EXISTING, [parents])}


def _create(connection: Connection[DictRow], table: str, day: date) -> None:
    start = datetime(day.year, day.month, day.day, tzinfo=UTC)
    names = {"parent": sql.Identifier(table), "child": sql.Identifier(partition_name(table, day))}
    connection.execute(sql.SQL(_CREATE).format(**names))
    bounds = {"first": sql.Literal(str(first_id(start))), "end": sql.Literal(str(first_id(start + _DAY)))}
    connection.execute(sql.SQL(_ATTACH).format(**names, **bounds))


def _day_of(name: str) -> date:
    match = _NAME.fullmatch(name)
    return datetime.strptime(match["day"], "%Y%m%d").replace(tzinfo=UTC).date() if match else date.max
