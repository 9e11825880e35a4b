"""Reading the quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from services.common.postgres import Database

_LIST = """
SELECT event_number, received_time, sent_by, reason, message, event
FROM monitoring.quarantined_events
WHERE event_number < %(before)s
ORDER BY event_number DESC
LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """An event in quarantine; `event` is a serialised InferenceEvent, None where it was too large."""

    event_number: int
    received_time: datetime
    sent_by: str
    reason: str
    message: str
    event: bytes | None


class QuarantineStore:
    """Events that were refused."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def read(self, *, before: int, limit: int) -> list[Kept]:
        """Give the newest of those before a number."""
        with self._db.transaction() as connection:
            rows = connection.execute(_LIST, {"before": before, "limit": limit}).fetchall()
        return [Kept(**{**row, "received_time": row["received_time"].astimezone(UTC)}) for row in rows]
