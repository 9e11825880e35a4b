"""The use cases of training runs, save the work itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

from penstock.ids import uuid7
from services.common import pages
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from services.common.jobs import Job, JobFilters, JobStore, NewJob
from services.common.jobs.news import JobNews
from services.common.keys import Principal
from services.trainer.datasets.materialising import Datasets
from services.trainer.recipes.catalogue import Catalogue, Offered
from services.trainer.runs.models import KeptEpoch, LogPiece, NewRun, RunFilters
from services.trainer.runs.planning import Planning
from services.trainer.runs.store import RunStore, columns_of
from services.trainer.scripts.catalog import Scripts

WATCH_SILENCE_S = 15.0
PAGE_SIZE, EPOCH_PAGE = 50, 1_000
MAX_ATTEMPTS = 3
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class RunLimits:
    """What callers may have: the longest run, in ms; runs of a key that have not ended."""

    hard_limit_ms: int
    max_unended: int


class Runs:
    """Training runs as callers see them: who may see one sees all, for models are everybody's."""

    def __init__(
        self,
        jobs: JobStore,
        store: RunStore,
        datasets: Datasets,
        scripts: Scripts,
        planning: Planning,
        catalogue: Catalogue,
        news: JobNews,
        limits: RunLimits,
    ) -> None:
        self._jobs = jobs
        self._store = store
        self._datasets = datasets
        self._scripts = scripts
        self._planning = planning
        self._catalogue = catalogue
        self._news = news
        self._limits = limits

    def create(self, new: NewRun, principal: Principal) -> Job:
        """Queue a run; see the contract for what is raised."""
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
            if spec.data_source and created.job_id == job.job_id:
                self._datasets.refer(connection, job.job_id, spec.data_source)
            if spec.script and created.job_id == job.job_id:
                self._scripts.refer(connection, spec.script)
            if self._store.unended(connection, principal.name) > self._limits.max_unended:
                raise ResourceExhausted(
                    f"{self._limits.max_unended:,} runs of this key have not ended; wait for some, or cancel them",
                    reason="TOO_MANY_JOBS",
                )
            return created

    def get(self, run_id: UUID) -> Job:
        """Read a run; raises NotFound (RUN_NOT_FOUND)."""
        return _named(run_id, lambda: self._jobs.get(run_id))

    def watch(
        self, run_id: UUID, after_epoch: int, active: Callable[[], bool]
    ) -> Iterator[tuple[Job, Sequence[KeptEpoch]]]:
        """Give a run at once, again with each epoch and when it changes or after a while, until it has ended."""
        seen: tuple[object, ...] = ()
        silence_s = 0.0
        while active():
            rings = self._news.count
            job = self.get(run_id)
            epochs = self._store.epochs(run_id, after=after_epoch, limit=EPOCH_PAGE)
            now = (job.state, job.cancel_time, job.payload["phase"], job.payload["message"], job.attempt)
            if epochs or now != seen or silence_s >= WATCH_SILENCE_S:
                seen, silence_s = now, 0.0
                after_epoch = epochs[-1].number if epochs else after_epoch
                yield job, epochs
            if len(epochs) == EPOCH_PAGE:
                continue
            if job.ended:
                return
            self._news.wait(rings, WATCH_SILENCE_S)
            silence_s += 1.0

    def page(self, filters: RunFilters, *, page_size: int, page_token: str) -> tuple[list[Job], str]:
        """List runs, the newest first, with the token of the next page."""
        size = pages.page_size(page_size, default=PAGE_SIZE)
        named = {"states": sorted(filters.states), "model": filters.model, "phase": filters.phase or ""}
        position = pages.decode(page_token, named)
        if position is not None and (len(position) != 1 or type(position[0]) is not int):
            raise pages.unknown_token()
        held = JobFilters(
            states=filters.states,
            columns={"model": filters.model} if filters.model else {},
            running_columns={"phase": filters.phase.value} if filters.phase else {},
        )
        jobs = self._jobs.page(held, before=position[0] if position else None, limit=size + 1)
        if len(jobs) <= size:
            return jobs, ""
        return jobs[:size], pages.encode([jobs[size - 1].create_number], named)

    def epochs(self, run_id: UUID, *, page_size: int, page_token: str) -> tuple[list[KeptEpoch], str]:
        """List a run's epochs in order, with the token of the next page."""
        self.get(run_id)
        size = pages.page_size(page_size, default=EPOCH_PAGE)
        named = {"run_id": str(run_id)}
        position = pages.decode(page_token, named)
        if position is not None and (len(position) != 1 or type(position[0]) is not int):
            raise pages.unknown_token()
        found = self._store.epochs(run_id, after=position[0] if position else 0, limit=size + 1)
        if len(found) <= size:
            return found, ""
        return found[:size], pages.encode([found[size - 1].number], named)

    def log(self, run_id: UUID, offset: int, *, follow: bool, active: Callable[[], bool]) -> Iterator[LogPiece]:
        """Give what a run printed, from a byte on; with `follow` until it has ended."""
        if offset < 0:
            raise InvalidArgument.field("offset", f"got {offset}; 0 or more are allowed", reason="OUT_OF_BOUNDS")
        while active():
            rings = self._news.count
            ended = self.get(run_id).ended
            while pieces := self._store.log(run_id, offset):
                for piece in pieces:
                    yield piece
                    offset = piece.offset + len(piece.chunk)
            if ended or not follow:
                return
            self._news.wait(rings, WATCH_SILENCE_S)

    def cancel(self, run_id: UUID) -> Job:
        """Ask for a run's end; see `JobStore.cancel`."""
        try:
            return _named(run_id, lambda: self._jobs.cancel(run_id))
        except FailedPrecondition as error:
            state = self.get(run_id).state
            raise FailedPrecondition(f"the run has ended already: it is {state}", reason=error.reason) from error

    def delete(self, run_id: UUID) -> None:
        """Delete a run that has ended; see `JobStore.delete`."""
        try:
            _named(run_id, lambda: self._jobs.delete(run_id))
        except FailedPrecondition as error:
            sentence = "the run has not ended; cancel it, and delete it once it has ended"
            raise FailedPrecondition(sentence, reason=error.reason) from error

    def recipes(self) -> Sequence[Offered]:
        """List the recipes, also those that are not allowed here."""
        return self._catalogue.offered()


def _named(run_id: UUID, call: Callable[[], T]) -> T:
    """Say of a job that is not there that it is a run."""
    try:
        return call()
    except NotFound as error:
        raise NotFound(f"there is no run {run_id}; it may have been deleted", reason="RUN_NOT_FOUND") from error
