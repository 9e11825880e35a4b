"""Requests by what they hang together with: for lineages."""

from __future__ import annotations

from typing import Any, LiteralString
from uuid import UUID

from psycopg import sql

from services.common.postgres import Database
from services.monitoring.retraining.models import Request
from services.monitoring.retraining.store.requests import COLUMNS, request_from

_SELECT = f"""
SELECT {COLUMNS}
FROM monitoring.retraining_requests
WHERE {{condition}}
ORDER BY retraining_id DESC
LIMIT %(limit)s
"""  # noqa: S608 - the braces are constants of ours

_OF_ALERT = """
retraining_id IN (SELECT retraining_id FROM monitoring.retraining_alerts WHERE alert_id = %(alert_id)s)
"""
_OF_CHECK = "check_id = %(check_id)s"
_OF_VERSION = "model = %(model)s AND version = %(version)s"
_THAT_MADE = """
model = %(model)s
AND (new_version = %(version)s OR (training_run_id = %(training_run_id)s AND training_run_id <> ''))
"""

_OF_RUN = "training_run_id = %(training_run_id)s AND training_run_id <> ''"

_ALERTS = """
SELECT alert_id FROM monitoring.retraining_alerts
WHERE retraining_id = %(retraining_id)s
ORDER BY alert_id DESC
LIMIT %(limit)s
"""


class RelatedRequests:
    """The newest requests that belong to something."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def of_alert(self, alert_id: UUID, *, limit: int) -> list[Request]:
        """Give those that answer an alert."""
        return self._select(_OF_ALERT, limit, alert_id=alert_id)

    def alerts_of(self, retraining_id: UUID, *, limit: int) -> list[UUID]:
        """Name the alerts that a request answers, the newest first."""
        with self._db.transaction() as connection:
            rows = connection.execute(_ALERTS, {"retraining_id": retraining_id, "limit": limit})
            return [row["alert_id"] for row in rows]

    def of_check(self, check_id: UUID, *, limit: int) -> list[Request]:
        """Give those that a check raised."""
        return self._select(_OF_CHECK, limit, check_id=check_id)

    def of_version(self, model: str, version: str, *, limit: int) -> list[Request]:
        """Give those for a version: it did badly, or is to be followed."""
        return self._select(_OF_VERSION, limit, model=model, version=version)

    def that_made(self, model: str, version: str, training_run_id: str, *, limit: int) -> list[Request]:
        """Give those that a version came of, by itself or by its training run."""
        return self._select(_THAT_MADE, limit, model=model, version=version, training_run_id=training_run_id)

    def of_run(self, training_run_id: str, *, limit: int) -> list[Request]:
        """Give those that led to a training run."""
        return self._select(_OF_RUN, limit, training_run_id=training_run_id)

    def _select(self, condition: LiteralString, limit: int, **values: Any) -> list[Request]:
        statement = sql.SQL(_SELECT).format(condition=sql.SQL(condition))
        with self._db.transaction() as connection:
            return [request_from(row) for row in connection.execute(statement, {**values, "limit": limit})]
