"""Validations, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.common.jobs import Backoff, Job, JobConnection, JobStore, JobWorkers, WorkerLimits
from services.common.jobs.housekeeping import DAY_S, Housekeeping, Kept
from services.common.jobs.news import JobNews
from services.common.jobs.workers import end_process
from services.common.server import Service
from services.trainer.datasets.materialising import Datasets
from services.trainer.parts import Parts
from services.trainer.store import RunFiles
from services.trainer.validating import servicer
from services.trainer.validating.planning import ValidationPlanning
from services.trainer.validating.store import ValidationStore
from services.trainer.validating.validating import Validating
from services.trainer.validating.validations import ValidationLimits, Validations
from services.trainer.validating.work import ValidationWork

SCHEMA, TABLE = "trainer", "validations"
HARD_LIMIT_MS = 3_600_000
"""The longest that a validation may take, waits between attempts included."""


def open_validations(parts: Parts, datasets: Datasets) -> tuple[Sequence[Service], Sequence[Callable[[], None]]]:
    """Open what validations need; gives the services, and what the health answer asks."""
    settings, store = parts.settings, ValidationStore()

    def ended(connection: JobConnection, job: Job) -> None:
        datasets.release(connection, job.job_id)

    jobs = JobStore(parts.database, SCHEMA, TABLE, on_end=ended)
    checks: list[Callable[[], None]] = []
    if settings.trainer_worker_enabled:
        work = ValidationWork(jobs, store, datasets, Validating(parts.open_client), parts.work_folder)
        limits = WorkerLimits(
            slots=settings.trainer_validations,
            lease_s=settings.trainer_lease_ms / 1000,
            poll_s=settings.poll_interval_ms / 1000,
            backoff=Backoff(base_s=1.0),
        )
        workers = JobWorkers(jobs, work, limits, on_stuck=end_process)
        workers.open()
        parts.stack.callback(workers.close, settings.drain_grace_ms / 1000)
        checks.append(workers.check)
    kept_s = settings.trainer_retention_days * DAY_S
    kept = Kept(jobs_s=kept_s, files_s=kept_s, blob_grace_s=settings.blob_grace_ms / 1000)
    interval_s = settings.trainer_housekeeping_interval_ms / 1000
    housekeeping = Housekeeping(jobs, RunFiles(parts.database), parts.blobs, kept, interval_s=interval_s)
    housekeeping.open()
    parts.stack.callback(housekeeping.close)
    news = JobNews(jobs.listen([jobs.changed], poll_interval_s=1.0))
    news.open()
    parts.stack.callback(news.close)
    limits_of_callers = ValidationLimits(HARD_LIMIT_MS, settings.trainer_max_unended)
    planning = ValidationPlanning(parts.open_client)
    does = Validations(jobs, store, datasets, planning, news, limits_of_callers)
    return (servicer.service(does),), checks
