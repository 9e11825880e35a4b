"""The queue of what may raise requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.postgres import Database
from services.monitoring.retraining.models import Cause, Reason
from services.monitoring.store.durability import make_durable

Transaction = Connection[DictRow]
"""A connection inside a transaction of somebody else's."""

_ADD = """
INSERT INTO monitoring.retraining_causes (model, version, reason, details, alert_id, check_id, raises)
VALUES (%(model)s, %(version)s, %(reason)s, %(details)s, %(alert_id)s, %(check_id)s, %(raises)s)
"""

_FIRST = """
SELECT cause_number, model, version, reason, details, alert_id, check_id, raises
FROM monitoring.retraining_causes
ORDER BY cause_number
LIMIT %(limit)s
"""

_DROP = "DELETE FROM monitoring.retraining_causes WHERE cause_number = %(number)s"


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
        }
        if connection is not None:
            connection.execute(_ADD, values)
            return
        with self._db.transaction() as own:
            make_durable(own)
            own.execute(_ADD, values)

    def first(self, *, limit: int) -> list[Cause]:
        """Give the oldest."""
        with self._db.transaction() as connection:
            return [_cause(row) for row in connection.execute(_FIRST, {"limit": limit})]

    def drop(self, cause: Cause) -> None:
        """Take a cause out of the queue: it has been decided what comes of it."""
        with self._db.transaction() as connection:
            connection.execute(_DROP, {"number": cause.number})


def _cause(row: Mapping[str, Any]) -> Cause:
    return Cause(
        model=row["model"],
        version=row["version"],
        reason=Reason[row["reason"]],
        details=row["details"],
        alert_id=row["alert_id"],
        check_id=row["check_id"],
        raises=row["raises"],
        number=row["cause_number"],
    )
