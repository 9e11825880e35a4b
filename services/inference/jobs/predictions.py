"""The use cases of batch prediction, save the work itself."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from penstock.ids import uuid7
from services.common import pages
from services.common.blobs import BlobReader, BlobStore
from services.common.errors import FailedPrecondition, NotFound, ResourceExhausted, Unavailable
from services.common.jobs import Job, JobFilters, JobState, JobStore, JobWorker, NewJob
from services.common.jobs.news import JobNews
from services.common.keys import Principal, Role
from services.inference.jobs.inputs import UPLOADED, InputFiles
from services.inference.jobs.models import InputKind, PredictionSpec, ResultFile
from services.inference.jobs.store.chunks import ChunkStore
from services.inference.jobs.store.files import FileStore

WATCH_SILENCE_S = 15.0
PAGE_SIZE = 50
BEGINS_ANEW = frozenset({"ALL_ROWS_FAILED", "VERSION_CHANGED"})
"""Failures after which nothing that is done is of use."""


@dataclass(frozen=True, slots=True)
class NewPrediction:
    """A job as it was asked for; 0 limits are the server's."""

    spec: PredictionSpec
    priority: int
    soft_limit_ms: int
    hard_limit_ms: int
    max_attempts: int
    due_time: datetime | None
    request_id: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class PredictionLimits:
    """What callers may have: the longest job, jobs that have not ended by key, calls that wait."""

    hard_limit_ms: int
    max_unended: int
    max_waits: int
    lease_s: float
    retention: timedelta


class Predictions:
    """Prediction jobs as callers see them. A viewer sees its own, an operator all."""

    def __init__(
        self,
        jobs: JobStore,
        chunks: ChunkStore,
        files: FileStore,
        blobs: BlobStore,
        inputs: InputFiles,
        news: JobNews,
        limits: PredictionLimits,
        *,
        draining: Callable[[], bool] = lambda: False,
    ) -> None:
        self._jobs = jobs
        self._chunks = chunks
        self._files = files
        self._blobs = blobs
        self._inputs = inputs
        self._news = news
        self.limits = limits
        self._draining = draining
        self._waits = threading.BoundedSemaphore(limits.max_waits)

    def create(self, new: NewPrediction, principal: Principal) -> Job:
        """Queue a job; see the contract for what is raised."""
        file, spec = new.spec.file, new.spec
        if file is not None:
            file = self._inputs.check(file, principal)
            spec = replace(spec, file=file)
        job = NewJob(
            job_id=UUID(uuid7()),
            created_by=principal.name,
            payload=spec.columns(),
            request_id=new.request_id,
            body_sha256=new.body_sha256,
            priority=new.priority,
            limit_key=new.spec.model,
            due_time=new.due_time,
            max_attempts=new.max_attempts,
            soft_limit_ms=new.soft_limit_ms or None,
            hard_limit_ms=min(new.hard_limit_ms or self.limits.hard_limit_ms, self.limits.hard_limit_ms),
        )
        with self._jobs.transaction() as connection:
            created = self._jobs.insert(connection, job)
            if self._chunks.unended(connection, principal.name) > self.limits.max_unended:
                raise ResourceExhausted(
                    f"{self.limits.max_unended:,} jobs of this key have not ended; wait for some, or cancel them",
                    reason="TOO_MANY_JOBS",
                )
            if file is not None and file.uri.startswith(UPLOADED):
                self._files.touch(connection, file.sha256)
            return created

    def get(self, job_id: UUID, principal: Principal) -> Job:
        """Read a job; raises NotFound (JOB_NOT_FOUND) also for another's."""
        job = self._jobs.get(job_id)
        if not _may_see(job, principal):
            raise NotFound(f"there is no job {job_id}; it may have been deleted", reason="JOB_NOT_FOUND")
        return job

    def wait(self, job_id: UUID, principal: Principal, timeout_s: float) -> Job:
        """Wait until a job has ended or the time is over.

        Raises:
            NotFound: JOB_NOT_FOUND.
            ResourceExhausted: as many wait as may (TOO_MANY_WAITS).
            Unavailable: this server ends (DRAINING).
        """
        deadline = time.monotonic() + timeout_s
        if not self._waits.acquire(blocking=False):
            sentence = "as many calls wait for jobs as may; watch the job, or ask again"
            raise ResourceExhausted(sentence, reason="TOO_MANY_WAITS", retry_after_s=1.0)
        try:
            while True:
                rings = self._news.count
                job = self.get(job_id, principal)
                remaining_s = deadline - time.monotonic()
                if job.ended or remaining_s <= 0:
                    return job
                if self._draining():
                    sentence = "this server is shutting down; wait at another"
                    raise Unavailable(sentence, reason="DRAINING", retry_after_s=0.1)
                self._news.wait(rings, remaining_s)
        finally:
            self._waits.release()

    def watch(self, job_id: UUID, principal: Principal, active: Callable[[], bool]) -> Iterator[Job]:
        """Give a job at once, again when it changes or after a while, until it has ended or nobody is there to hear."""
        seen: tuple[object, ...] = ()
        said_at = 0.0
        while active():
            rings = self._news.count
            job = self.get(job_id, principal)
            now = (job.state, job.update_time, job.progress, job.cancel_time)
            if now != seen or time.monotonic() - said_at >= WATCH_SILENCE_S:
                seen, said_at = now, time.monotonic()
                yield job
            if job.ended:
                return
            self._news.wait(rings, WATCH_SILENCE_S)

    def page(
        self, states: frozenset[JobState], model: str, principal: Principal, *, page_size: int, page_token: str
    ) -> tuple[list[Job], str]:
        """List jobs, the newest first, with the token of the next page."""
        size = pages.page_size(page_size, default=PAGE_SIZE)
        named = {"states": sorted(states), "model": model}
        position = pages.decode(page_token, named)
        if position is not None and (len(position) != 1 or type(position[0]) is not int):
            raise pages.unknown_token()
        filters = JobFilters(
            states=states,
            created_by=None if principal.role >= Role.OPERATOR else principal.name,
            columns={"model": model} if model else {},
        )
        jobs = self._jobs.page(filters, before=position[0] if position else None, limit=size + 1)
        if len(jobs) <= size:
            return jobs, ""
        return jobs[:size], pages.encode([jobs[size - 1].create_number], named)

    def cancel(self, job_id: UUID, principal: Principal) -> Job:
        """Ask for a job's end; see `JobStore.cancel`."""
        self.get(job_id, principal)
        return self._jobs.cancel(job_id)

    def retry(self, job_id: UUID, principal: Principal) -> Job:
        """Queue a job again, to go on after what is done, or anew where that is of no use."""
        job = self.get(job_id, principal)
        # Of one request there are not some rows that failed and others: there is it.
        single = PredictionSpec.of(job.payload).kind is InputKind.SINGLE
        anew = job.error.reason in BEGINS_ANEW or (single and job.error.reason == "TOO_MANY_FAILED_ROWS")
        with self._jobs.transaction() as connection:
            job = self._jobs.retry(connection, job_id, anew=anew)
            if anew:
                self._chunks.begin_anew(connection, job_id)
            return job

    def delete(self, job_id: UUID, principal: Principal) -> None:
        """Delete a job that has ended; its blobs go with the garbage."""
        self.get(job_id, principal)
        self._jobs.delete(job_id)

    def open_result(self, job_id: UUID, principal: Principal, offset_bytes: int) -> tuple[ResultFile, BlobReader]:
        """Open a result from a byte on.

        Raises:
            FailedPrecondition: the job is not COMPLETED (WRONG_STATE).
            OutOfRange, DataLoss: see `BlobStore.open`.
        """
        job = self.get(job_id, principal)
        if job.result is None:
            sentence = f"the job is {job.state}; only one that is COMPLETED has a result"
            raise FailedPrecondition(sentence, reason="WRONG_STATE")
        result = ResultFile(**job.result)
        return result, self._blobs.open(result.sha256, offset=offset_bytes)

    def workers(self) -> list[JobWorker]:
        """List the processes that work on jobs."""
        return self._jobs.workers(live_s=self.limits.lease_s)


def _may_see(job: Job, principal: Principal) -> bool:
    return principal.role >= Role.OPERATOR or job.created_by == principal.name
