"""Training runs, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from services.common.cpus import cpu_count
from services.common.jobs import Backoff, Concurrency, Job, JobConnection, JobStore, JobWorkers, WorkerLimits
from services.common.jobs.housekeeping import DAY_S, Housekeeping, Kept
from services.common.jobs.news import JobNews
from services.common.jobs.workers import end_process
from services.common.server import Service
from services.trainer.datasets.materialising import Datasets
from services.trainer.executing.local import LocalExecutor, LocalLimits
from services.trainer.parts import Parts
from services.trainer.recipes.catalogue import Catalogue
from services.trainer.registering.registering import Registering
from services.trainer.runs import servicer
from services.trainer.runs.folders import Folders
from services.trainer.runs.metrics import TrainingCollector, TrainingCounters
from services.trainer.runs.models import ExecutorName
from services.trainer.runs.parents import Parents
from services.trainer.runs.planning import Planning
from services.trainer.runs.runs import RunLimits, Runs
from services.trainer.runs.store import RunStore
from services.trainer.runs.work import Profiling, Steps, TrainingWork, WorkLimits
from services.trainer.scripts.catalog import Scripts
from services.trainer.store import PassingBlobs, RunFiles
from services.trainer.task import Executor
from services.trainer.validating.validating import Validating
from services.trainer.workers.assembly import Outside

SCHEMA, TABLE = "trainer", "training_runs"


def open_runs(
    parts: Parts,
    datasets: Datasets,
    scripts: Scripts,
    outside: Outside,
    profiling: Profiling,
) -> tuple[Sequence[Service], Sequence[Callable[[], None]]]:
    """Open what runs need; gives the services, and what the health answer asks."""
    catalogue = Catalogue(scripts_enabled=parts.settings.trainer_scripts_enabled)
    settings, store = parts.settings, RunStore(parts.database)

    def ended(connection: JobConnection, job: Job) -> None:
        datasets.release(connection, job.job_id)
        outside.ended(connection, job.job_id)

    local = LocalLimits(
        max_output_bytes=settings.trainer_max_artifact_bytes,
        threads=max(1, cpu_count() // settings.trainer_runs),
        script_network=settings.trainer_scripts_network_enabled,
        require_sandbox=settings.trainer_require_sandbox,
    )
    executors: dict[ExecutorName, Executor] = {ExecutorName.LOCAL: LocalExecutor(local), **outside.executors}
    jobs = JobStore(parts.database, SCHEMA, TABLE, on_end=ended)
    checks: list[Callable[[], None]] = []
    busy: Callable[[], int] = lambda: 0  # noqa: E731 - in the place of the workers'
    if settings.trainer_worker_enabled:
        workers = _workers(parts, jobs, store, Steps(
            datasets=datasets,
            scripts=scripts,
            parents=Parents(parts.open_client, settings.trainer_max_artifact_bytes),
            executors=executors,
            registering=Registering(parts.open_client),
            profiling=profiling,
            validating=Validating(parts.open_client),
            reads_parent=catalogue.reads_parent,
        ))  # fmt: skip
        checks.append(workers.check)
        busy = lambda: workers.busy_count  # noqa: E731
    parts.metrics.register(TrainingCollector(jobs, busy))
    kept_s = settings.trainer_retention_days * DAY_S
    kept = Kept(jobs_s=kept_s, files_s=kept_s, blob_grace_s=settings.blob_grace_ms / 1000)
    interval_s = settings.trainer_housekeeping_interval_ms / 1000
    housekeeping = Housekeeping(jobs, RunFiles(parts.database), parts.blobs, kept, interval_s=interval_s)
    housekeeping.open()
    parts.stack.callback(housekeeping.close)
    news = JobNews(jobs.listen([jobs.changed], poll_interval_s=1.0))
    news.open()
    parts.stack.callback(news.close)
    planning = Planning(parts.open_client, datasets, scripts, catalogue, frozenset(executors))
    limits = RunLimits(hard_limit_ms=settings.trainer_hard_limit_ms, max_unended=settings.trainer_max_unended)
    does = Runs(jobs, store, datasets, scripts, planning, catalogue, news, limits)
    return (servicer.service(does),), checks


def _workers(parts: Parts, jobs: JobStore, store: RunStore, steps: Steps) -> JobWorkers:
    settings = parts.settings
    folders = Folders(PassingBlobs(parts.database, parts.blobs), settings.trainer_max_artifact_bytes)
    limits = WorkLimits(
        time_limit_s=settings.trainer_time_limit_ms / 1000,
        memory_limit_bytes=settings.trainer_memory_limit_bytes,
        work_folder=parts.work_folder,
    )
    work = TrainingWork(jobs, store, folders, steps, limits)
    workers = JobWorkers(
        jobs,
        TrainingCounters(parts.metrics).counted(work),
        WorkerLimits(
            slots=settings.trainer_runs,
            lease_s=settings.trainer_lease_ms / 1000,
            poll_s=settings.poll_interval_ms / 1000,
            concurrency=Concurrency(total=settings.trainer_max_running),
            backoff=Backoff(base_s=1.0),
        ),
        on_stuck=end_process,
    )
    workers.open()
    parts.stack.callback(workers.close, settings.drain_grace_ms / 1000)
    return workers
