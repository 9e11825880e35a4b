"""Quality checks as documents with the columns to find them by, and when the next are due."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.ids import first_id
from services.monitoring.models import Window
from services.monitoring.profiles.values import LiveRow
from services.monitoring.quality.models import QualityFilters, QualityStatus

_INSERT = """
INSERT INTO monitoring.quality_checks (check_id, model, version, status, create_time, overview, document)
VALUES (%(check_id)s, %(model)s, %(version)s, %(status)s, %(create_time)s, %(overview)s, %(document)s)
"""

_GET = "SELECT document FROM monitoring.quality_checks WHERE check_id = %(check_id)s"

_LATEST = """
SELECT document
FROM monitoring.quality_checks
WHERE model = %(model)s AND version = %(version)s
ORDER BY check_id DESC
LIMIT 1
"""

_LIST = """
SELECT check_id, overview
FROM monitoring.quality_checks
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
DELETE FROM monitoring.quality_checks
WHERE check_id IN (
    SELECT check_id FROM monitoring.quality_checks WHERE create_time < %(before)s ORDER BY create_time LIMIT %(limit)s
)
"""

# What is due later than a whole interval from now was set by a longer interval, or by a clock that was ahead.
_DUE = """
SELECT due_time > %(now)s AND due_time <= %(latest)s AS waits
FROM monitoring.quality_schedule
WHERE model = %(model)s AND version = %(version)s
"""
_MOVE_ON = """
INSERT INTO monitoring.quality_schedule AS known (model, version, due_time)
VALUES (%(model)s, %(version)s, %(latest)s)
ON CONFLICT (model, version) DO UPDATE SET due_time = excluded.due_time
WHERE known.due_time <= %(now)s OR known.due_time > %(latest)s
RETURNING model
"""
_FORGET = "DELETE FROM monitoring.quality_schedule WHERE due_time < %(before)s"
_LAST_ID = UUID(int=2**128 - 1)

SAMPLE_EVENTS = 2_000
SAMPLE_BYTES = 16 * 1024 * 1024
# What is large is measured before it is read: octet_length fetches nothing that lies beside its row.
_SAMPLE = f"""
WITH found AS (
    SELECT inference_id, row_count, features, octet_length(features) AS size_bytes
    FROM monitoring.inferences
    WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s
      AND model = %(model)s AND version = %(version)s AND features IS NOT NULL
    ORDER BY inference_id DESC
    LIMIT {SAMPLE_EVENTS}
),
measured AS (
    SELECT found.*, sum(size_bytes) OVER (ORDER BY inference_id DESC) - size_bytes AS before_bytes FROM found
)
SELECT inference_id, row_count, features
FROM measured
WHERE before_bytes < {SAMPLE_BYTES}
ORDER BY inference_id
"""  # noqa: S608 - the braces are constants of ours


@dataclass(frozen=True, slots=True)
class StoredCheck:
    """A check as it is kept."""

    check_id: UUID
    model: str
    version: str
    status: QualityStatus
    create_time: datetime
    overview: bytes
    document: bytes


class QualityStore:
    """Checks, and when they are due."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def sample(self, model: str, version: str, window: Window) -> list[LiveRow]:
        """Give the newest events of a window that have features, the oldest first; a few thousand at most."""
        values = {
            "model": model,
            "version": version,
            "first_id": first_id(window.from_time),
            "end_id": first_id(window.to_time),
        }
        with self._db.transaction() as connection:
            return [_live_row(row) for row in connection.execute(_SAMPLE, values)]

    def add(self, check: StoredCheck) -> None:
        """Keep a check that somebody asked for."""
        with self._db.transaction() as connection:
            _insert(connection, check)

    def add_due(self, check: StoredCheck, interval: timedelta) -> bool:
        """Keep a check by schedule, unless another replica was first; then nothing is kept."""
        with self._db.transaction() as connection:
            if not connection.execute(
                _MOVE_ON, _times(check.model, check.version, check.create_time, interval)
            ).rowcount:
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
        return None if row is None else bytes(row["document"])

    def find_latest(self, model: str, version: str) -> bytes | None:
        """Find the document of a version's newest check."""
        with self._db.transaction() as connection:
            row = connection.execute(_LATEST, {"model": model, "version": version}).fetchone()
        return None if row is None else bytes(row["document"])

    def page(self, filters: QualityFilters, *, before: UUID | None, limit: int) -> list[tuple[UUID, bytes]]:
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


def _live_row(row: DictRow) -> LiveRow:
    features = bytes(row["features"])
    return LiveRow(row["inference_id"], "", "", row["row_count"], features, prediction=None, outcomes=None)


def _insert(connection: Connection[DictRow], check: StoredCheck) -> None:
    values = {
        "check_id": check.check_id,
        "model": check.model,
        "version": check.version,
        "status": check.status.value,
        "create_time": check.create_time,
        "overview": check.overview,
        "document": check.document,
    }
    connection.execute(_INSERT, values)


def _times(model: str, version: str, now: datetime, interval: timedelta) -> dict[str, object]:
    return {"model": model, "version": version, "now": now, "latest": now + interval}
