"""The fetcher's process: `python -m services.fetcher` serves; with `migrate` it only brings its schema up to date."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from datetime import timedelta
from functools import partial
from pathlib import Path

from services.common.addresses import AddressRules, AllowedHosts, OnlyHosts
from services.common.blobs import BlobStore, open_passing_blobs
from services.common.clients import client_of
from services.common.jobs import Backoff, Concurrency, Job, JobConnection, JobStore, JobWorkers, WorkerLimits
from services.common.jobs.housekeeping import DAY_S, Housekeeping, Kept
from services.common.jobs.news import JobNews
from services.common.jobs.workers import end_process
from services.common.keys import KeyRing
from services.common.metrics import MetricsServer
from services.common.migrate import migrate
from services.common.postgres import Database
from services.common.process import run
from services.common.server import Server
from services.common.settings import MEBIBYTE
from services.common.traces import open_traces
from services.fetcher import servicer
from services.fetcher.downloading.downloader import Downloader, DownloadLimits
from services.fetcher.fetches import Fetches, FetchLimits
from services.fetcher.leftovers import Leftovers
from services.fetcher.metrics import FetchCollector, FetchCounters
from services.fetcher.notifications.assembly import open_webhooks
from services.fetcher.registering import Registering
from services.fetcher.schedules.assembly import Parts, open_schedules
from services.fetcher.schedules.store import ScheduleStore
from services.fetcher.settings import FetcherSettings
from services.fetcher.sources import servicer as source_servicer
from services.fetcher.sources.catalogue import Sources
from services.fetcher.sources.filesystem import FilesystemSource
from services.fetcher.sources.http import GuardedHttp, HttpLimits
from services.fetcher.sources.hub import Hub
from services.fetcher.sources.huggingface import HuggingFaceSource
from services.fetcher.sources.oci import OciSource
from services.fetcher.sources.oci_login import AuthFile
from services.fetcher.sources.s3 import S3Access, S3Source
from services.fetcher.sources.url import UrlSource
from services.fetcher.store.downloads import DownloadStore
from services.fetcher.store.fetches import FetchStore
from services.fetcher.store.hosts import HostStore, Rate
from services.fetcher.throttle import HostLimits, Throttle
from services.fetcher.work import FetchWork

SCHEMA, TABLE = "fetcher", "fetch_jobs"
MIGRATIONS = Path(__file__).with_name("migrations")
FILE_PART_BYTES, S3_PART_BYTES = 8 * MEBIBYTE, 5 * MEBIBYTE
"""Of S3 what fits into one request, so that no object is copied once its digest is known."""
HOUR_S = 3_600.0


def migrate_schema(settings: FetcherSettings) -> tuple[str, ...]:
    """Bring the schema up to date; names what was applied."""
    return migrate(settings.database_url.get_secret_value(), SCHEMA, MIGRATIONS)


def build(settings: FetcherSettings, stack: ExitStack) -> Server:
    """Build the fetcher on what its settings name; what is opened on the way, the stack closes."""
    keys = KeyRing(settings.keys_file)
    keys.open()
    database = stack.enter_context(Database.from_settings(settings, name="penstock-fetcher"))
    blobs = _blobs(settings)
    stack.callback(blobs.close)
    metrics = MetricsServer(settings.host, settings.metrics_port)
    traces = open_traces("fetcher", settings, stack)
    fetches, downloads = FetchStore(), DownloadStore(database)
    webhooks = open_webhooks(settings, database, fetches, metrics.registry, stack)
    schedule_store = ScheduleStore(database)

    def ended(connection: JobConnection, job: Job) -> None:
        webhooks.tell(connection, job)
        schedule_store.ended(connection, job)

    jobs = JobStore(database, SCHEMA, TABLE, on_end=ended)
    counters = FetchCounters(metrics.registry)
    sources = _sources(settings, Throttle(HostStore(database), _host_limits(settings), counters))
    open_client = partial(client_of, settings, registry=settings.registry_address)
    checks = [database.check, blobs.check]
    workers = None
    if settings.fetcher_worker_enabled:
        registering = Registering(open_client, fetches, blobs)
        workers = _workers(settings, stack, jobs, fetches, downloads, blobs, sources, registering, counters)
        checks.append(workers.check)
    metrics.registry.register(FetchCollector(jobs, lambda: workers.busy_count if workers else 0))
    kept = Kept(
        jobs_s=settings.fetcher_retention_days * DAY_S,
        files_s=settings.fetcher_download_retention_hours * HOUR_S,
        blob_grace_s=settings.blob_grace_ms / 1000,
    )
    interval_s = settings.fetcher_housekeeping_interval_ms / 1000
    leftovers = Leftovers(jobs, fetches, stack.enter_context(open_client()))
    housekeeping = Housekeeping(jobs, downloads, blobs, kept, interval_s=interval_s, also=leftovers.clear)
    housekeeping.open()
    stack.callback(housekeeping.close)
    news = JobNews(jobs.listen([jobs.changed], poll_interval_s=1.0))
    news.open()
    stack.callback(news.close)
    limits = FetchLimits(
        hard_limit_ms=settings.fetcher_hard_limit_ms,
        max_unended=settings.fetcher_max_unended,
        retention=timedelta(days=settings.fetcher_retention_days),
        lease_s=settings.fetcher_lease_ms / 1000,
    )
    does = Fetches(jobs, fetches, downloads, sources, webhooks, news, limits)
    parts = Parts(schedule_store, jobs, fetches, sources, webhooks, metrics.registry)
    schedules, schedule_checks = open_schedules(settings, parts, stack)
    checks += schedule_checks
    served = (servicer.service(does), source_servicer.service(does), schedules)
    return Server(settings, served, keys=keys, metrics=metrics, checks=tuple(checks), traces=traces)


def _workers(
    settings: FetcherSettings,
    stack: ExitStack,
    jobs: JobStore,
    fetches: FetchStore,
    downloads: DownloadStore,
    blobs: BlobStore,
    sources: Sources,
    registering: Registering,
    counters: FetchCounters,
) -> JobWorkers:
    part_bytes = S3_PART_BYTES if settings.blob_url.startswith("s3:") else FILE_PART_BYTES
    limits = DownloadLimits(
        part_bytes=part_bytes,
        max_file_bytes=settings.fetcher_max_file_bytes,
        reserve_bytes=settings.fetcher_reserve_bytes,
        connections=settings.fetcher_connections,
    )
    work = FetchWork(
        sources,
        Downloader(downloads, blobs, limits),
        registering,
        jobs,
        fetches,
        downloads,
        max_bytes=settings.fetcher_max_bytes,
    )
    workers = JobWorkers(
        jobs,
        counters.counted(work),
        WorkerLimits(
            slots=settings.fetcher_jobs,
            lease_s=settings.fetcher_lease_ms / 1000,
            poll_s=settings.poll_interval_ms / 1000,
            concurrency=Concurrency(total=settings.fetcher_max_running, per_key=settings.fetcher_max_running_per_host),
            backoff=Backoff(base_s=settings.fetcher_backoff_ms / 1000),
        ),
        on_stuck=end_process,
    )
    workers.open()
    stack.callback(workers.close, settings.drain_grace_ms / 1000)
    return workers


def _host_limits(settings: FetcherSettings) -> HostLimits:
    bytes_per_s = settings.fetcher_host_bytes_per_second
    return HostLimits(
        requests=Rate(per_s=settings.fetcher_host_requests_per_second, burst=settings.fetcher_host_burst),
        bytes=Rate(per_s=bytes_per_s, burst=bytes_per_s) if bytes_per_s else None,
    )


def _sources(settings: FetcherSettings, throttle: Throttle) -> Sources:
    limits = HttpLimits(
        connect_s=settings.fetcher_connect_timeout_ms / 1000,
        silence_s=settings.fetcher_silence_timeout_ms / 1000,
        floor_bytes_per_s=settings.fetcher_floor_bytes_per_s,
        floor_s=settings.fetcher_silence_timeout_ms / 1000,
    )
    rules = AddressRules(
        AllowedHosts.parse(settings.fetcher_allowed_hosts),
        only=OnlyHosts.parse(settings.fetcher_only_hosts),
        schemes=frozenset(settings.fetcher_schemes),
        ports=settings.fetcher_allowed_ports,
        setting="PENSTOCK_FETCHER_ALLOWED_HOSTS where the fetcher runs",
    )
    http = GuardedHttp(rules, limits, ca_file=settings.fetcher_ca_file, throttle=throttle)
    s3 = _s3_access(settings)
    s3_http = GuardedHttp(AddressRules(s3.allowed_hosts), limits, ca_file=settings.fetcher_ca_file, throttle=throttle)
    return Sources(
        [
            FilesystemSource(settings.fetcher_roots),
            HuggingFaceSource(Hub(http, settings.fetcher_hf_endpoint, settings.fetcher_hf_token)),
            OciSource(http, AuthFile(settings.fetcher_oci_auth_file), settings.fetcher_oci_plain_hosts),
            S3Source(s3, settings.fetcher_s3_buckets, s3_http),
            UrlSource(http),
        ]
    )


def _s3_access(settings: FetcherSettings) -> S3Access:
    access_key, secret_key = settings.fetcher_s3_access_key, settings.fetcher_s3_secret_key
    return S3Access(
        settings.fetcher_s3_endpoint,
        settings.fetcher_s3_region,
        access_key.get_secret_value() if access_key else "",
        secret_key.get_secret_value() if secret_key else "",
    )


def _blobs(settings: FetcherSettings) -> BlobStore:
    access_key, secret_key = settings.blob_access_key, settings.blob_secret_key
    return open_passing_blobs(
        settings.blob_url,
        prefix="fetcher",
        access_key=access_key.get_secret_value() if access_key else None,
        secret_key=secret_key.get_secret_value() if secret_key else None,
    )


if __name__ == "__main__":
    sys.exit(run("fetcher", sys.argv[1:], FetcherSettings, build, migrate=migrate_schema))
