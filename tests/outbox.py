"""An outbox for the tests: that of a monitoring database, with workers of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import psycopg
import pytest

from services.common.jobs.backoff import Backoff
from services.common.outbox import Deliver, Message, Outbox, OutboxLimits, OutboxWorkers
from services.common.postgres import Database

LEASE_S = 20.0
QUICK = OutboxLimits(lease_s=20.0, poll_interval_s=0.02, backoff=Backoff(base_s=0.01, cap_s=0.05))


@contextmanager
def opened(url: str) -> Iterator[tuple[Database, Outbox]]:
    """Open the outbox of a monitoring database."""
    with Database(url, pool_size=8) as database:
        yield database, Outbox(database, "monitoring")


@contextmanager
def delivering(outbox: Outbox, deliver: Deliver, limits: OutboxLimits = QUICK) -> Iterator[OutboxWorkers]:
    """Have workers deliver."""
    workers = OutboxWorkers(outbox, deliver, limits)
    workers.open()
    try:
        yield workers
    finally:
        workers.close()


def put(database: Database, outbox: Outbox, destination: str, body: bytes = b"{}", **more: Any) -> UUID:
    """Put a message in a transaction of its own."""
    with database.transaction() as connection:
        return outbox.put(connection, destination, body, **more)


def rows(url: str) -> list[Mapping[str, Any]]:
    """Read the table, in the order of putting."""
    with psycopg.connect(url) as connection:
        cursor = connection.execute("SELECT * FROM monitoring.outbox ORDER BY put_number")
        names = [column.name for column in cursor.description or ()]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]


def states(url: str) -> list[str]:
    """Say how the messages stand, in the order of putting."""
    return [row["state"] for row in rows(url)]


@dataclass(frozen=True)
class Box:
    """An outbox with nothing in it yet."""

    url: str
    database: Database
    outbox: Outbox

    def put(
        self, destination: str = "team", body: bytes = b"{}", *, ordering_key: str = "", give_up_s: float = 3_600.0
    ) -> UUID:
        return put(self.database, self.outbox, destination, body, ordering_key=ordering_key, give_up_s=give_up_s)

    def claim(self, lease_s: float = LEASE_S) -> Message | None:
        return self.outbox.claim("worker", lease_s)

    def claimed(self, lease_s: float = LEASE_S) -> Message:
        message = self.claim(lease_s)
        assert message is not None
        return message

    def put_back(self, message: Message, *, delay_s: float = 0.0, hold_s: float = 0.0) -> bool | None:
        return self.outbox.put_back(message, delay_s=delay_s, hold_s=hold_s, reason="DOWN", error="it is down")


@pytest.fixture
def box(clone_database: Callable[[str], str]) -> Iterator[Box]:
    url = clone_database("monitoring")
    with opened(url) as (database, outbox):
        yield Box(url, database, outbox)
