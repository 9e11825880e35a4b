"""The use cases of validations, save the work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from penstock.ids import uuid7
from services.common import pages
from services.common.errors import FailedPrecondition, NotFound, ResourceExhausted
from services.common.jobs import Job, JobFilters, JobStore, NewJob
from services.common.jobs.news import JobNews
from services.common.keys import Principal
from services.trainer.datasets.materialising import Datasets
from services.trainer.validating.jobs import NewValidation
from services.trainer.validating.planning import ValidationPlanning
from services.trainer.validating.store import ValidationStore, columns_of

WATCH_SILENCE_S = 15.0
PAGE_SIZE = 50
MAX_ATTEMPTS = 3
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ValidationLimits:
    """What callers may have: the longest validation, in ms; validations of a key that have not ended."""

    hard_limit_ms: int
    max_unended: int


class Validations:
    """Validations as callers see them: who may see one sees all, for models are everybody's."""

    def __init__(
        self,
        jobs: JobStore,
        store: ValidationStore,
        datasets: Datasets,
        planning: ValidationPlanning,
        news: JobNews,
        limits: ValidationLimits,
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._datasets = datasets
        self._planning = planning
        self._news = news
        self._limits = limits

    def create(self, new: NewValidation, principal: Principal) -> Job:
        """Queue a validation; see the contract for what is raised."""
        with self._jobs.transaction() as connection:
            known = self._jobs.known(connection, principal.name, new.request_id, new.body_sha256)
        if known is not None:
            return known
        spec = self._planning.planned(new)
        job = NewJob(
            job_id=UUID(uuid7()),
            created_by=principal.name,
            payload=columns_of(spec),
            request_id=new.request_id,
            body_sha256=new.body_sha256,
            limit_key=new.model,
            max_attempts=MAX_ATTEMPTS,
            hard_limit_ms=self._limits.hard_limit_ms,
        )
        with self._jobs.transaction() as connection:
            created = self._jobs.insert(connection, job)
            if created.job_id == job.job_id:
                self._datasets.refer(connection, job.job_id, spec.data_source)
            if self._store.unended(connection, principal.name) > self._limits.max_unended:
                raise ResourceExhausted(
                    f"{self._limits.max_unended:,} validations of this key have not ended; wait for some, or cancel "
                    "them",
                    reason="TOO_MANY_JOBS",
                )
            return created

    def get(self, validation_id: UUID) -> Job:
        """Read a validation; raises NotFound (VALIDATION_NOT_FOUND)."""
        return _named(validation_id, lambda: self._jobs.get(validation_id))

    def watch(self, validation_id: UUID, active: Callable[[], bool]) -> Iterator[Job]:
        """Give a validation at once, and again when it changes or after a while, until it has ended."""
        seen: tuple[object, ...] = ()
        silence_s = 0.0
        while active():
            rings = self._news.count
            job = self.get(validation_id)
            now = (job.state, job.cancel_time, job.progress, job.payload["message"], job.attempt)
            if now != seen or silence_s >= WATCH_SILENCE_S:
                seen, silence_s = now, 0.0
                yield job
            if job.ended:
                return
            self._news.wait(rings, WATCH_SILENCE_S)
            silence_s += 1.0

    def page(self, model: str, version: str, *, page_size: int, page_token: str) -> tuple[list[Job], str]:
        """List validations, the newest first, with the token of the next page."""
        size = pages.page_size(page_size, default=PAGE_SIZE)
        named = {"model": model, "version": version}
        position = pages.decode(page_token, named)
        if position is not None and (len(position) != 1 or type(position[0]) is not int):
            raise pages.unknown_token()
        held = JobFilters(columns={name: value for name, value in named.items() if value})
        jobs = self._jobs.page(held, before=position[0] if position else None, limit=size + 1)
        if len(jobs) <= size:
            return jobs, ""
        return jobs[:size], pages.encode([jobs[size - 1].create_number], named)

    def cancel(self, validation_id: UUID) -> Job:
        """Ask for a validation's end; see `JobStore.cancel`."""
        try:
            return _named(validation_id, lambda: self._jobs.cancel(validation_id))
        except FailedPrecondition as error:
            sentence = f"the validation has ended already: it is {self.get(validation_id).state}"
            raise FailedPrecondition(sentence, reason=error.reason) from error


def _named(validation_id: UUID, call: Callable[[], T]) -> T:
    """Say of a job that is not there that it is a validation."""
    try:
        return call()
    except NotFound as error:
        sentence = f"there is no validation {validation_id}; it may be older than what is kept"
        raise NotFound(sentence, reason="VALIDATION_NOT_FOUND") from error
