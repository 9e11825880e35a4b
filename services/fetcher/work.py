"""The work on one fetch: ask the source, bring what lacks, register it.

Each step is safe to do again: parts that are noted are not asked for again, the name of the version is kept before it
is registered, and registering has the job's id as its request id.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from penstock.api.fetcher.v1.fetch_jobs_pb2 import FetchTarget
from penstock.api.registry.v1.registry_pb2 import ModelVersion
from services.common.errors import DomainError
from services.common.jobs import Backoff, Failure, Job, JobRun, JobStore, Progress
from services.fetcher.downloading.downloader import Awaited, Downloader
from services.fetcher.downloading.reading import DownloadDamaged
from services.fetcher.faults import (
    FileTooLarge,
    HostBusy,
    SourceChanged,
    StorageError,
    UnsupportedFramework,
)
from services.fetcher.layouts import carried, check_layout
from services.fetcher.lineage import not_done
from services.fetcher.models import Download, FetchResult, FetchSpec, Phase, Plan, kept
from services.fetcher.registering import Registering, Validating, check_framework
from services.fetcher.sources.catalogue import Sources
from services.fetcher.sources.looking import looked_at
from services.fetcher.sources.source import Source, Stopping
from services.fetcher.store.downloads import DownloadStore
from services.fetcher.store.fetches import FetchStore
from services.fetcher.telling import Telling

AWAIT_S, MOST_AWAIT_S = 2.0, 15.0
"""How long a job is put back for while another brings what it wants: an eighth of what it has waited, within these.

So that many who wait for a long download do not keep the workers busy with asking whether it is there.
"""
SPREAD = Backoff(base_s=1.0)
"""So that those who wait for the same host do not all come back at once."""


class FetchWork:
    """Does fetches; call it with a run. `max_bytes`: of all files of one fetch together."""

    def __init__(
        self,
        sources: Sources,
        downloader: Downloader,
        registering: Registering,
        jobs: JobStore,
        fetches: FetchStore,
        downloads: DownloadStore,
        *,
        max_bytes: int,
    ) -> None:
        self._sources = sources
        self._downloader = downloader
        self._registering = registering
        self._jobs = jobs
        self._fetches = fetches
        self._downloads = downloads
        self._max_bytes = max_bytes

    def __call__(self, run: JobRun) -> Mapping[str, Any] | None:
        """Do a fetch to its end; gives its result, or None where it was put back to wait: for another's download, its
        turn at a host, or the registry's validator.

        What it raises says how it ended, see `common.jobs.Work`.
        """
        spec = FetchSpec.of(run.job.payload)
        try:
            return asdict(self._fetched(run, spec, self._sources.of(spec.reference)))
        except Awaited:
            with run.holding() as connection:
                self._jobs.put_back(connection, run.lease, delay_s=_patience_s(run.job), counted=False)
            return None
        except Validating as validating:
            with run.holding() as connection:
                phase = Phase.VALIDATING if validating.own else Phase.DOWNLOADING
                self._fetches.enter(connection, run.job.job_id, phase)
                self._jobs.put_back(connection, run.lease, delay_s=_patience_s(run.job), counted=False)
            return None
        except HostBusy as busy:
            delay_s = SPREAD.delay_s(1, busy.retry_after_s)
            with run.holding() as connection:
                failure = Failure(busy.reason, busy.message)
                self._jobs.put_back(connection, run.lease, delay_s=delay_s, failure=failure, counted=False)
            return None
        except SourceChanged:
            with run.holding() as connection:
                self._fetches.forget_plan(connection, run.job.job_id)
            raise
        except DomainError as error:
            if error.reason.startswith("BLOB_"):
                raise StorageError(f"{error.message} ({error.reason})", retry_after_s=error.retry_after_s) from error
            raise

    def _fetched(self, run: JobRun, spec: FetchSpec, source: Source) -> FetchResult:
        if spec.phase is Phase.VALIDATING and (judged := self._judged(run, spec)):
            return judged
        plan, model = self._planned(run, spec, source)
        if there := self._registering.there(run, spec, plan, model):
            self._take_over(run, plan)
            return _result(there, spec, plan, existed=True)
        downloads = self._bring(run, source, plan)
        with run.holding() as connection:
            self._fetches.enter(connection, run.job.job_id, Phase.PROCESSING)
        version, existed = self._registered(run, spec, plan, model, downloads)
        brought = sum(download.size_bytes - download.reused_bytes for download in downloads.values())
        return _result(version, spec, plan, existed=existed, downloaded_bytes=brought)

    def _judged(self, run: JobRun, spec: FetchSpec) -> FetchResult | None:
        """Look again at the version that is registered; None: it is not there any more."""
        if spec.plan is None:
            return None
        with run.holding() as connection:
            self._fetches.enter(connection, run.job.job_id, Phase.PROCESSING)
        version = self._registering.judged(run, spec, spec.plan, spec.model)
        brought = run.job.progress.done - spec.reused_bytes
        return _result(version, spec, spec.plan, existed=False, downloaded_bytes=brought) if version else None

    def _take_over(self, run: JobRun, plan: Plan) -> None:
        """Say that all is here, in a version that is there."""
        with run.holding() as connection:
            reused_bytes = plan.size_bytes or 0
            self._jobs.report(connection, run.lease, Progress(done=reused_bytes, total=plan.size_bytes))
            done_files = len(plan.files)
            self._fetches.file_done(connection, run.job.job_id, done_files=done_files, reused_bytes=reused_bytes)

    def _registered(
        self, run: JobRun, spec: FetchSpec, plan: Plan, model: str, downloads: Mapping[str, Download]
    ) -> tuple[ModelVersion, bool]:
        """Register it; a download that turns out to be damaged is forgotten, and brought anew."""
        try:
            return self._registering.register(run, spec, plan, model, downloads)
        except DownloadDamaged as error:
            with run.holding() as connection:
                self._downloads.spoil(connection, error.download)
            raise SourceChanged(f"{error.message}; it is brought anew") from error

    def _planned(self, run: JobRun, spec: FetchSpec, source: Source) -> tuple[Plan, str]:
        """Give what is fetched, and into which model: as kept, or as the source says now."""
        if spec.plan is not None and spec.model:
            with run.holding() as connection:
                self._fetches.enter(connection, run.job.job_id, Phase.DOWNLOADING)
            return spec.plan, spec.model
        found = looked_at(source, spec.reference, Stopping(run.check, run.on_stop, run.forget))
        target = FetchTarget.FromString(spec.target)
        plan, left_out = carried(found.plan, target)
        plan, model = replace(plan, warnings=kept((*found.warnings, *left_out))), spec.model or found.suggested_model
        if not model:
            raise UnsupportedFramework("the source suggests no name for the model: name it")
        found.check(framework_named=bool(target.framework))
        check_framework(plan, target)
        check_layout(plan, target)
        if (plan.size_bytes or 0) > self._max_bytes:
            raise _too_many(f"{plan.size_bytes:,}", self._max_bytes)
        with run.holding() as connection:
            self._fetches.plan(connection, run.job.job_id, plan)
            self._fetches.name(connection, run.job.job_id, model, spec.version)
        return plan, model

    def _bring(self, run: JobRun, source: Source, plan: Plan) -> dict[str, Download]:
        """Bring all files, and say how far that is: of bytes and their speed twice a second, of files each."""
        whole: list[Download] = []
        here_bytes = 0

        def write(here: int, bytes_per_second: int) -> None:
            with run.holding() as connection:
                self._jobs.report(connection, run.lease, Progress(done=here, total=plan.size_bytes))
                self._fetches.flows(connection, run.job.job_id, bytes_per_second)

        def told(here: int) -> None:
            nonlocal here_bytes
            here_bytes = here
            telling.here(here)
            if here > self._max_bytes:
                raise _too_many(f"at least {here:,}", self._max_bytes)

        def done(download: Download) -> None:
            whole.append(download)
            reused_bytes = sum(each.reused_bytes for each in whole)
            with run.holding() as connection:
                self._jobs.report(connection, run.lease, Progress(done=here_bytes, total=plan.size_bytes))
                self._fetches.file_done(connection, run.job.job_id, done_files=len(whole), reused_bytes=reused_bytes)

        with Telling(write) as telling:
            return self._downloader.bring(run, source, plan.files, told, done, telling.came)


def _result(
    version: ModelVersion, spec: FetchSpec, plan: Plan, *, existed: bool, downloaded_bytes: int = 0
) -> FetchResult:
    return FetchResult(
        version.model,
        version.version,
        version.deployment_number,
        existed,
        downloaded_bytes=downloaded_bytes,
        warnings=(*plan.warnings, *not_done(version, FetchTarget.FromString(spec.target), existed=existed)),
    )


def _patience_s(job: Job) -> float:
    waited_s = (job.read_time - job.start_time).total_seconds() if job.start_time else 0.0
    return min(MOST_AWAIT_S, max(AWAIT_S, waited_s / 8))


def _too_many(said: str, most: int) -> FileTooLarge:
    allowed = f"{most:,} bytes that PENSTOCK_FETCHER_MAX_BYTES allows"
    return FileTooLarge(f"its files have {said} bytes together, more than the {allowed}")
