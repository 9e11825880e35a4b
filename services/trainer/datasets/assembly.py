"""Datasets, put together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from services.common.jobs import Backoff, JobStore, JobWorkers, WorkerLimits
from services.common.jobs.housekeeping import DAY_S, Housekeeping, Kept
from services.common.jobs.workers import end_process
from services.common.server import Service
from services.trainer.datasets import servicer
from services.trainer.datasets.builds import Builds, BuildWork
from services.trainer.datasets.catalog import Catalog
from services.trainer.datasets.dividing import Dividing
from services.trainer.datasets.feature_rows import FeatureRows
from services.trainer.datasets.files import RowFiles
from services.trainer.datasets.materialising import Datasets
from services.trainer.datasets.rows.limits import RowLimits
from services.trainer.datasets.rows.reader import ReadLimits
from services.trainer.datasets.store import DatasetStore
from services.trainer.datasets.traffic import Traffic
from services.trainer.datasets.uploads import Uploads
from services.trainer.parts import Parts

SCHEMA: Final = "trainer"
TABLE: Final = "dataset_builds"


def open_datasets(parts: Parts) -> tuple[Datasets, Sequence[Service], Sequence[Callable[[], None]]]:
    """Open what datasets need; gives what runs call, the services, and what the health answer asks."""
    settings = parts.settings
    store = DatasetStore(parts.database)
    files = RowFiles(store, parts.blobs, parts.work_folder, settings.dataset_max_unpacked_bytes)
    limits = ReadLimits(
        RowLimits(settings.dataset_max_rows, settings.dataset_max_columns, settings.dataset_max_unpacked_bytes),
        memory_bytes=settings.dataset_read_memory_bytes,
        timeout_s=settings.dataset_read_timeout_ms / 1000,
    )
    builds: Builds
    jobs = JobStore(parts.database, SCHEMA, TABLE, on_end=lambda connection, job: builds.ended(connection, job))
    builds = Builds(
        store,
        jobs,
        has_monitoring=bool(settings.monitoring_address),
        max_unended=settings.trainer_max_unended,
        hard_limit_ms=settings.trainer_hard_limit_ms,
    )
    checks = []
    if settings.trainer_worker_enabled:
        traffic = Traffic(parts.open_client, limits.rows)
        work = BuildWork(store, files, traffic, FeatureRows(parts.open_client), jobs, limits)
        workers = JobWorkers(
            jobs,
            work,
            WorkerLimits(
                slots=settings.dataset_builds,
                lease_s=settings.trainer_lease_ms / 1000,
                poll_s=settings.poll_interval_ms / 1000,
                backoff=Backoff(base_s=1.0),
            ),
            on_stuck=end_process,
        )
        workers.open()
        parts.stack.callback(workers.close, settings.drain_grace_ms / 1000)
        checks.append(workers.check)
    kept = Kept(
        jobs_s=settings.trainer_retention_days * DAY_S,
        files_s=0.0,
        blob_grace_s=settings.blob_grace_ms / 1000,
    )
    interval_s = settings.trainer_housekeeping_interval_ms / 1000
    housekeeping = Housekeeping(jobs, store, parts.blobs, kept, interval_s=interval_s)
    housekeeping.open()
    parts.stack.callback(housekeeping.close)
    catalog = Catalog(store, files, Dividing(store, files), jobs)
    uploads = Uploads(store, files, limits, settings.dataset_max_bytes)
    return Datasets(store, files, builds), (servicer.service(catalog, uploads, builds),), checks
