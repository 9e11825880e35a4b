"""Checks for drift as documents with the columns to find them by, and when the next are due."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.drift.models import DriftFilters, DriftStatus, Trigger
from services.monitoring.models import Window

_INSERT = """
INSERT INTO monitoring.drift_checks (
    check_id, model, version, profile_id, from_time, to_time, status, trigger, create_time, overview, document
)
VALUES (
    %(check_id)s, %(model)s, %(version)s, %(profile_id)s, %(from_time)s, %(to_time)s, %(status)s, %(trigger)s,
    %(create_time)s, %(overview)s, %(document)s
)
"""

_GET = "SELECT document FROM monitoring.drift_checks WHERE check_id = %(check_id)s"

_LATEST = """
SELECT document
FROM monitoring.drift_checks
WHERE model = %(model)s AND version = %(version)s
ORDER BY check_id DESC
LIMIT 1
"""

_LIST = """
SELECT check_id, overview
FROM monitoring.drift_checks
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
DELETE FROM monitoring.drift_checks
WHERE check_id IN (
    SELECT check_id FROM monitoring.drift_checks WHERE create_time < %(before)s ORDER BY create_time LIMIT %(limit)s
)
"""

# What is due later than a whole interval from now was set by a longer interval, or by a clock that was ahead.
_DUE = """
SELECT due_time > %(now)s AND due_time <= %(latest)s AS waits
FROM monitoring.drift_schedule
WHERE model = %(model)s AND version = %(version)s
"""
_MOVE_ON = """
INSERT INTO monitoring.drift_schedule AS known (model, version, due_time)
VALUES (%(model)s, %(version)s, %(latest)s)
ON CONFLICT (model, version) DO UPDATE SET due_time = excluded.due_time
WHERE known.due_time <= %(now)s OR known.due_time > %(latest)s
RETURNING model
"""
_FORGET = "DELETE FROM monitoring.drift_schedule WHERE due_time < %(before)s"
_LAST_ID = UUID(int=2**128 - 1)


@dataclass(frozen=True, slots=True)
class StoredCheck:
    """A check as it is kept: `overview` and `document` are the contract's message, without results and with them."""

    check_id: UUID
    model: str
    version: str
    profile_id: UUID
    window: Window
    status: DriftStatus
    trigger: Trigger
    create_time: datetime
    overview: bytes
    document: bytes


class DriftStore:
    """Checks, and when they are due."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, check: StoredCheck) -> None:
        """Keep a check that somebody asked for."""
        with self._db.transaction() as connection:
            _insert(connection, check)

    def add_due(self, check: StoredCheck, interval: timedelta) -> bool:
        """Keep a check by schedule, unless another replica was first; then nothing is kept."""
        with self._db.transaction() as connection:
            moved = connection.execute(_MOVE_ON, _times(check.model, check.version, check.create_time, interval))
            if not moved.rowcount:
                return False
            _insert(connection, check)
        return True

    def is_due(self, model: str, version: str, now: datetime, interval: timedelta) -> bool:
        """Say whether a version is to be looked at by schedule."""
        with self._db.transaction() as connection:
            row = connection.execute(_DUE, _times(model, version, now, interval)).fetchone()
        return row is None or not row["waits"]

    def find(self, check_id: UUID) -> bytes | None:
        """Find a check's document."""
        with self._db.transaction() as connection:
            row = connection.execute(_GET, {"check_id": check_id}).fetchone()
        return None if row is None else zlib.decompress(row["document"])

    def find_latest(self, model: str, version: str) -> bytes | None:
        """Find the document of a version's newest check."""
        with self._db.transaction() as connection:
            row = connection.execute(_LATEST, {"model": model, "version": version}).fetchone()
        return None if row is None else zlib.decompress(row["document"])

    def page(self, filters: DriftFilters, *, before: UUID | None, limit: int) -> list[tuple[UUID, bytes]]:
        """List checks, the newest first: their ids and overviews."""
        used = [sql.SQL(text) for name, text in _CONDITIONS.items() if getattr(filters, name)]
        values = {
            "model": filters.model,
            "version": filters.version,
            "status": filters.status.value if filters.status else None,
            "before": before or _LAST_ID,
            "limit": limit,
        }
        with self._db.transaction() as connection:
            rows = connection.execute(sql.SQL(_LIST).format(conditions=sql.SQL(" ").join(used)), values).fetchall()
        return [(row["check_id"], bytes(row["overview"])) for row in rows]

    def drop_before(self, time: datetime, *, limit: int) -> int:
        """Drop checks, and due times of versions that are seen no longer, from before a time; says how many checks."""
        with self._db.transaction() as connection:
            connection.execute(_FORGET, {"before": time})
            return connection.execute(_DROP, {"before": time, "limit": limit}).rowcount


def _insert(connection: Connection[DictRow], check: StoredCheck) -> None:
    values = {
        "check_id": check.check_id,
        "model": check.model,
        "version": check.version,
        "profile_id": check.profile_id,
        "from_time": check.window.from_time,
        "to_time": check.window.to_time,
        "status": check.status.value,
        "trigger": check.trigger.value,
        "create_time": check.create_time,
        "overview": check.overview,
        "document": zlib.compress(check.document),
    }
    connection.execute(_INSERT, values)


def _times(model: str, version: str, now: datetime, interval: timedelta) -> dict[str, object]:
    return {"model": model, "version": version, "now": now, "latest": now + interval}
