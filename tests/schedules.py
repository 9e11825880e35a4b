"""Schedules on a real database and a source that does as it is told, for the tests of what their times bring."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

import psycopg

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.ids import uuid7
from services.common.addresses import AddressRules
from services.common.errors import DomainError
from services.common.jobs import Concurrency, Failure, JobFilters, JobState, JobStore
from services.common.outbox import Outbox
from services.common.outbox.webhooks import Webhooks
from services.common.postgres import Database
from services.common.sealing import Seal
from services.fetcher.models import FetchSpec, Plan, Reference, RemoteFile, StoredWebhook
from services.fetcher.notifications.webhooks import FetchWebhooks
from services.fetcher.schedules.models import Look, NewSchedule, Schedule, When
from services.fetcher.schedules.store import ScheduleStore
from services.fetcher.schedules.turning import Turning, TurnLimits
from services.fetcher.sources.catalogue import Sources
from services.fetcher.sources.source import Found, Source, Stopping
from services.fetcher.store.fetches import FetchStore

RARELY = When(cron="0 3 29 2 *")
TURN_LIMITS = TurnLimits(hard_limit_ms=60_000, max_unended=2)


@dataclass
class Told:
    """A source that says what a test tells it."""

    revision: str = "one"
    fault: Exception | None = None
    disabled_reason: str = ""
    refusal: DomainError | None = None
    unserved: str = ""
    files: tuple[str, ...] = ("model.onnx",)
    looks: int = 0
    name: str = "told"

    def check(self, reference: Reference) -> None:
        """Any will do."""

    def host(self, reference: Reference) -> str:
        return "host"

    def find(self, reference: Reference, stopping: Stopping) -> Found:
        self.looks += 1
        if self.fault is not None:
            raise self.fault
        plan = Plan(self.revision, tuple(RemoteFile(path, "x", "") for path in self.files))
        return Found(plan, "model", refusal=self.refusal, unserved=self.unserved)


@dataclass
class Bench:
    """Schedules on a real database, and a source that does as it is told."""

    url: str
    jobs: JobStore
    store: ScheduleStore
    turning: Turning
    told: Told = field(default_factory=Told)

    def schedule(
        self,
        when: When = RARELY,
        *,
        auto_update: bool = False,
        target: FetchTarget | None = None,
        webhook: StoredWebhook | None = None,
    ) -> Schedule:
        wanted = (target or FetchTarget()).SerializeToString()
        spec = FetchSpec(Reference("told", "x"), wanted, model="model", webhook=webhook)
        new = NewSchedule(spec, 5, 3, when, auto_update, request_id="", body_sha256="")
        with self.store.transaction() as connection:
            now = self.store.now(connection)
            following = when.after(now)
            assert following is not None
            return self.store.insert(connection, UUID(uuid7()), new, "tests", following)

    def sql(self, statement: str, *values: object) -> None:
        with psycopg.connect(self.url) as connection:
            connection.execute(statement.encode(), values)

    def come_due(self, schedule: Schedule, ago: str = "1 second") -> datetime:
        """Have a schedule's time come, so long ago; gives it."""
        self.sql(
            "UPDATE fetcher.fetch_schedules SET next_time = clock_timestamp() - %s::interval, try_count = 0, "
            "try_time = NULL, retry_time = NULL WHERE schedule_id = %s",
            ago,
            schedule.schedule_id,
        )
        due = self.get(schedule).next_time
        assert due is not None
        return due

    def wait(self, schedule: Schedule, days: int = 0) -> None:
        """Have it be time for the next try, so many days after the first."""
        self.sql(
            "UPDATE fetcher.fetch_schedules SET retry_time = clock_timestamp(), try_time = try_time - %s "
            "WHERE schedule_id = %s AND retry_time IS NOT NULL",
            timedelta(days=days),
            schedule.schedule_id,
        )

    def fill(self) -> None:
        """Have the key have as many jobs as it may."""
        for _ in range(2):
            self.come_due(self.schedule(), "3 hours")
            assert self.turning.turn(looks=False) is True

    def messages(self) -> list[dict[str, Any]]:
        """Give the documents that wait for receivers."""
        with psycopg.connect(self.url) as connection:
            rows = connection.execute("SELECT body FROM fetcher.outbox ORDER BY message_id").fetchall()
        return [json.loads(json.loads(bytes(body))["document"]) for (body,) in rows]

    def end_jobs(self, state: str = "COMPLETED") -> None:
        """End all that have not ended, as a worker does, or somebody who cancels them."""
        waiting = self.jobs.page(JobFilters(states=frozenset({JobState.QUEUED})), before=None, limit=100)
        for job in waiting if state == "CANCELLED" else ():
            self.jobs.cancel(job.job_id)
        while claimed := self.jobs.claim("worker", 60, Concurrency()):
            lease, _ = claimed
            with self.jobs.holding(lease) as connection:
                if state == "FAILED":
                    self.jobs.fail(connection, lease, Failure("NETWORK_ERROR", "nobody is there"))
                else:
                    self.jobs.complete(connection, lease, {})

    def get(self, schedule: Schedule) -> Schedule:
        return self.store.get(schedule.schedule_id)

    def made(self) -> list[UUID]:
        return [job.job_id for job in self.jobs.page(JobFilters(), before=None, limit=100)]

    def look(self, schedule: Schedule) -> Schedule:
        """Have its time come, look, and conclude."""
        self.come_due(schedule)
        return self.try_on(schedule)

    def try_on(self, schedule: Schedule) -> Schedule:
        """Look, and conclude."""
        look = self.turning.turn(looks=True)
        assert isinstance(look, Look)
        self.turning.conclude(look, self.turning.see(look, Stopping()))
        return self.get(schedule)


@contextmanager
def open_bench(url: str) -> Iterator[Bench]:
    """Build one on a database of the fetcher's."""
    told = Told()
    with Database(url, pool_size=8) as database:
        store = ScheduleStore(database)
        jobs = JobStore(database, "fetcher", "fetch_jobs", on_end=store.ended)
        sources = Sources([cast("Source", told)])
        fetches = FetchStore()
        webhooks = FetchWebhooks(Outbox(database, "fetcher"), fetches, Seal(None), Webhooks(AddressRules()))
        yield Bench(url, jobs, store, Turning(store, jobs, fetches, sources, webhooks, TURN_LIMITS), told)
