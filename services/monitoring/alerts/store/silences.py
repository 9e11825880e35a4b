"""The table of silences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from services.monitoring.alerts.models import Severity, Silence

_SELECT = """
SELECT silence_id AS id, model, version, rule_name, severity, begin_time, end_time, note, created_by,
    without_version
FROM monitoring.alert_silences
"""
_FIND = f"{_SELECT} WHERE silence_id = %(silence_id)s"
_LOCK = f"{_FIND} FOR UPDATE"
_ACTIVE = f"{_SELECT} WHERE begin_time <= %(now)s AND end_time > %(now)s"
_PAGE = f"""
{_SELECT}
WHERE (%(before)s::uuid IS NULL OR silence_id < %(before)s)
  AND (%(ended_since)s::timestamptz IS NULL OR end_time > %(ended_since)s)
ORDER BY silence_id DESC LIMIT %(limit)s
"""
_COUNT = "SELECT count(*) AS count FROM monitoring.alert_silences WHERE end_time > %(now)s"
_LOCK_COUNT = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.monitoring.alert_silences', 0))"
_INSERT = """
INSERT INTO monitoring.alert_silences (
    silence_id, model, version, rule_name, severity, begin_time, end_time, note, created_by,
    without_version
)
VALUES (
    %(id)s, %(model)s, %(version)s, %(rule_name)s, %(severity)s, %(begin_time)s, %(end_time)s, %(note)s,
    %(created_by)s, %(without_version)s
)
"""
_MOVE = """
UPDATE monitoring.alert_silences SET begin_time = %(begin_time)s, end_time = %(end_time)s WHERE silence_id = %(id)s
"""
_EXPIRE = "DELETE FROM monitoring.alert_silences WHERE end_time < %(before)s"


class SilenceTable:
    """Silences, inside one transaction."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def find(self, silence_id: UUID) -> Silence | None:
        """Find a silence."""
        return self._find(_FIND, silence_id)

    def lock(self, silence_id: UUID) -> Silence | None:
        """Find a silence, and keep others from changing it until the commit."""
        return self._find(_LOCK, silence_id)

    def active(self, now: datetime) -> list[Silence]:
        """Give those that hold now."""
        return [_silence(row) for row in self._connection.execute(_ACTIVE, {"now": now})]

    def page(self, *, ended_since: datetime | None, before: UUID | None, limit: int) -> list[Silence]:
        """List the newest, those before an id where one is given; those that ended by `ended_since` are left out."""
        values = {"ended_since": ended_since, "before": before, "limit": limit}
        return [_silence(row) for row in self._connection.execute(_PAGE, values)]

    def count(self, now: datetime) -> int:
        """Count those that are not over, and keep others from adding some until the commit."""
        self._connection.execute(_LOCK_COUNT)
        row = self._connection.execute(_COUNT, {"now": now}).fetchone()
        return int(row["count"]) if row else 0

    def insert(self, silence: Silence) -> None:
        """Add a silence."""
        self._connection.execute(_INSERT, _values(silence))

    def move(self, silence: Silence) -> None:
        """Write another beginning and end."""
        self._connection.execute(_MOVE, _values(silence))

    def expire(self, before: datetime) -> None:
        """Delete those that ended before a time."""
        self._connection.execute(_EXPIRE, {"before": before})

    def _find(self, statement: str, silence_id: UUID) -> Silence | None:
        row = self._connection.execute(statement, {"silence_id": silence_id}).fetchone()
        return None if row is None else _silence(row)


def _values(silence: Silence) -> dict[str, Any]:
    return {**asdict(silence), "severity": silence.severity.name if silence.severity else None}


def _silence(row: Mapping[str, Any]) -> Silence:
    return Silence(**{**row, "severity": Severity[row["severity"]] if row["severity"] else None})
