"""Checks as documents with the columns to find them by, and when the next of each version is due."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, LiteralString
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.store.durability import make_durable

_INSERT = """
INSERT INTO {checks} (check_id, model, version, profile_id, status, trigger, create_time, overview, document)
VALUES (
    %(check_id)s, %(model)s, %(version)s, %(profile_id)s, %(status)s, %(trigger)s, %(create_time)s, %(overview)s,
    %(document)s
)
"""

_GET = "SELECT check_id, document FROM {checks} WHERE check_id = ANY(%(ids)s)"

_LIST = """
SELECT check_id, overview
FROM {checks}
WHERE check_id < %(before)s {conditions}
ORDER BY check_id DESC
LIMIT %(limit)s
"""

_CONDITIONS: Mapping[str, LiteralString] = {
    "model": "AND model = %(model)s",
    "version": "AND version = %(version)s",
    "status": "AND status = %(status)s",
}

_DROP = """
DELETE FROM {checks}
WHERE check_id IN (
    SELECT check_id FROM {checks} WHERE create_time < now() - %(age)s ORDER BY create_time LIMIT %(limit)s
)
"""

# The times are the database's: clocks of replicas differ. What is due later than a whole interval from now was set by a
# longer interval.
_DUE = """
SELECT model, version
FROM unnest(%(models)s::text[], %(versions)s::text[], %(intervals)s::interval[]) AS asked (model, version, span)
LEFT JOIN {schedule} AS known USING (model, version)
WHERE known.due_time IS NULL OR known.due_time <= now() OR known.due_time > now() + span
ORDER BY model, version
"""
# now() is when a transaction began: of two that meet here the one that waits began before the other moved the time on.
_MOVE_ON = """
INSERT INTO {schedule} AS known (model, version, due_time, check_id)
VALUES (%(model)s, %(version)s, clock_timestamp() + %(interval)s, %(check_id)s)
ON CONFLICT (model, version) DO UPDATE SET due_time = excluded.due_time, check_id = excluded.check_id, wait_time = NULL
WHERE known.due_time <= clock_timestamp() OR known.due_time > clock_timestamp() + %(interval)s
RETURNING model
"""
# Ids sort by when the checks began: of two at once the one that saw more is the last.
_MOVE_ON_NOW = """
INSERT INTO {schedule} AS known (model, version, due_time, check_id)
VALUES (%(model)s, %(version)s, clock_timestamp() + %(interval)s, %(check_id)s)
ON CONFLICT (model, version) DO UPDATE SET due_time = excluded.due_time, check_id = excluded.check_id, wait_time = NULL
WHERE known.check_id < excluded.check_id
"""
_PUT_OFF = """
INSERT INTO {schedule} (model, version, due_time, check_id)
VALUES (%(model)s, %(version)s, clock_timestamp() + %(interval)s, %(none)s)
ON CONFLICT (model, version) DO UPDATE SET due_time = excluded.due_time, wait_time = NULL
"""
_WAIT = """
INSERT INTO {schedule} AS known (model, version, due_time, check_id, wait_time)
VALUES (%(model)s, %(version)s, now(), %(none)s, now())
ON CONFLICT (model, version) DO UPDATE SET wait_time = coalesce(known.wait_time, excluded.wait_time)
RETURNING now() - wait_time AS waited
"""
_LATEST = """
SELECT model, version, check_id
FROM {schedule} JOIN unnest(%(models)s::text[], %(versions)s::text[]) AS asked (model, version) USING (model, version)
WHERE check_id <> %(none)s
"""
_FORGET = "DELETE FROM {schedule} WHERE due_time < now() - %(age)s"
_LAST_ID = UUID(int=2**128 - 1)
_NO_ID = UUID(int=0)

Transaction = Connection[DictRow]
Version = tuple[str, str]
"""A model, and one of its versions."""


@dataclass(frozen=True, slots=True)
class StoredCheck:
    """A check as it is kept: `overview` and `document` are the contract's message, without results and with them."""

    check_id: UUID
    model: str
    version: str
    profile_id: UUID | None
    status: int
    trigger: int
    create_time: datetime
    overview: bytes
    document: bytes


class CheckStore:
    """The checks of one part, and when they are due."""

    def __init__(self, database: Database, part: Literal["drift", "quality"]) -> None:
        self._db = database
        self._tables = {
            "checks": sql.Identifier("monitoring", f"{part}_checks"),
            "schedule": sql.Identifier("monitoring", f"{part}_schedule"),
        }

    def add(self, check: StoredCheck) -> None:
        """Keep a check that somebody asked for."""
        with self._db.transaction() as connection:
            self._insert(connection, check)

    def add_due(
        self,
        check: StoredCheck,
        interval: timedelta,
        also: Callable[[Transaction], None] | None = None,
        *,
        before_time: bool = False,
    ) -> bool:
        """Keep a check by schedule, unless another replica was first; says whether it is the last one now.

        One made `before_time` is kept in any case, and is the last unless a newer one came first. `also` writes, in the
        same transaction, what is not to be without the check.
        """
        due = {"model": check.model, "version": check.version, "interval": interval, "check_id": check.check_id}
        with self._db.transaction() as connection:
            is_last = bool(connection.execute(self._sql(_MOVE_ON_NOW if before_time else _MOVE_ON), due).rowcount)
            if is_last or before_time:
                self._insert(connection, check)
            if is_last and also is not None:
                also(connection)
        return is_last

    def due(self, intervals: Mapping[Version, timedelta]) -> list[Version]:
        """Say which of these versions are to be looked at by schedule, each at its interval."""
        values = {
            "models": [model for model, _ in intervals],
            "versions": [version for _, version in intervals],
            "intervals": list(intervals.values()),
        }
        with self._db.transaction() as connection:
            return [(row["model"], row["version"]) for row in connection.execute(self._sql(_DUE), values)]

    def wait(self, model: str, version: str) -> timedelta:
        """Note that a check that is due waits, and say for how long it has."""
        with self._db.transaction() as connection:
            values = {"model": model, "version": version, "none": _NO_ID}
            waited: timedelta = connection.execute(self._sql(_WAIT), values).fetchall()[0]["waited"]
        return waited

    def put_off(self, model: str, version: str, interval: timedelta) -> None:
        """Have the next check come an interval later, without one now; what was the last stays it."""
        with self._db.transaction() as connection:
            values = {"model": model, "version": version, "interval": interval, "none": _NO_ID}
            connection.execute(self._sql(_PUT_OFF), values)

    def documents(self, ids: Collection[UUID]) -> dict[UUID, bytes]:
        """Find the documents of checks."""
        with self._db.transaction() as connection:
            rows = connection.execute(self._sql(_GET), {"ids": list(ids)})
            return {row["check_id"]: zlib.decompress(row["document"]) for row in rows}

    def latest(self, versions: Iterable[Version]) -> dict[Version, UUID]:
        """Find the last check by schedule of each of these versions, however many they are."""
        asked = list(versions)
        values = {
            "models": [model for model, _ in asked],
            "versions": [version for _, version in asked],
            "none": _NO_ID,
        }
        with self._db.transaction() as connection:
            rows = connection.execute(self._sql(_LATEST), values)
            return {(row["model"], row["version"]): row["check_id"] for row in rows}

    def page(
        self, model: str, version: str, status: int | None, *, before: UUID | None, limit: int
    ) -> list[tuple[UUID, bytes]]:
        """List checks, the newest first: their ids and overviews. Empty and None mean any."""
        values = {"model": model, "version": version, "status": status, "before": before or _LAST_ID, "limit": limit}
        conditions = sql.SQL(" ").join(sql.SQL(text) for name, text in _CONDITIONS.items() if values[name])
        with self._db.transaction() as connection:
            rows = connection.execute(self._sql(_LIST, conditions=conditions), values).fetchall()
        return [(row["check_id"], bytes(row["overview"])) for row in rows]

    def drop_older(self, age: timedelta, *, limit: int) -> int:
        """Drop checks of that age, and due times of versions that are seen no longer; says how many checks."""
        with self._db.transaction() as connection:
            connection.execute(self._sql(_FORGET), {"age": age})
            return connection.execute(self._sql(_DROP), {"age": age, "limit": limit}).rowcount

    def _insert(self, connection: Transaction, check: StoredCheck) -> None:
        values = {
            "check_id": check.check_id,
            "model": check.model,
            "version": check.version,
            "profile_id": check.profile_id,
            "status": check.status,
            "trigger": check.trigger,
            "create_time": check.create_time,
            "overview": check.overview,
            "document": zlib.compress(check.document),
        }
        make_durable(connection)
        connection.execute(self._sql(_INSERT), values)

    def _sql(self, text: LiteralString, **more: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._tables, **more)
