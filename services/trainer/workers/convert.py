"""Protobuf ↔ values of outside workers; requests are checked here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final
from uuid import UUID

from penstock.api.trainer.v1 import training_pb2
from penstock.api.trainer.v1 import worker_pb2 as pb
from penstock.values import to_struct
from services.common import checks
from services.common.blobs import checked_sha256
from services.common.errors import InvalidArgument
from services.trainer.task import Epoch, Part, checked_metrics
from services.trainer.workers.callbacks import MAX_FILES, MAX_MESSAGE_CHARS, Announced, Assignment, Uploaded
from services.trainer.workers.models import HandedFile, OutputKind, RemoteFile

MAX_LABELS: Final = 32
MAX_LABEL_CHARS: Final = 64
MAX_LOG_BYTES: Final = 256 * 1024
MAX_EPOCHS: Final = 1_000
MAX_COUNT: Final = 10**9
MAX_PATH_BYTES: Final = 255
_KINDS: Mapping[int, OutputKind] = {
    pb.OUTPUT_KIND_ARTIFACT: OutputKind.ARTIFACT,
    pb.OUTPUT_KIND_CHECKPOINT: OutputKind.CHECKPOINT,
}


def worker(request: pb.ClaimTrainingTaskRequest) -> tuple[str, Sequence[str], UUID | None]:
    """Read who asks, what it has, and for which run, None: any; raises InvalidArgument (INVALID_WORKER, INVALID_ID)."""
    try:
        checks.line("worker", request.worker, checks.MAX_NAME_CHARS)
        labels = checks.lines("labels", request.labels, count=MAX_LABELS, limit=MAX_LABEL_CHARS)
    except InvalidArgument as error:
        raise InvalidArgument(error.message, reason="INVALID_WORKER", violations=error.violations) from error
    if not request.worker or not all(labels):
        raise InvalidArgument.field("worker", "a worker and its labels have names", reason="INVALID_WORKER")
    try:
        return request.worker, labels, UUID(request.run_id) if request.run_id else None
    except ValueError as error:
        sentence = f"{request.run_id[:80]!r} is no UUID; leave it out to be given any run"
        raise InvalidArgument.field("run_id", sentence, reason="INVALID_ID") from error


def task_proto(assignment: Assignment, *, report_interval_ms: int, max_artifact_bytes: int) -> pb.TrainingTask:
    """Write a task."""
    task = assignment.outside.task
    return pb.TrainingTask(
        run_id=task.run_id,
        model=task.model,
        recipe=task.recipe,
        parameters=to_struct(task.parameters),
        type=training_pb2.TrainingType.Value(f"TRAINING_TYPE_{task.type}"),
        attempt=task.attempt,
        time_limit_ms=round(task.time_limit_s * 1000),
        memory_limit_bytes=task.memory_limit_bytes,
        inputs=[
            pb.TrainingInput(path=file.path, sha256=file.sha256, size_bytes=file.size_bytes)
            for file in assignment.inputs
        ],
        report_interval_ms=report_interval_ms,
        max_artifact_bytes=max_artifact_bytes,
    )


def report(request: pb.ReportTrainingProgressRequest) -> tuple[list[Epoch], bytes]:
    """Read a report; raises InvalidArgument (TOO_LARGE, INVALID_METRICS, OUT_OF_BOUNDS)."""
    checks.between("sequence", request.sequence, 1, 2**62)
    if len(request.log) > MAX_LOG_BYTES:
        sentence = f"{len(request.log):,} bytes came; {MAX_LOG_BYTES:,} are allowed, more with the next report"
        raise InvalidArgument.field("log", sentence, reason="TOO_LARGE")
    if len(request.epochs) > MAX_EPOCHS:
        sentence = f"{len(request.epochs):,} came; {MAX_EPOCHS:,} are allowed, more with the next report"
        raise InvalidArgument.field("epochs", sentence, reason="TOO_LARGE")
    epochs = []
    for number, epoch in enumerate(request.epochs):
        field = f"epochs[{number}]"
        checks.between(f"{field}.number", epoch.number, 0, MAX_COUNT)
        checks.between(f"{field}.total", epoch.total, 0, MAX_COUNT)
        try:
            metrics = checked_metrics(epoch.metrics)
        except ValueError as error:
            raise InvalidArgument.field(f"{field}.metrics", str(error), reason="INVALID_METRICS") from error
        epochs.append(Epoch(epoch.number, metrics, epoch.total))
    return epochs, request.log


def announced(requests: Iterator[pb.UploadTrainingOutputRequest]) -> Announced:
    """Read what an upload begins with; raises InvalidArgument (HEADER_REQUIRED, INVALID_ENUM, OUT_OF_BOUNDS)."""
    first = next(requests, pb.UploadTrainingOutputRequest())
    if not first.HasField("header"):
        raise InvalidArgument.field("header", "an upload begins with its header", reason="HEADER_REQUIRED")
    header = first.header
    if header.kind not in _KINDS:
        sentence = "say what the files are: OUTPUT_KIND_ARTIFACT or OUTPUT_KIND_CHECKPOINT"
        raise InvalidArgument.field("header.kind", sentence, reason="INVALID_ENUM")
    checks.between("header.file_count", header.file_count, 1, MAX_FILES)
    checks.between("header.epoch", header.epoch, 0, MAX_COUNT)
    return Announced(header.run_token, _KINDS[header.kind], header.epoch, header.file_count)


def uploaded(requests: Iterator[pb.UploadTrainingOutputRequest]) -> Iterator[Uploaded]:
    """Read what follows; raises InvalidArgument."""
    for request in requests:
        if request.HasField("header"):
            raise InvalidArgument.field("header", "it came a second time", reason="HEADER_REQUIRED")
        if request.HasField("file"):
            yield _file("file", request.file)
        else:
            yield request.chunk


def outcome(request: pb.CompleteTrainingRunRequest) -> tuple[dict[str, Any], list[RemoteFile]]:
    """Read what was made, as `Outcome` is written, and where its files lie; raises InvalidArgument."""
    said = request.outcome
    if len(request.artifacts) > MAX_FILES:
        sentence = f"{len(request.artifacts):,} came; {MAX_FILES:,} are allowed"
        raise InvalidArgument.field("artifacts", sentence, reason="TOO_MANY_FILES")
    artifacts = []
    for number, each in enumerate(request.artifacts):
        file = _file(f"artifacts[{number}]", each)
        artifacts.append(RemoteFile(file.path, each.url, file.sha256, file.size_bytes))
    parts = {
        Part.TRAIN: said.train_metrics,
        Part.VALIDATION: said.validation_metrics,
        Part.TEST: said.test_metrics,
    }
    content = {
        "framework": said.framework,
        "label": said.label_column,
        "features": [{"name": column.name, "datatype": column.datatype} for column in said.features],
        "input_name": said.input_name,
        "metrics": {part.value: dict(metrics) for part, metrics in parts.items() if metrics},
        "task_type": said.task_type,
        "classes": list(said.classes),
        "environment": dict(said.environment),
        "code_sha256": said.code_sha256,
        "metadata": checks.json_object("outcome.metadata", said.metadata),
        "notes": list(said.notes),
    }
    return content, artifacts


def failure(request: pb.FailTrainingRunRequest) -> tuple[str, str]:
    """Read what went wrong; raises InvalidArgument (INVALID_TEXT)."""
    reason = checks.line("reason", request.reason, checks.MAX_NAME_CHARS)
    return reason, checks.text("message", request.message, MAX_MESSAGE_CHARS)


def _file(field: str, file: pb.OutputFile | pb.RemoteArtifact) -> HandedFile:
    checks.file_path(f"{field}.path", file.path)
    if len(file.path.encode()) > MAX_PATH_BYTES:
        sentence = f"it has more than {MAX_PATH_BYTES} bytes; shorten it"
        raise InvalidArgument.field(f"{field}.path", sentence, reason="INVALID_PATH")
    checks.between(f"{field}.size_bytes", file.size_bytes, 0, 2**62)
    checked_sha256(file.sha256)
    return HandedFile(file.path, file.sha256, file.size_bytes)
