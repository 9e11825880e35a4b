"""Writing events: a batch is one transaction, stored whole or not at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, timedelta
from itertools import groupby
from uuid import UUID

from psycopg import Connection, errors, sql
from psycopg.rows import DictRow

from services.common.errors import Unavailable
from services.common.postgres import Database
from services.monitoring.ids import time_ms_of
from services.monitoring.models import Event, Rejection
from services.monitoring.store.days import Days, partition_name
from services.monitoring.store.durability import make_durable
from services.monitoring.store.marks import mark_events
from services.monitoring.store.rows import COLUMNS, copy_text

_EPOCH = date(1970, 1, 1)
_DAY_MS = 86_400_000
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
        by_day = {_day(number): list(group) for number, group in groupby(events, key=_day_number)}
        self._days.ensure(by_day)
        # Made before a connection is taken, and without a savepoint: each trip to PostgreSQL waits for the interpreter.
        texts = {day: copy_text(group) for day, group in by_day.items()}
        try:
            with self._writing(rejections, sent_by) as connection:
                mark_events(connection, events)
                _copy(connection, texts)
        except errors.UniqueViolation:
            with self._writing(rejections, sent_by) as connection:
                new = _copy_new(connection, events)
                mark_events(connection, [event for event in events if event.inference_id in new])
            return new
        return frozenset(event.inference_id for event in events)

    @contextmanager
    def _writing(self, rejections: Sequence[Rejection], sent_by: str) -> Iterator[Connection[DictRow]]:
        """Lend a durable transaction that puts what was refused into quarantine."""
        try:
            with self._db.transaction() as connection:
                make_durable(connection)
                if rejections:
                    self._quarantine(connection, rejections, sent_by)
                yield connection
        except (errors.UndefinedTable, errors.CheckViolation) as error:
            self._days.forget()
            message = "The day's partition was dropped just now; send the batch again."
            raise Unavailable(message, reason="PARTITION_MISSING", retry_after_s=0.1) from error

    def _quarantine(self, connection: Connection[DictRow], rejections: Sequence[Rejection], sent_by: str) -> None:
        rows = [
            {"sent_by": sent_by, "reason": one.reason.value, "message": one.message, "event": one.event}
            for one in rejections
        ]
        with connection.cursor() as cursor:
            cursor.executemany(_QUARANTINE, rows)
        connection.execute(_TRIM_QUARANTINE, {"kept": self._quarantine_max_events})


def _day_number(event: Event) -> int:
    return time_ms_of(event.inference_id) // _DAY_MS


def _day(number: int) -> date:
    return _EPOCH + timedelta(days=number)


def _copy(connection: Connection[DictRow], texts: Mapping[date, bytes]) -> None:
    """Take the fast path, straight into the partitions; it fails where one event is known."""
    for day, text in texts.items():
        statement = sql.SQL(_COPY).format(table=sql.Identifier(partition_name("inferences", day)))
        with connection.cursor() as cursor, cursor.copy(statement) as copy:
            copy.write(text)


def _copy_new(connection: Connection[DictRow], events: Sequence[Event]) -> frozenset[UUID]:
    connection.execute(_STAGE)
    with connection.cursor() as cursor, cursor.copy(_COPY_STAGED) as copy:
        copy.write(copy_text(events))
    return frozenset(row["inference_id"] for row in connection.execute(_UNSTAGE))
