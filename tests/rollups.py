"""The rollups of a monitoring database, counted when a test says so and as of the time that it says."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import psycopg

from services.common.postgres import Database
from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.configuration.models import Scope
from services.monitoring.configuration.store import ConfigurationStore
from services.monitoring.models import Retention, Window
from services.monitoring.rollups.assembly import KEEP, RECOUNT
from services.monitoring.rollups.keeping import RollupKeeper
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import Granularity, Totals
from services.monitoring.rollups.recounts import Recounts
from services.monitoring.rollups.store.drops import DropStore
from services.monitoring.rollups.store.metrics import MetricsStore
from services.monitoring.rollups.store.recounts import RecountStore
from services.monitoring.rollups.store.rows import TABLES
from services.monitoring.store.chores import ChoreStore
from services.monitoring.store.days import Days, by_time


@dataclass
class Rollups:
    """One replica's worth of them; `now` may be moved."""

    database: Database
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    retention_days: int = 30

    def __post_init__(self) -> None:
        """Put the parts together."""
        days = Days(self.database, (by_time(TABLES[Granularity.FIVE_MINUTES]),))
        retention = Retention(self.retention_days)

        def clock() -> datetime:
            return self.now

        self._configurations = configurations = Configurations(ConfigurationStore(self.database), clock)
        self._recounts = Recounts(
            RecountStore(self.database, days), configurations, retention, clock, again=self._remember
        )
        self._keeper = RollupKeeper(days, DropStore(self.database), configurations, retention)
        self.reader = MetricsReader(MetricsStore(self.database), configurations, retention, clock)

    def configure(self, **fields: object) -> None:
        """Have the configuration say this of rollups, and nothing else."""
        self._configurations.set(Scope(), {"rollups": fields}, etag="", note="")

    def recount(self) -> None:
        """Take turns until nothing is left; hours and days as if their interval had come."""
        self._more = True
        while self._more:
            self._more = False
            self._recounts._done.clear()
            self.work()

    def work(self) -> None:
        """Take one turn as the service does: hours and days when their interval has come."""
        self._recounts.work(self.turn())

    def keep(self) -> None:
        """Look after the retention once."""
        self._keeper.work(self.turn())

    def turn(self) -> Turn:
        """Begin a turn of a chore that nobody else knows."""
        holder, store = uuid4(), ChoreStore(self.database)
        assert store.take(str(holder), holder, lease_s=60)
        return Turn(store, str(holder), holder, threading.Event())

    def total(self, model: str = "iris", version: str = "", **span: float) -> Totals:
        """Count the last hours, or what `span` says, up to now."""
        since = self.now - timedelta(**span or {"hours": 48})
        return self.reader.total(model, version, Window(since, self.now))

    def rows(self, granularity: Granularity) -> list[dict[str, Any]]:
        """Give a table whole."""
        statement = f"SELECT * FROM monitoring.{TABLES[granularity]} ORDER BY model, version, start_time"
        with self.database.transaction() as connection:
            return connection.execute(statement.encode()).fetchall()

    def marks(self) -> int:
        """Count the marks of buckets that wait, for their events or for feedback."""
        statement = (
            "SELECT (SELECT count(*) FROM monitoring.rollup_marks WHERE granularity = 1) "
            "+ (SELECT count(*) FROM monitoring.feedback_marks) AS count"
        )
        with self.database.transaction() as connection:
            row = connection.execute(statement).fetchone()
        return int(row["count"]) if row else 0

    def change(self, statement: str) -> None:
        """Meddle with the database."""
        with self.database.transaction() as connection:
            connection.execute(statement.encode())

    def _remember(self) -> None:
        self._more = True


def leave_to_the_test(database_url: str) -> None:
    """Keep the services of a database from rolling up by themselves: someone else has the leases for long."""
    with psycopg.connect(database_url) as connection:
        for chore in (RECOUNT, KEEP):
            connection.execute(
                "INSERT INTO monitoring.chores (name, holder, lease_time) VALUES (%s, %s, now() + interval '1 day')",
                [chore, uuid4()],
            )


def lock_day(blocker: psycopg.Connection[Any], url: str, moment: datetime) -> None:
    """Take the day of a time, so that recounts of it can't write; made where it is missing, as after midnight."""
    with Database(url, pool_size=1) as database:
        Days(database, [by_time("rollups_five_minutes")]).ensure([moment.date()])
    blocker.execute(f"LOCK TABLE monitoring.rollups_five_minutes_{moment:%Y%m%d}".encode())


@contextmanager
def rollups(database_url: str, **given: Any) -> Iterator[Rollups]:
    """Open the rollups of a database; who waits for a lock, as tests have it, waits for as long as it takes."""
    with Database(database_url, pool_size=4, lock_timeout_s=60, statement_timeout_s=60) as database:
        yield Rollups(database, **given)
