"""Versions of rows that lie elsewhere: leased jobs that gather them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import pyarrow as pa

from penstock.ids import uuid7
from services.common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from services.common.jobs import Job, JobConnection, JobRun, JobState, JobStore, NewJob, Progress
from services.common.keys import Principal
from services.trainer.datasets.catalog import ready
from services.trainer.datasets.faults import BuildFailed
from services.trainer.datasets.feature_rows import FeatureRows
from services.trainer.datasets.files import RowFiles
from services.trainer.datasets.kinds import DatasetFormat
from services.trainer.datasets.models import Dataset, NewVersion, Source, reference_of
from services.trainer.datasets.rows.limits import RowLimits, too_many_rows
from services.trainer.datasets.rows.reader import ReadLimits, read_file
from services.trainer.datasets.rows.writing import write_rows
from services.trainer.datasets.store import DatasetStore
from services.trainer.datasets.traffic import TYPES, Traffic

MAX_ATTEMPTS: Final = 5


@dataclass(frozen=True, slots=True)
class NewBuild:
    """What a request says."""

    name: str
    source: Source
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    request_id: str = ""
    body_sha256: str = ""


class Builds:
    """Begins builds."""

    def __init__(
        self, store: DatasetStore, jobs: JobStore, *, has_monitoring: bool, max_unended: int, hard_limit_ms: int
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._has_monitoring = has_monitoring
        self._max_unended = max_unended
        self._hard_limit_ms = hard_limit_ms

    def create(self, new: NewBuild, principal: Principal) -> Dataset:
        """Begin a version; see the contract for what is raised."""
        if new.source.traffic is not None and not self._has_monitoring:
            sentence = "no monitoring is configured; set PENSTOCK_MONITORING_ADDRESS where the trainer runs"
            raise FailedPrecondition(sentence, reason="MONITORING_NOT_CONFIGURED")
        version = NewVersion(
            version_id=UUID(uuid7()),
            name=new.name,
            source=self._resolved(new.source),
            created_by=principal.name,
            description=new.description,
            labels=new.labels,
            request_id=new.request_id,
            body_sha256=new.body_sha256,
        )
        with self._store.transaction() as connection:
            self._store.lock(connection, new.name)
            known = self._store.repeated(connection, version)
            if known is None:
                self._store.insert(connection, version)
                self._queue(connection, version)
        return known[0] if known else self._store.by_id(version.version_id)

    def ended(self, connection: JobConnection, job: Job) -> None:
        """Hear of a build's end; one that did not come to rows leaves a version that says why."""
        if job.state is not JobState.COMPLETED:
            message = job.error.message or "somebody ended it"
            self._store.fail(connection, job.payload["version_id"], message)

    def _resolved(self, source: Source) -> Source:
        """Fix which version of other rows is read."""
        if source.features is None:
            return source
        found = ready(self._store.get(*reference_of("source.features.rows", source.features.rows)))
        return replace(source, features=replace(source.features, rows=found.reference))

    def _queue(self, connection: JobConnection, version: NewVersion) -> None:
        job = NewJob(
            job_id=version.version_id,
            created_by=version.created_by,
            payload={"version_id": version.version_id},
            max_attempts=MAX_ATTEMPTS,
            hard_limit_ms=self._hard_limit_ms,
        )
        self._jobs.insert(connection, job)
        if self._store.unended(connection, version.created_by) > self._max_unended:
            sentence = f"{self._max_unended:,} builds of this key have not ended; wait for some"
            raise ResourceExhausted(sentence, reason="TOO_MANY_JOBS")


class BuildWork:
    """Gathers the rows of one version; call it with a job's run."""

    def __init__(
        self,
        store: DatasetStore,
        files: RowFiles,
        traffic: Traffic,
        features: FeatureRows,
        jobs: JobStore,
        limits: ReadLimits,
    ) -> None:
        self._store = store
        self._files = files
        self._traffic = traffic
        self._features = features
        self._jobs = jobs
        self._limits = limits

    def __call__(self, run: JobRun) -> Mapping[str, Any] | None:
        """Gather, store and name the rows. What it raises says how it ended, see `common.jobs.Work`."""
        dataset = self._store.by_id(run.job.payload["version_id"])

        def check(rows: int) -> None:
            run.report(Progress(done=rows))

        with self._files.scratch() as folder:
            rows = folder / "rows.parquet"
            try:
                found = write_rows(self._batches(run, dataset.source, folder, check), rows, run.check)
            except InvalidArgument as error:
                # Nobody sent these rows: it is no request that is wrong.
                raise BuildFailed(error.message, reason=error.reason) from error
            blob = self._files.keep(rows, run.check)
        with run.holding() as connection:
            self._store.finish(connection, dataset.version_id, found, (blob.sha256, blob.size_bytes))
            self._jobs.complete(connection, run.lease, {"row_count": found.row_count})
        return None

    def _batches(
        self, run: JobRun, source: Source, folder: Path, check: Callable[[int], None]
    ) -> Iterator[pa.RecordBatch]:
        if source.traffic is not None:
            lines = self._traffic.write(source.traffic, folder, run, check)
            yield from read_file(lines, DatasetFormat.JSON, TYPES, self._limits, folder, run.check)
        elif source.features is not None:
            rows = ready(self._store.get(*reference_of("source.features.rows", source.features.rows)))
            with self._files.brought(self._store.blob(rows.version_id), lambda: check(0)) as path:
                yield from _bounded(self._features.batches(source.features, path, run, check), self._limits.rows)
        else:
            raise BuildFailed("it says neither live traffic nor feature views", reason="SOURCE_REQUIRED")


def _bounded(batches: Iterator[pa.RecordBatch], limits: RowLimits) -> Iterator[pa.RecordBatch]:
    count = 0
    for batch in batches:
        count += batch.num_rows
        if count > limits.max_rows:
            raise too_many_rows(limits)
        if batch.num_columns > limits.max_columns:
            raise BuildFailed(f"{batch.num_columns:,} columns; {limits.max_columns:,} are allowed", reason="TOO_MANY")
        yield batch
