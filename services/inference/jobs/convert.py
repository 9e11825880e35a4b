"""Protobuf ↔ values of batch prediction; requests are checked here."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from datetime import datetime, timedelta
from uuid import UUID

from penstock.api.inference.v1 import prediction_jobs_pb2 as pb
from services.common import timestamps
from services.common.blobs import checked_sha256
from services.common.datasets import SCHEME
from services.common.errors import InvalidArgument, NotFound
from services.common.jobs import Job, JobState, JobWorker
from services.common.keys import Principal, Role
from services.inference.convert import check_ids
from services.inference.jobs.models import FileFormat, FileInput, InputKind, PredictionSpec, ResultFile
from services.inference.jobs.predictions import NewPrediction

MAX_ROWS = 10_000
MAX_REQUEST_BYTES = 4 * 1024 * 1024
MAX_CHUNK_BYTES = 4 * 1024 * 1024
MAX_OUTPUTS = 1_000
MAX_URI_CHARS = 2_048
MAX_LIMIT_MS = 30 * 24 * 3_600_000
MAX_WAIT_MS = 300_000
DEFAULT_PRIORITY, LAST_PRIORITY = 5, 9
DEFAULT_ATTEMPTS, MOST_ATTEMPTS = 5, 20
_FORMATS = {pb.FileFormat.Value(f"FILE_FORMAT_{each.value}"): each for each in FileFormat}
_FORMAT_NUMBERS = {each: number for number, each in _FORMATS.items()}
_STATES = {pb.JobState.Value(f"JOB_STATE_{each.value}"): each for each in JobState}
_STATE_NUMBERS = {each: number for number, each in _STATES.items()}
_KINDS = {"single": InputKind.SINGLE, "rows": InputKind.ROWS, "file": InputKind.FILE}


def new_prediction(request: pb.CreatePredictionJobRequest) -> NewPrediction:
    """Read a job to create; raises InvalidArgument."""
    check_ids(request.model, {"user_id": request.user_id, "request_id": request.request_id, "version": request.version})
    most_failed = request.max_failed_rows if request.HasField("max_failed_rows") else None
    if most_failed is not None:
        _within("max_failed_rows", most_failed, 0, 10**15)
    body = request.SerializeToString(deterministic=True)
    return NewPrediction(
        spec=_spec(request, most_failed),
        priority=_within("priority", request.priority, 0, LAST_PRIORITY) or DEFAULT_PRIORITY,
        soft_limit_ms=_within("soft_limit_ms", request.soft_limit_ms, 0, MAX_LIMIT_MS),
        hard_limit_ms=_within("hard_limit_ms", request.hard_limit_ms, 0, MAX_LIMIT_MS),
        max_attempts=_within("max_attempts", request.max_attempts, 0, MOST_ATTEMPTS) or DEFAULT_ATTEMPTS,
        due_time=timestamps.read("due_time", request.due_time) if request.HasField("due_time") else None,
        request_id=request.request_id,
        body_sha256=hashlib.sha256(body).hexdigest(),
    )


def _spec(request: pb.CreatePredictionJobRequest, most_failed: int | None) -> PredictionSpec:
    chosen = request.WhichOneof("input")
    if chosen is None:
        raise InvalidArgument.field("file", "give one of `single`, `rows` and `file`", reason="INPUT_REQUIRED")
    message = _checked_rows(request) if chosen == "rows" else _checked_single(request) if chosen == "single" else None
    if message is not None and len(message) > MAX_REQUEST_BYTES:
        sentence = f"{len(message):,} bytes came; {MAX_REQUEST_BYTES:,} are allowed in a call: upload them as a file"
        raise InvalidArgument.field(chosen, sentence, reason="TOO_LARGE")
    if len(request.outputs) > MAX_OUTPUTS:
        raise InvalidArgument.field("outputs", f"{len(request.outputs):,} came; {MAX_OUTPUTS:,} are allowed")
    return PredictionSpec(
        model=request.model,
        version=request.version,
        kind=_KINDS[chosen],
        request=message or b"",
        file=_file(request.file) if chosen == "file" else None,
        output_format=_FORMATS.get(request.output_format, FileFormat.JSONL),
        outputs=tuple(dict.fromkeys(request.outputs)),
        max_failed_rows=most_failed,
        record_events=request.record_events if request.HasField("record_events") else True,
        user_id=request.user_id,
    )


def _checked_rows(request: pb.CreatePredictionJobRequest) -> bytes:
    count = len(request.rows.rows)
    if count == 0:
        raise InvalidArgument.field("rows", "no row came; send at least one", reason="INPUT_REQUIRED")
    if count > MAX_ROWS:
        sentence = f"{count:,} rows came; {MAX_ROWS:,} are allowed in a call: upload them as a file"
        raise InvalidArgument.field("rows", sentence, reason="TOO_MANY_ROWS")
    return request.rows.SerializeToString()


def _checked_single(request: pb.CreatePredictionJobRequest) -> bytes:
    if bool(request.single.tensors) == request.single.HasField("features"):
        sentence = "send one of `features` and `tensors`: neither came, or both"
        raise InvalidArgument.field("single", sentence, reason="INPUT_REQUIRED")
    return request.single.SerializeToString()


def _file(file: pb.FileInput) -> FileInput:
    if not 0 < len(file.uri) <= MAX_URI_CHARS or not file.uri.isprintable():
        sentence = f"{len(file.uri)} characters came; 1 to {MAX_URI_CHARS:,} printable ones are allowed"
        raise InvalidArgument.field("file.uri", sentence, reason="INVALID_FIELD")
    if file.uri.startswith(SCHEME):
        return FileInput(file.uri, "", FileFormat.PARQUET)
    if file.format not in _FORMATS:
        sentence = "say how it is written: JSONL, PARQUET, CSV"
        raise InvalidArgument.field("file.format", sentence, reason="FORMAT_REQUIRED")
    return FileInput(file.uri, checked_sha256(file.sha256), _FORMATS[file.format])


def _within(field: str, value: int, least: int, most: int) -> int:
    if not least <= value <= most:
        raise InvalidArgument.field(field, f"got {value}; {least} to {most:,} are allowed", reason="OUT_OF_BOUNDS")
    return value


def job_id(text: str) -> UUID:
    """Read a job's id; one that is none is that of no job."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"there is no job {text[:64]!r}; ids are UUIDs", reason="JOB_NOT_FOUND") from None


def wait_s(request: pb.WaitPredictionJobRequest, remaining_s: float | None) -> float:
    """Read how long to wait: no longer than is left of the call, less what the answer takes to arrive."""
    wanted_s = _within("timeout_ms", request.timeout_ms, 0, MAX_WAIT_MS) / 1000
    return wanted_s if remaining_s is None else max(0.0, min(wanted_s, remaining_s - 0.2))


def offset(request: pb.DownloadPredictionResultRequest) -> int:
    """Read where a download begins."""
    return _within("offset_bytes", request.offset_bytes, 0, 2**63 - 1)


def states(request: pb.ListPredictionJobsRequest) -> frozenset[JobState]:
    """Read which states are listed; raises InvalidArgument (INVALID_FIELD) for one that there is not."""
    for state in request.states:
        if state not in _STATES:
            raise InvalidArgument.field("states", f"{state} is no state of a job", reason="INVALID_FIELD")
    return frozenset(_STATES[state] for state in request.states)


def upload(requests: Iterator[pb.UploadPredictionInputRequest]) -> tuple[str, int | None, Iterator[bytes]]:
    """Read the header of an upload, its digest and size, and its bytes as they arrive.

    Raises:
        InvalidArgument: the messages come in another order (INCOMPLETE_UPLOAD), a chunk is too large (TOO_LARGE).
    """
    first = next(requests, None)
    if first is None or first.WhichOneof("piece") != "header":
        raise InvalidArgument("the first message of an upload is its header", reason="INCOMPLETE_UPLOAD")
    return checked_sha256(first.header.sha256), first.header.size_bytes or None, _chunks(requests)


def _chunks(requests: Iterator[pb.UploadPredictionInputRequest]) -> Iterator[bytes]:
    for request in requests:
        if request.WhichOneof("piece") != "chunk":
            raise InvalidArgument("after the header come chunks alone", reason="INCOMPLETE_UPLOAD")
        if len(request.chunk) > MAX_CHUNK_BYTES:
            sentence = f"{len(request.chunk):,} bytes came in one chunk; {MAX_CHUNK_BYTES:,} are allowed"
            raise InvalidArgument.field("chunk", sentence, reason="TOO_LARGE")
        yield request.chunk


def job_proto(job: Job, principal: Principal, retention: timedelta) -> pb.PredictionJob:
    """Write a job as its caller may see it."""
    spec = PredictionSpec.of(job.payload)
    written = pb.PredictionJob(
        id=str(job.job_id), state=_STATE_NUMBERS[job.state], model=spec.model, version=spec.version,
        resolved_version=spec.resolved_version, output_format=_FORMAT_NUMBERS[spec.output_format],
        outputs=spec.outputs, priority=job.priority, max_failed_rows=spec.max_failed_rows,
        record_events=spec.record_events, attempt_count=job.attempt, max_attempts=job.max_attempts,
        worker_id=job.worker_id, queue_time_ms=job.queue_time_ms, inference_time_ms=round(spec.inference_ms),
        run_time_ms=job.run_time_ms, soft_limit_ms=job.soft_limit_ms or 0, hard_limit_ms=job.hard_limit_ms or 0,
        created_by=job.created_by, cancel_requested=job.cancel_time is not None,
        progress=pb.JobProgress(
            done_rows=job.progress.done, failed_rows=job.progress.failed, total_rows=job.progress.total,
            remaining_ms=job.remaining_ms,
        ),
    )  # fmt: skip
    if spec.file is not None:
        file = pb.FileInput(uri=spec.file.uri, sha256=spec.file.sha256, format=_FORMAT_NUMBERS[spec.file.format])
        written.input.CopyFrom(file)
    if job.error.reason:
        traceback = job.error.detail if principal.role >= Role.OPERATOR else ""
        error = pb.JobError(reason=job.error.reason, message=job.error.message, traceback=traceback)
        written.error.CopyFrom(error)
    if job.result is not None:
        written.result.CopyFrom(result_proto(ResultFile(**job.result)))
    _set_times(written, job, retention)
    return written


def _set_times(written: pb.PredictionJob, job: Job, retention: timedelta) -> None:
    times: dict[str, datetime | None] = {
        "create_time": job.create_time,
        "due_time": job.due_time,
        "start_time": job.start_time,
        "end_time": job.end_time,
        "expire_time": job.end_time + retention if job.end_time else None,
    }
    for name, time in times.items():
        if time is not None:
            getattr(written, name).FromDatetime(time)


def result_proto(result: ResultFile) -> pb.PredictionResult:
    """Write what a result is."""
    return pb.PredictionResult(
        sha256=result.sha256,
        size_bytes=result.size_bytes,
        row_count=result.row_count,
        failed_row_count=result.failed_row_count,
    )


def worker_proto(worker: JobWorker) -> pb.PredictionWorker:
    """Write a worker."""
    written = pb.PredictionWorker(
        id=worker.worker_id, live=worker.live, slot_count=worker.slot_count, busy_count=worker.busy_count
    )
    written.start_time.FromDatetime(worker.start_time)
    written.seen_time.FromDatetime(worker.seen_time)
    return written
