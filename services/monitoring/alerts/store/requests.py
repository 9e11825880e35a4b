"""The first results of requests, so that the same one again makes nothing twice."""

from __future__ import annotations

from dataclasses import asdict
from datetime import datetime
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.errors import FailedPrecondition
from services.monitoring.alerts.models import RequestKey

# Two of the same at once: the second waits here for the first to commit, and then finds what it made.
_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended(%(caller)s || '/' || %(rpc)s || '/' || %(request_id)s, 0))"
_FIND = """
SELECT body_sha256, made_id FROM monitoring.alert_requests
WHERE caller = %(caller)s AND rpc = %(rpc)s AND request_id = %(request_id)s
"""
_INSERT = """
INSERT INTO monitoring.alert_requests (caller, rpc, request_id, body_sha256, made_id, create_time)
VALUES (%(caller)s, %(rpc)s, %(request_id)s, %(body_sha256)s, %(made_id)s, %(time)s)
"""
_EXPIRE = "DELETE FROM monitoring.alert_requests WHERE create_time < %(before)s"


class RequestTable:
    """The table of first results, inside one transaction."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def find(self, key: RequestKey) -> UUID | None:
        """Find what the same request made before; None where it made nothing, or has no id.

        Raises:
            FailedPrecondition: the id came with another body (REQUEST_ID_REUSED).
        """
        if not key.request_id:
            return None
        values = asdict(key)
        self._connection.execute(_LOCK, values)
        row = self._connection.execute(_FIND, values).fetchone()
        if row is None:
            return None
        if row["body_sha256"] != key.body_sha256:
            raise FailedPrecondition(
                f"the request_id {key.request_id!r} came with another request before; choose a new one for a new "
                "request, and send exactly the same to repeat one",
                reason="REQUEST_ID_REUSED",
            )
        made: UUID = row["made_id"]
        return made

    def insert(self, key: RequestKey, made_id: UUID, time: datetime) -> None:
        """Keep what a request made; one without an id is not kept. After `find`, which keeps others away."""
        if key.request_id:
            self._connection.execute(_INSERT, {**asdict(key), "made_id": made_id, "time": time})

    def expire(self, before: datetime) -> None:
        """Forget those that came before a time."""
        self._connection.execute(_EXPIRE, {"before": before})
