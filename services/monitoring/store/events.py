"""Writing events: a batch is one transaction, stored whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from itertools import groupby
from uuid import UUID

from psycopg import Connection, errors, sql
from psycopg.rows import DictRow

from services.common.errors import Unavailable
from services.common.postgres import Database
from services.monitoring.ids import time_of
from services.monitoring.models import Event, Rejection
from services.monitoring.store.days import Days, partition_name
from services.monitoring.store.durability import make_durable
from services.monitoring.store.marks import mark_events
from services.monitoring.store.rows import COLUMNS, copy_text

_COPY = f"COPY monitoring.{{table}} ({COLUMNS}) FROM STDIN (FORMAT BINARY)"

_STAGE = "CREATE TEMP TABLE staged_inferences (LIKE monitoring.inferences INCLUDING DEFAULTS) ON COMMIT DROP"
_COPY_STAGED = f"COPY staged_inferences ({COLUMNS}) FROM STDIN (FORMAT BINARY)"
# In the order of ids, so that two senders of the same events wait for each other and never in a circle.
_UNSTAGE = """
INSERT INTO monitoring.inferences
SELECT * FROM staged_inferences ORDER BY inference_id
ON CONFLICT (inference_id) DO NOTHING
RETURNING inference_id
"""

_QUARANTINE = """
INSERT INTO monitoring.quarantined_events (sent_by, reason, message, event)
VALUES (%(sent_by)s, %(reason)s, %(message)s, %(event)s)
"""
_TRIM_QUARANTINE = """
DELETE FROM monitoring.quarantined_events
WHERE event_number IN (
    SELECT event_number
    FROM monitoring.quarantined_events
    WHERE event_number <= (SELECT max(event_number) FROM monitoring.quarantined_events) - %(kept)s
    FOR UPDATE SKIP LOCKED
)
"""


class EventStore:
    """Events and the quarantine of those refused."""

    def __init__(self, database: Database, days: Days, *, quarantine_max_events: int) -> None:
        self._db = database
        self._days = days
        self._quarantine_max_events = quarantine_max_events

    def add(self, events: Sequence[Event], rejections: Sequence[Rejection], *, sent_by: str) -> frozenset[UUID]:
        """Store a batch in one transaction, and say which events are new.

        The ids within the batch must be distinct.
        """
        events = sorted(events, key=lambda event: event.inference_id.int)
        by_day = {day: list(group) for day, group in groupby(events, key=_day_of)}
        self._days.ensure(by_day)
        with self._db.transaction() as connection:
            make_durable(connection)
            if rejections:
                self._quarantine(connection, rejections, sent_by)
            try:
                stored = _copy(connection, by_day)
            except errors.UniqueViolation:
                stored = _copy_new(connection, events)
            except errors.UndefinedTable as error:
                self._days.forget()
                message = "The day's partition was dropped just now; send the batch again."
                raise Unavailable(message, reason="PARTITION_MISSING", retry_after_s=0.1) from error
            mark_events(connection, events if len(stored) == len(events) else _of(events, stored))
            return stored

    def _quarantine(self, connection: Connection[DictRow], rejections: Sequence[Rejection], sent_by: str) -> None:
        rows = [
            {"sent_by": sent_by, "reason": one.reason.value, "message": one.message, "event": one.event}
            for one in rejections
        ]
        with connection.cursor() as cursor:
            cursor.executemany(_QUARANTINE, rows)
        connection.execute(_TRIM_QUARANTINE, {"kept": self._quarantine_max_events})


def _of(events: Sequence[Event], stored: frozenset[UUID]) -> list[Event]:
    return [event for event in events if event.inference_id in stored]


def _day_of(event: Event) -> date:
    return time_of(event.inference_id).date()


def _copy(connection: Connection[DictRow], by_day: dict[date, list[Event]]) -> frozenset[UUID]:
    """Take the fast path, straight into the partitions; all of it is undone where one event is known."""
    with connection.transaction():
        for day, events in by_day.items():
            statement = sql.SQL(_COPY).format(table=sql.Identifier(partition_name("inferences", day)))
            with connection.cursor() as cursor, cursor.copy(statement) as copy:
                copy.write(copy_text(events))
    return frozenset(event.inference_id for events in by_day.values() for event in events)


def _copy_new(connection: Connection[DictRow], events: Sequence[Event]) -> frozenset[UUID]:
    connection.execute(_STAGE)
    with connection.cursor() as cursor, cursor.copy(_COPY_STAGED) as copy:
        copy.write(copy_text(events))
    return frozenset(row["inference_id"] for row in connection.execute(_UNSTAGE))
