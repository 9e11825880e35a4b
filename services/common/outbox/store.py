"""The table of an outbox: every move of a message is one statement here, and each is fenced."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, LiteralString
from uuid import UUID

from psycopg import Connection, Cursor, sql
from psycopg.rows import DictRow

from penstock.ids import uuid7
from services.common.errors import InvalidArgument
from services.common.outbox import statements
from services.common.outbox.message import Delivery, Destination, Message
from services.common.postgres import Database, Listener

OutboxConnection = Connection[DictRow]
"""A transaction of the caller's."""
MAX_BODY_BYTES = 256 * 1024
MAX_WAITING = 10_000
"""Messages that wait for one destination; more are FAILED where they are put."""
MAX_FAILED = 10_000
"""Messages of one destination that are kept as FAILED."""
GIVE_UP_S = 24 * 3_600.0
MAX_ERROR_CHARS = 1_000


@dataclass(frozen=True, slots=True)
class Counts:
    """What is in an outbox: messages that wait, those that were given up, when one last was, the age of the oldest."""

    waiting: int
    failed: int
    last_failure_time: datetime | None
    oldest_age_s: float


class Outbox:
    """The messages of one table, `schema.table`; see columns.sql for what it looks like.

    The channel `ready` rings when there is something to send.
    """

    def __init__(self, database: Database, schema: str, table: str = "outbox") -> None:
        self._database = database
        self._name = f"{schema}.{table}"
        self._table = sql.Identifier(schema, table)
        self.ready = f"{schema}_{table}_ready"

    def put(
        self,
        connection: OutboxConnection,
        destination: str,
        body: bytes,
        *,
        ordering_key: str = "",
        message_id: UUID | None = None,
        give_up_s: float = GIVE_UP_S,
    ) -> UUID:
        """Write a message in the caller's transaction, and give its id: a UUIDv7, unless the caller has one.

        The commit returns once it is on disk, also where the server is set not to wait for that.
        `destination` is what the deliverer knows its receiver by; it must name no secret. Those of one destination and
        `ordering_key` go in the order of putting: none is sent while an earlier one still waits, which is tried again
        now. A message whose id is there already changes nothing else.

        Raises:
            InvalidArgument: the body is over 256 KiB (MESSAGE_TOO_LARGE).
        """
        if len(body) > MAX_BODY_BYTES:
            raise InvalidArgument(
                f"the message has {len(body)} bytes; at most {MAX_BODY_BYTES} are allowed", reason="MESSAGE_TOO_LARGE"
            )
        message_id = message_id or UUID(uuid7())
        values = {
            "message_id": message_id, "destination": destination, "ordering_key": ordering_key, "body": body,
            "give_up_s": give_up_s, "max_waiting": MAX_WAITING,
        }  # fmt: skip
        connection.execute(statements.MAKE_DURABLE)
        self._run(connection, statements.HASTEN, {"destination": destination, "ordering_key": ordering_key})
        self._run(connection, statements.PUT, values)
        connection.execute(statements.NOTIFY, {"channel": self.ready})
        return message_id

    def drop(self, connection: OutboxConnection, destination: str, *, reason: str, message: str) -> None:
        """Give up all that waits for a destination, in the caller's transaction: it is there no more."""
        values = {"destination": destination, "reason": reason, "message": message}
        self._run(connection, statements.DROP_DESTINATION, values)

    def destinations(self, names: Sequence[str]) -> Mapping[str, Destination]:
        """Say how destinations stand, by name; each that was asked for is there."""
        with self._database.transaction() as connection:
            rows = self._run(connection, statements.DESTINATIONS, {"destinations": list(names)}).fetchall()
        return {row.pop("destination"): Destination(**row) for row in rows}

    def deliveries(self, message_ids: Sequence[UUID]) -> Mapping[UUID, Delivery]:
        """Say what became of messages, by id; those that are kept no more are not there."""
        with self._database.transaction() as connection:
            rows = self._run(connection, statements.DELIVERIES, {"message_ids": list(message_ids)}).fetchall()
        return {row.pop("message_id"): Delivery(**row) for row in rows}

    def counts(self) -> Counts:
        """Count what is there."""
        with self._database.transaction() as connection:
            row = self._run(connection, statements.COUNTS, {}).fetchone()
        if row is None:
            raise AssertionError("a count is always one row")
        return Counts(**row)

    def expire(self, *, delivered_kept_s: float, failed_kept_s: float, limit: int = 1_000) -> int:
        """Give up what is past its time, and delete what ended so long ago or is too much of one destination's.

        Gives how many: up to a limit of each kind, so that no call takes long. 0: there is nothing more.
        """
        with self._database.transaction() as connection:
            count = self._run(connection, statements.GIVE_UP, {"limit": limit}).rowcount
            for state, kept_s in (("DELIVERED", delivered_kept_s), ("FAILED", failed_kept_s)):
                values = {"state": state, "kept_s": kept_s, "limit": limit}
                count += self._run(connection, statements.EXPIRE, values).rowcount
            if not count:  # it looks at all that failed, so the rest comes first
                count = self._run(connection, statements.BOUND, {"max_failed": MAX_FAILED, "limit": limit}).rowcount
        return count

    # For the workers

    def listen(self, *, poll_interval_s: float) -> Listener:
        """Listen for what is ready; see `Listener`."""
        return self._database.listen([self.ready], poll_interval_s=poll_interval_s)

    def claim(self, worker_id: str, lease_s: float, *, troubled: bool = True) -> Message | None:
        """Take the message that is next: the least tried of the first of each ordering key. None: there is none.

        Without `troubled` none is taken to a destination of which a message failed and waits. The message is another's
        to take once the lease is over.
        """
        with self._database.transaction() as connection:
            connection.execute(statements.MAKE_DURABLE)  # a token that a crash forgot would be given twice
            connection.execute(statements.LOCK_CLAIMS, {"name": f"penstock.outbox.{self._name}"})
            values = {"worker_id": worker_id, "lease_s": lease_s, "troubled": troubled}
            row = self._run(connection, statements.CLAIM, values).fetchone()
        return None if row is None else Message(**row)

    def delivered(self, message: Message) -> bool:
        """Write down that a message has arrived; False: another has taken it meanwhile, and it arrives again."""
        with self._database.transaction() as connection:
            return self._run(connection, statements.DELIVERED, _key(message)).rowcount == 1

    def put_back(
        self, message: Message, *, delay_s: float, hold_s: float = 0.0, reason: str, error: str
    ) -> bool | None:
        """Have a message tried again after a delay, its destination left alone for `hold_s`.

        False: that would be too late, and it was given up. None: it is another's by now, and nothing was written.
        """
        values = {**_key(message), **_said(reason, error), "delay_s": delay_s, "hold_s": hold_s}
        with self._database.transaction() as connection:
            row = self._run(connection, statements.PUT_BACK, values).fetchone()
        return None if row is None else row["state"] == "WAITING"

    def fail(self, message: Message, *, reason: str, error: str) -> bool:
        """Give a message up; False: it is another's by now, and nothing was written."""
        with self._database.transaction() as connection:
            return self._run(connection, statements.FAIL, {**_key(message), **_said(reason, error)}).rowcount == 1

    def _run(
        self, connection: OutboxConnection, statement: LiteralString, values: Mapping[str, Any]
    ) -> Cursor[DictRow]:
        return connection.execute(sql.SQL(statement).format(table=self._table), values)


def _key(message: Message) -> dict[str, Any]:
    return {"message_id": message.message_id, "token": message.token}


def _said(reason: str, error: str) -> dict[str, str]:
    # A NUL is in no text of PostgreSQL's.
    return {"reason": reason, "message": error.replace("\0", " ")[:MAX_ERROR_CHARS]}
