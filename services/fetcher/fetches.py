"""The use cases of fetching, save the work itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.ids import uuid7
from services.common import pages
from services.common.errors import ResourceExhausted
from services.common.jobs import Job, JobFilters, JobState, JobStore, JobWorker, NewJob
from services.common.jobs.news import JobNews
from services.common.keys import Principal
from services.common.outbox import Delivery
from services.common.outbox.webhooks import Webhook
from services.fetcher.downloading.lacking import lacking_bytes
from services.fetcher.layouts import carried
from services.fetcher.models import FetchSpec, Phase, Reference
from services.fetcher.notifications.webhooks import FetchWebhooks
from services.fetcher.sources.catalogue import Sources
from services.fetcher.sources.looking import looked_at
from services.fetcher.sources.source import Found, Source, Stopping
from services.fetcher.store.downloads import DownloadStore
from services.fetcher.store.fetches import FetchStore

WATCH_SILENCE_S = 15.0
PAGE_SIZE = 50


@dataclass(frozen=True, slots=True)
class NewFetch:
    """A fetch as it was asked for."""

    spec: FetchSpec
    priority: int
    max_attempts: int
    due_time: datetime | None
    request_id: str
    body_sha256: str
    webhook: Webhook | None = None


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What callers may have: the longest job, in ms; jobs of a key that have not ended; how long ended ones stay."""

    hard_limit_ms: int
    max_unended: int
    retention: timedelta
    lease_s: float


@dataclass(frozen=True, slots=True)
class FetchFilters:
    """Which fetches are listed; '' and none: all. `phase`: of those that run; None: either."""

    states: frozenset[JobState] = frozenset()
    phase: Phase | None = None
    model: str = ""
    source: str = ""
    schedule_id: UUID | None = None


class Fetches:
    """Fetches as callers see them: who may see one sees all, for models are everybody's."""

    def __init__(
        self,
        jobs: JobStore,
        fetches: FetchStore,
        downloads: DownloadStore,
        sources: Sources,
        webhooks: FetchWebhooks,
        news: JobNews,
        limits: FetchLimits,
    ) -> None:
        self._jobs = jobs
        self._fetches = fetches
        self._downloads = downloads
        self._sources = sources
        self._webhooks = webhooks
        self._news = news
        self.limits = limits

    def create(self, new: NewFetch, principal: Principal) -> Job:
        """Queue a job; see the contract for what is raised."""
        source = self._sources.of(new.spec.reference)
        webhook = self._webhooks.checked(new.webhook) if new.webhook else None
        job = NewJob(
            job_id=UUID(uuid7()),
            created_by=principal.name,
            payload=replace(new.spec, webhook=webhook).columns(),
            request_id=new.request_id,
            body_sha256=new.body_sha256,
            priority=new.priority,
            limit_key=source.host(new.spec.reference),
            due_time=new.due_time,
            max_attempts=new.max_attempts,
            hard_limit_ms=self.limits.hard_limit_ms,
        )
        with self._jobs.transaction() as connection:
            created = self._jobs.insert(connection, job)
            if self._fetches.unended(connection, principal.name) > self.limits.max_unended:
                raise ResourceExhausted(
                    f"{self.limits.max_unended:,} jobs of this key have not ended; wait for some, or cancel them",
                    reason="TOO_MANY_JOBS",
                )
            return created

    def get(self, job_id: UUID) -> Job:
        """Read a job; raises NotFound (JOB_NOT_FOUND)."""
        return self._jobs.get(job_id)

    def watch(self, job_id: UUID, active: Callable[[], bool]) -> Iterator[Job]:
        """Give a job at once, again when it changes or after a while, until it has ended or nobody is there to hear."""
        seen: tuple[object, ...] = ()
        said_at = 0.0
        while active():
            rings = self._news.count
            job = self._jobs.get(job_id)
            now = (job.state, job.update_time, job.progress, job.cancel_time, job.payload["phase"])
            if now != seen or time.monotonic() - said_at >= WATCH_SILENCE_S:
                seen, said_at = now, time.monotonic()
                yield job
            if job.ended:
                return
            self._news.wait(rings, WATCH_SILENCE_S)

    def page(self, filters: FetchFilters, *, page_size: int, page_token: str) -> tuple[list[Job], str]:
        """List jobs, the newest first, with the token of the next page."""
        size = pages.page_size(page_size, default=PAGE_SIZE)
        named = {
            "states": sorted(filters.states), "model": filters.model, "source": filters.source,
            "schedule_id": str(filters.schedule_id or ""), "phase": filters.phase or "",
        }  # fmt: skip
        position = pages.decode(page_token, named)
        if position is not None and (len(position) != 1 or type(position[0]) is not int):
            raise pages.unknown_token()
        columns = {"model": filters.model, "source": filters.source, "schedule_id": filters.schedule_id}
        held = JobFilters(
            states=filters.states,
            columns={name: value for name, value in columns.items() if value},
            running_columns={"phase": filters.phase.value} if filters.phase else {},
        )
        jobs = self._jobs.page(held, before=position[0] if position else None, limit=size + 1)
        if len(jobs) <= size:
            return jobs, ""
        return jobs[:size], pages.encode([jobs[size - 1].create_number], named)

    def deliveries(self, jobs: Iterable[Job]) -> Mapping[UUID, Delivery]:
        """Say what became of the messages that told of jobs' latest ends; see `FetchWebhooks.deliveries`."""
        return self._webhooks.deliveries(jobs)

    def cancel(self, job_id: UUID) -> Job:
        """Ask for a job's end; see `JobStore.cancel`."""
        return self._jobs.cancel(job_id)

    def retry(self, job_id: UUID) -> Job:
        """Queue a job again; the source is asked anew, and what is here is not brought again."""
        with self._jobs.transaction() as connection:
            job = self._jobs.retry(connection, job_id)
            self._fetches.forget_plan(connection, job_id)
            asked_for = FetchTarget.FromString(FetchSpec.of(job.payload).target)
            self._fetches.free_version(connection, job_id, asked_for.version)
        return self._jobs.get(job_id)

    def delete(self, job_id: UUID) -> None:
        """Delete a job that has ended."""
        self._jobs.delete(job_id)

    def workers(self) -> list[JobWorker]:
        """List the processes that fetch."""
        return self._jobs.workers(live_s=self.limits.lease_s)

    def sources(self) -> list[Source]:
        """List the sources."""
        return self._sources.all()

    def inspect(self, reference: Reference, stopping: Stopping) -> tuple[Found, int | None]:
        """Look at what a reference names, and how many bytes of it would be downloaded now; None: nobody knows, or a
        variant has to be named first.
        """
        source = self._sources.of(reference)
        found = looked_at(source, reference, stopping)
        if reference.sha256 and len(found.plan.files) == 1:
            only = replace(found.plan.files[0], sha256=reference.sha256)
            found = replace(found, plan=replace(found.plan, files=(only,)))
        plan, left_out = carried(found.plan, FetchTarget())
        found = replace(found, plan=plan, warnings=(*found.warnings, *left_out))
        if found.refusal is not None:
            return found, None
        return found, lacking_bytes(self._downloads, source, found.plan.files)
