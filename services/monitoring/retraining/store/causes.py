"""The queue of what may raise requests."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.postgres import Database
from services.monitoring.retraining.models import Cause, Reason
from services.monitoring.store.durability import make_durable

Transaction = Connection[DictRow]
"""A connection inside a transaction of somebody else's."""

MAX_STANDING = 100
"""Of one model: so many are weighed again at once, the oldest first."""

# An alert that fires anew, though it is still in the queue, is weighed anew.
_ADD = """
INSERT INTO monitoring.retraining_causes (model, version, reason, details, alert_id, check_id, raises, end_time)
VALUES (%(model)s, %(version)s, %(reason)s, %(details)s, %(alert_id)s, %(check_id)s, %(raises)s, %(end_time)s)
ON CONFLICT ON CONSTRAINT retraining_causes_alert DO UPDATE
SET reason = excluded.reason, details = excluded.details, check_id = excluded.check_id, raises = excluded.raises,
    weighed = false
"""

_COLUMNS = "cause_number, model, version, reason, details, alert_id, check_id, raises, end_time"
_NEW = f"""
SELECT {_COLUMNS} FROM monitoring.retraining_causes WHERE NOT weighed ORDER BY cause_number LIMIT %(limit)s
"""  # noqa: S608 - a constant of ours

_STANDING = f"""
SELECT {_COLUMNS}
FROM monitoring.retraining_causes
WHERE model = %(model)s AND weighed
ORDER BY cause_number
LIMIT {MAX_STANDING}
"""  # noqa: S608 - as above

_WEIGHED = "UPDATE monitoring.retraining_causes SET weighed = true WHERE cause_number = %(number)s"

# A version's schedule names its last check by schedule.
_DROP_ENDED = """
DELETE FROM monitoring.retraining_causes AS cause
WHERE weighed AND CASE
    WHEN alert_id IS NOT NULL THEN NOT EXISTS (
        SELECT FROM monitoring.alerts AS alert WHERE alert.alert_id = cause.alert_id AND alert.state = 'FIRING'
    )
    ELSE end_time IS NULL OR end_time <= %(now)s OR NOT EXISTS (
        SELECT
        FROM monitoring.drift_schedule AS last
        WHERE last.model = cause.model AND last.version = cause.version AND last.check_id = cause.check_id
    )
END
"""


class CauseStore:
    """What checks and alerts have found, the oldest first."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def add(self, cause: Cause, connection: Transaction | None = None) -> None:
        """Put a cause into the queue: within the transaction that is given, or one of its own."""
        values = {
            "model": cause.model,
            "version": cause.version,
            "reason": cause.reason.name,
            "details": Jsonb(dict(cause.details)),
            "alert_id": cause.alert_id,
            "check_id": cause.check_id,
            "raises": cause.raises,
            "end_time": cause.end_time,
        }
        if connection is not None:
            connection.execute(_ADD, values)
            return
        with self._db.transaction() as own:
            make_durable(own)
            own.execute(_ADD, values)

    def new(self, *, limit: int) -> list[Cause]:
        """Give the oldest of those that were not weighed yet."""
        with self._db.transaction() as connection:
            return [_cause(row) for row in connection.execute(_NEW, {"limit": limit})]

    def standing(self, model: str) -> list[Cause]:
        """Give a model's that were weighed before, and still stand."""
        with self._db.transaction() as connection:
            return [_cause(row) for row in connection.execute(_STANDING, {"model": model})]

    def set_weighed(self, cause: Cause) -> None:
        """Have a cause be no new one any more."""
        with self._db.transaction() as connection:
            connection.execute(_WEIGHED, {"number": cause.number})

    def drop_ended(self, now: datetime) -> None:
        """Drop what was weighed and no longer stands: its alert fires no more, or a later check was made."""
        with self._db.transaction() as connection:
            connection.execute(_DROP_ENDED, {"now": now})


def _cause(row: Mapping[str, Any]) -> Cause:
    return Cause(
        model=row["model"],
        version=row["version"],
        reason=Reason[row["reason"]],
        details=row["details"],
        alert_id=row["alert_id"],
        check_id=row["check_id"],
        raises=row["raises"],
        end_time=row["end_time"],
        number=row["cause_number"],
    )
