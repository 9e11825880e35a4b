"""The work on one job: rows in, chunks of results out, and in the end one file of all of them.

What is done is made safe chunk by chunk, each written while the lease is held. Whoever takes the job over goes on after
the last one; rows that were predicted and not made safe are predicted again, stand in the result once, and count in
monitoring once at most (`held_events`). A job that failed because too many rows did begins with these when it is tried
again: the others are not predicted anew. A row that failed counts in monitoring at each try, as it does for every
caller; a retry that is taken over tries those that still fail once more.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice

from penstock.api.inference.v1.prediction_jobs_pb2 import RowsInput
from services.common.blobs import Blob, BlobStore
from services.common.errors import FailedPrecondition
from services.common.jobs import JobRun, JobStore, Progress
from services.inference.engine.engine import Engine
from services.inference.events.events import EventLog, EventQueue
from services.inference.following.catalog import Catalog
from services.inference.jobs import readers, results
from services.inference.jobs.batches import RowPredictor
from services.inference.jobs.held_events import HeldEvents
from services.inference.jobs.inputs import InputFiles
from services.inference.jobs.metrics import RowCounters
from services.inference.jobs.models import Chunk, Done, InputKind, PredictionSpec, RowResult
from services.inference.jobs.rows import ReadLimits, Row, batches_of
from services.inference.jobs.store.chunks import ChunkStore
from services.inference.jobs.store.files import FileStore
from services.inference.models import Caller, ResolvedVersion, Signature
from services.inference.prediction import Predictor

HEARING_S = 0.2
MAX_CHUNK_WEIGHT = 4_000_000
"""Values in a chunk that is held in memory."""


@dataclass(frozen=True, slots=True)
class WorkLimits:
    """How rows are read, put together and made safe; sizes in bytes.

    Rows are made safe as soon as they have left `held_events`, for these go out at once.
    """

    read: ReadLimits
    batch_rows: int
    chunk_rows: int
    chunk_s: float
    held_events: int
    max_result_bytes: int


@dataclass(frozen=True, slots=True)
class Tables:
    """What the work is written to."""

    jobs: JobStore
    chunks: ChunkStore
    files: FileStore
    blobs: BlobStore


class PredictionWork:
    """Does prediction jobs; call it with a run. Predictions leave events in `events`, None: they leave none."""

    def __init__(
        self,
        catalog: Catalog,
        engine: Engine,
        events: EventQueue | None,
        inputs: InputFiles,
        tables: Tables,
        limits: WorkLimits,
        counters: RowCounters,
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._events = events
        self._inputs = inputs
        self._tables = tables
        self._limits = limits
        self._counters = counters

    def __call__(self, run: JobRun) -> None:
        """Do a job to its end; what it raises says how it ended, see `Work`.

        Raises:
            FailedPrecondition: VERSION_CHANGED, TOO_MANY_FAILED_ROWS, ALL_ROWS_FAILED, and as readers and inputs do.
            DomainError: what Catalog.resolve and the engine raise, for what concerns more than a row.
        """
        spec = PredictionSpec.of(run.job.payload)
        version = self._version(run, spec)
        schema = results.schema_of(version, spec.outputs)
        done = self._tables.chunks.done(run.job.job_id)
        attempt = _Attempt(run, spec, self._tables, self._limits, schema, done, self._counters)
        held = None
        if spec.record_events and self._events is not None:
            held = HeldEvents(self._events, max_events=self._limits.held_events)
        job_id = str(run.job.job_id)
        rows = RowPredictor(
            Predictor(self._catalog, self._engine, EventLog(held)),
            version,
            Caller(user_id=spec.user_id, session_id=job_id, request_id=job_id),
            run,
            outputs=spec.outputs,
            batch_rows=self._limits.batch_rows,
            events=held,
        )
        if spec.kind is InputKind.SINGLE:
            if not attempt.done.chunk_count:
                attempt.take(rows.predict_single(spec.request), rows)
        else:
            self._predict_rows(run, spec, version, attempt, rows)
        attempt.finish(rows)

    def _predict_rows(
        self, run: JobRun, spec: PredictionSpec, version: ResolvedVersion, attempt: _Attempt, rows: RowPredictor
    ) -> None:
        with ExitStack() as stack:
            source: Iterable[Row]
            if spec.file is None:
                source = RowsInput.FromString(spec.request).rows
                attempt.total = len(source)
            else:
                path = stack.enter_context(self._inputs.brought(spec.file, run.check, _names(version.signature)))
                attempt.total = readers.count_rows(path, spec.file.format, self._limits.read, run.check)
                source = readers.rows_of(path, spec.file.format, version.signature, self._limits.read)
            run.check()
            waiting = iter(source)
            if attempt.too_many_failed:
                attempt.try_again(waiting, rows)
            else:
                deque(_picked(waiting, (), attempt.done.row_count, run), maxlen=0)
            for batch in batches_of(waiting, rows.batch_rows):
                run.check()
                attempt.take(rows.predict(batch), rows)

    def _version(self, run: JobRun, spec: PredictionSpec) -> ResolvedVersion:
        """Find the version, and keep it: a job that is taken over or tried again goes on with the same."""
        while not self._catalog.heard:  # at the start; no fault of the job's, and so no attempt
            run.wait(HEARING_S)
        version = self._catalog.resolve(spec.model, spec.resolved_version or spec.version)
        if not spec.resolved_version:
            with run.holding() as connection:
                self._tables.chunks.resolve(connection, run.job.job_id, version.version, version.digest)
        elif (version.version, version.digest) != (spec.resolved_version, spec.version_digest):
            raise FailedPrecondition(
                f"version {spec.resolved_version} of {spec.model} is not what it was when this job began; create a new "
                "job",
                reason="VERSION_CHANGED",
            )
        return version


class _Attempt:
    """What one attempt has done: results wait here until they make a chunk."""

    def __init__(
        self,
        run: JobRun,
        spec: PredictionSpec,
        tables: Tables,
        limits: WorkLimits,
        schema: object,
        done: Done,
        counters: RowCounters,
    ) -> None:
        self._run = run
        self._spec = spec
        self._tables = tables
        self._limits = limits
        self._schema = schema
        self._counters = counters
        self._waiting: list[RowResult] = []
        self._weight = 0
        self._since = time.monotonic()
        self.done = done
        self.total: int | None = None

    @property
    def too_many_failed(self) -> bool:
        """Whether more rows failed, of those that are safe, than may."""
        most = self._spec.max_failed_rows
        return most is not None and self.done.failed_count > most

    def try_again(self, source: Iterator[Row], predictor: RowPredictor) -> None:
        """Predict the rows that failed once more, and pass over the others; `source` is left after all of them."""
        for chunk in self._tables.chunks.all(self._run.job.job_id):
            rows = results.rows_of(self._content(chunk)) if chunk.failed_count else []
            failed = [place for place, row in enumerate(rows) if row.error is not None]
            again = _picked(source, failed, chunk.row_count, self._run)
            better = [row for batch in batches_of(again, predictor.batch_rows) for row in predictor.predict(batch)]
            for place, row in zip(failed, better, strict=True):
                rows[place] = row
            if failed:
                self._replace(chunk, rows, predictor)
        self._check_failures()

    def take(self, rows: Sequence[RowResult], predictor: RowPredictor) -> None:
        """Take the next rows' results, and make them safe once there are enough, or after a while."""
        self._waiting += rows
        self._weight += sum(_weight(value) for row in rows for value in row.outputs.values())
        failed = self.done.failed_count + _failed_count(self._waiting)
        most = self._spec.max_failed_rows
        enough = len(self._waiting) >= self._limits.chunk_rows or self._weight >= MAX_CHUNK_WEIGHT
        enough = enough or (predictor.events is not None and predictor.events.is_full)
        enough = enough or (most is not None and failed > most)  # it ends here, and what was done is kept
        if enough or time.monotonic() - self._since >= self._limits.chunk_s:
            self._make_safe(predictor)
        else:
            self._run.report(Progress(self.done.row_count + len(self._waiting), failed, self.total))

    def finish(self, predictor: RowPredictor) -> None:
        """Put the result together, and complete the job with it."""
        if self._waiting:
            self._make_safe(predictor)
        if self.done.row_count and self.done.failed_count == self.done.row_count:
            raise FailedPrecondition(self._all_failed(), reason="ALL_ROWS_FAILED")
        pieces = results.compose(self._chunks(), self._schema, self._spec.output_format)
        blob = self._put(pieces, self._limits.max_result_bytes)
        result = {
            "sha256": blob.sha256,
            "size_bytes": blob.size_bytes,
            "row_count": self.done.row_count,
            "failed_row_count": self.done.failed_count,
        }
        with self._run.holding() as connection:
            progress = Progress(self.done.row_count, self.done.failed_count, self.done.row_count)
            self._tables.jobs.report(connection, self._run.lease, progress)
            self._tables.jobs.complete(connection, self._run.lease, result)
            self._tables.chunks.clear(connection, self._run.job.job_id)

    def _make_safe(self, predictor: RowPredictor) -> None:
        rows, self._waiting, self._weight = self._waiting, [], 0
        self._since = time.monotonic()
        self._run.check()
        chunk = self._written(self.done.chunk_count, self.done.row_count, rows)
        done = Done(chunk.number + 1, self.done.row_count + len(rows), self.done.failed_count + chunk.failed_count)
        self._keep(chunk, done, predictor)
        self._counters.add_rows(len(rows), chunk.failed_count)
        self._check_failures()

    def _replace(self, chunk: Chunk, rows: Sequence[RowResult], predictor: RowPredictor) -> None:
        """Put a chunk whose failed rows were tried again in its own place."""
        self._run.check()
        better = self._written(chunk.number, chunk.first_row, rows)
        failed = self.done.failed_count - chunk.failed_count + better.failed_count
        self._keep(better, Done(self.done.chunk_count, self.done.row_count, failed), predictor)

    def _written(self, number: int, first_row: int, rows: Sequence[RowResult]) -> Chunk:
        content = results.chunk_bytes(self._schema, first_row, rows)
        blob = self._put([content], len(content))
        return Chunk(number, first_row, len(rows), _failed_count(rows), blob.sha256)

    def _keep(self, chunk: Chunk, done: Done, predictor: RowPredictor) -> None:
        """Note a chunk while the lease holds; only then its events go out."""
        inference_ms, predictor.inference_ms = predictor.inference_ms, 0.0
        with self._run.holding() as connection:
            self._tables.chunks.put(connection, self._run.job.job_id, chunk, inference_ms)
            progress = Progress(done.row_count, done.failed_count, self.total)
            self._tables.jobs.report(connection, self._run.lease, progress)
        self.done = done
        if predictor.events is not None:
            predictor.events.release()

    def _check_failures(self) -> None:
        if self.too_many_failed:
            raise FailedPrecondition(
                f"{self.done.failed_count:,} rows failed, and max_failed_rows allows {self._spec.max_failed_rows:,}; "
                "what was done is kept, and a retry begins with the rows that failed",
                reason="TOO_MANY_FAILED_ROWS",
            )

    def _all_failed(self) -> str:
        return f"every row failed ({self.done.row_count:,} of them); the first one: {self._first_error()}"

    def _first_error(self) -> str:
        import pyarrow as pa

        first = next(self._chunks())
        row = pa.ipc.open_stream(first).read_all().slice(0, 1).to_pylist()[0]
        return f"{row['error_message']} [{row['error_reason']}]"

    def _chunks(self) -> Iterator[bytes]:
        for chunk in self._tables.chunks.all(self._run.job.job_id):
            self._run.check()
            yield self._content(chunk)

    def _content(self, chunk: Chunk) -> bytes:
        with self._tables.blobs.open(chunk.sha256) as reader:
            return b"".join(reader)

    def _put(self, pieces: Iterable[bytes], max_bytes: int) -> Blob:
        return self._tables.blobs.put(
            pieces, max_bytes=max_bytes, before_publish=lambda coming: self._tables.files.ledger.keep(coming.sha256)
        )


def _names(signature: Signature) -> frozenset[str]:
    """Name what a model takes: its inputs, and the columns that they declare."""
    return frozenset(name for spec in signature.inputs for name in (spec.name, *spec.columns))


def _picked(rows: Iterator[Row], places: Iterable[int], count: int, run: JobRun) -> Iterator[Row]:
    """Go on by so many rows, and give those at some places."""
    wanted = set(places)
    for number, row in enumerate(islice(rows, count)):
        if number % 100 == 0:
            run.check()
        if number in wanted:
            yield row


def _failed_count(rows: Sequence[RowResult]) -> int:
    return sum(row.error is not None for row in rows)


def _weight(value: object) -> int:
    if isinstance(value, list):
        return sum(map(_weight, value)) if value and isinstance(value[0], list) else len(value)
    return 1 + (len(value) // 16 if isinstance(value, str) else 0)
