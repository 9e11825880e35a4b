"""The jobs process: `python -m services.inference.jobs` serves; with `migrate` it only brings its schema up to date.

It has an engine of its own, composed as that of the inference process: jobs are callers of an engine like any other.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import timedelta

import structlog

from services.common.blobs import BlobStore
from services.common.clients import client_of
from services.common.datasets import NO_DATASETS, NamedDatasets
from services.common.jobs import Concurrency, JobStore, JobWorkers, WorkerLimits
from services.common.jobs.housekeeping import DAY_S, Housekeeping, Kept
from services.common.jobs.news import JobNews
from services.common.jobs.workers import end_process
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.postgres import Database
from services.common.process import run
from services.common.scratch import Scratch
from services.common.server import Server
from services.common.traces import open_traces
from services.inference.composition import engine_limits, follow, open_sessions, open_spool
from services.inference.engine.engine import Engine
from services.inference.following.catalog import Catalog
from services.inference.jobs import servicer
from services.inference.jobs.inputs import InputFiles
from services.inference.jobs.metrics import JobsCollector, RowCounters
from services.inference.jobs.predictions import PredictionLimits, Predictions
from services.inference.jobs.rows import ReadLimits
from services.inference.jobs.settings import JobsSettings
from services.inference.jobs.storage import SCHEMA, TABLE, allowed_files, migrate_schema, open_inference_blobs
from services.inference.jobs.store.chunks import ChunkStore
from services.inference.jobs.store.files import FileStore
from services.inference.jobs.work import PredictionWork, Tables, WorkLimits
from services.inference.metrics import InferenceCollector
from services.inference.workers.membership import OnlyProcess

_log = structlog.get_logger(__name__)


def build(settings: JobsSettings, stack: ExitStack) -> Server:
    """Open all that the server stands on; `stack` closes it in reverse."""
    keys = KeyRing(settings.keys_file)
    keys.open()
    database = stack.enter_context(Database.from_settings(settings, name="penstock-jobs"))
    blobs = open_inference_blobs(settings)
    stack.callback(blobs.close)
    metrics = MetricsServer(settings.host, settings.metrics_port)
    traces = open_traces("inference.jobs", settings, stack)
    tables = Tables(JobStore(database, SCHEMA, TABLE), ChunkStore(database), FileStore(database), blobs)
    catalog = Catalog()
    scratch = Scratch(settings.job_dir, "penstock-jobs-")
    scratch.open()
    stack.callback(scratch.close)
    inputs = InputFiles(
        tables.files,
        blobs,
        allowed=allowed_files(settings),
        max_bytes=settings.job_max_input_bytes,
        max_unused_bytes=settings.job_max_unused_input_bytes,
        folder=scratch.folder,
        datasets=_datasets(settings),
    )
    counters = RowCounters()
    workers = _workers(settings, stack, catalog, inputs, tables, counters, metrics)
    lease_s = settings.job_lease_ms / 1000
    metrics.registry.register(JobsCollector(tables.jobs, counters, lambda: workers.busy_count, live_s=lease_s))
    _keep_house(settings, stack, tables, blobs)
    news = JobNews(tables.jobs.listen([tables.jobs.changed], poll_interval_s=1.0))
    news.open()
    stack.callback(news.close)
    limits = PredictionLimits(
        hard_limit_ms=settings.job_hard_limit_ms,
        max_unended=settings.job_max_unended,
        max_waits=settings.job_max_waits,
        lease_s=lease_s,
        retention=timedelta(days=settings.job_retention_days),
    )
    predictions = Predictions(
        tables.jobs, tables.chunks, tables.files, blobs, inputs, news, limits, draining=lambda: server.draining
    )
    server = Server(
        settings,
        [servicer.service(predictions, inputs)],
        keys=keys,
        metrics=metrics,
        checks=(database.check, blobs.check, catalog.check, workers.check),
        traces=traces,
    )
    return server


def _datasets(settings: JobsSettings) -> NamedDatasets:
    if not settings.trainer_address:
        return NO_DATASETS
    return NamedDatasets(lambda: client_of(settings, trainer=settings.trainer_address))


def _workers(
    settings: JobsSettings,
    stack: ExitStack,
    catalog: Catalog,
    inputs: InputFiles,
    tables: Tables,
    counters: RowCounters,
    metrics: MetricsServer,
) -> JobWorkers:
    member = OnlyProcess()
    sessions = open_sessions(settings, stack, member)
    engine = Engine(catalog, sessions, engine_limits(settings), member.counters)
    spool = open_spool(settings, stack, member)
    metrics.registry.register(InferenceCollector(engine, sessions, spool, member.counters))
    follow(settings, stack, catalog, sessions, member)
    work = PredictionWork(
        catalog,
        engine,
        spool,
        inputs,
        tables,
        WorkLimits(
            read=ReadLimits(
                max_row_bytes=settings.job_max_row_bytes,
                max_unpacked_bytes=settings.job_max_unpacked_bytes,
                max_rows=settings.job_max_rows,
            ),
            batch_rows=settings.job_batch_rows,
            chunk_rows=settings.job_chunk_rows,
            chunk_s=settings.job_chunk_ms / 1000,
            # All workers may let theirs go at one moment, while half of the queue still waits for the disk.
            held_events=max(1, settings.spool_queue_events // (2 * max(1, settings.job_workers))),
            max_result_bytes=settings.job_max_result_bytes,
        ),
        counters,
    )
    concurrency = Concurrency(total=settings.job_max_running, per_key=settings.job_max_running_per_model)
    limits = WorkerLimits(
        slots=settings.job_workers,
        lease_s=settings.job_lease_ms / 1000,
        stuck_after_s=settings.job_stuck_ms / 1000,
        concurrency=concurrency,
    )
    workers = JobWorkers(tables.jobs, work, limits, on_stuck=end_process)
    workers.open()
    stack.callback(workers.close, settings.drain_grace_ms / 1000)
    return workers


def _keep_house(settings: JobsSettings, stack: ExitStack, tables: Tables, blobs: BlobStore) -> None:
    kept = Kept(
        jobs_s=settings.job_retention_days * DAY_S,
        files_s=settings.job_input_retention_days * DAY_S,
        blob_grace_s=settings.blob_grace_ms / 1000,
    )
    interval_s = settings.job_housekeeping_interval_ms / 1000
    housekeeping = Housekeeping(tables.jobs, tables.files, blobs, kept, interval_s=interval_s)
    housekeeping.open()
    stack.callback(housekeeping.close)


if __name__ == "__main__":
    sys.exit(run("inference.jobs", sys.argv[1:], JobsSettings, build, migrate=migrate_schema))
