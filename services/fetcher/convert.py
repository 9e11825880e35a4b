"""Protobuf ↔ values of fetching; requests are checked here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from uuid import UUID

from google.protobuf.json_format import ParseDict

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as pb
from penstock.api.fetcher.v1 import sources_pb2
from penstock.api.registry.v1 import registry_pb2 as registry
from penstock.uploads import framework_of
from services.common import bundle_metadata, checks, timestamps
from services.common.blobs import checked_sha256
from services.common.errors import InvalidArgument, NotFound
from services.common.jobs import Job, JobState
from services.common.outbox import Delivery
from services.common.outbox.webhooks import Webhook, secret_problem
from services.fetcher.faults import RETRYABLE
from services.fetcher.fetches import FetchFilters, NewFetch
from services.fetcher.models import FetchResult, FetchSpec, Phase, Plan, Reference, RemoteFile, StoredWebhook, size_of
from services.fetcher.sources.source import Found, Source, Variant

MAX_REFERENCE_CHARS = 2_048
MAX_WORD_CHARS = 256
MAX_ID_CHARS = 256
MAX_TARGET_BYTES = 64 * 1024
NEWS = timedelta(seconds=10)
"""Older than this, a worker's word on how fast bytes come says nothing: it tells twice a second while some do."""
DEFAULT_PRIORITY, LAST_PRIORITY = 5, 9
DEFAULT_ATTEMPTS, MOST_ATTEMPTS = 3, 20
_RUNNING = {
    pb.FETCH_JOB_STATE_DOWNLOADING: Phase.DOWNLOADING,
    pb.FETCH_JOB_STATE_PROCESSING: Phase.PROCESSING,
}
_STATES = {
    pb.FetchJobState.Value(f"FETCH_JOB_STATE_{each.value}"): each for each in JobState if each is not JobState.RUNNING
} | dict.fromkeys(_RUNNING, JobState.RUNNING)


def new_fetch(request: pb.CreateFetchJobRequest) -> NewFetch:
    """Read a job to create; raises InvalidArgument."""
    target = request.target
    _check_target(target)
    _text("request_id", request.request_id, MAX_ID_CHARS)
    said = pb.CreateFetchJobRequest()
    said.CopyFrom(request)
    said.webhook.ClearField("secret")  # what is kept of it must not help to guess it
    body = said.SerializeToString(deterministic=True)
    return NewFetch(
        spec=FetchSpec(
            reference(request.source),
            target.SerializeToString(deterministic=True),
            model=target.model,
            version=target.version,
        ),
        priority=_within("priority", request.priority, LAST_PRIORITY) or DEFAULT_PRIORITY,
        max_attempts=_within("max_attempts", request.max_attempts, MOST_ATTEMPTS) or DEFAULT_ATTEMPTS,
        due_time=timestamps.read("due_time", request.due_time) if request.HasField("due_time") else None,
        request_id=request.request_id,
        body_sha256=hashlib.sha256(body).hexdigest(),
        webhook=webhook(request.webhook) if request.HasField("webhook") else None,
    )


def webhook(message: pb.FetchWebhook) -> Webhook:
    """Read who is told of a job's end; raises InvalidArgument (INVALID_WEBHOOK), which repeats nothing of it."""
    if not message.url:
        sentence = "required: where to post to, such as https://example.org/hooks/penstock"
        raise InvalidArgument.field("webhook.url", sentence, reason="INVALID_WEBHOOK")
    if message.secret and (sentence := secret_problem(message.secret)):
        raise InvalidArgument.field("webhook.secret", sentence, reason="INVALID_WEBHOOK")
    return Webhook(message.url, message.secret)


def webhook_proto(stored: StoredWebhook, told: Delivery | None = None) -> pb.FetchWebhook:
    """Write who is told of a job's end, without what is secret, and what became of the latest message."""
    written = pb.FetchWebhook(url=stored.shown_url, signed=stored.signed)
    if told is not None:
        written.last_error, written.given_up = told.last_error, told.given_up
        if told.delivery_time is not None:
            written.delivery_time.FromDatetime(told.delivery_time)
    return written


def reference(message: sources_pb2.SourceReference) -> Reference:
    """Read what is to be fetched; raises InvalidArgument."""
    for name in ("source", "reference"):
        if not getattr(message, name):
            sentence = "required; ListSources says which there are, and what a reference to each looks like"
            raise InvalidArgument.field(f"source.{name}", sentence, reason="SOURCE_REQUIRED")
    _text("source.reference", message.reference, MAX_REFERENCE_CHARS)
    _text("source.revision", message.revision, MAX_WORD_CHARS)
    _text("source.variant", message.variant, MAX_WORD_CHARS)
    if message.sha256:
        checked_sha256(message.sha256)
    return Reference(message.source, message.reference, message.revision, message.variant, message.sha256)


def filters(request: pb.ListFetchJobsRequest) -> FetchFilters:
    """Read which jobs are wanted; states that this service does not know name none."""
    states = frozenset(_STATES[state] for state in request.states if state in _STATES)
    if request.states and not states:
        sentence = "none of these states is one that a job can be in"
        raise InvalidArgument.field("states", sentence, reason="INVALID_FIELD")
    made_by = schedule_id(request.schedule_id) if request.schedule_id else None
    phases = {_RUNNING[state] for state in request.states if state in _RUNNING}
    phase = phases.pop() if len(phases) == 1 else None
    return FetchFilters(states=states, phase=phase, model=request.model, source=request.source, schedule_id=made_by)


def schedule_id(text: str) -> UUID:
    """Read a schedule's id; what cannot be one names none: NotFound (SCHEDULE_NOT_FOUND)."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"there is no schedule {text[:80]!r}", reason="SCHEDULE_NOT_FOUND") from None


def job_id(text: str) -> UUID:
    """Read a job's id; what cannot be one names none: NotFound (JOB_NOT_FOUND)."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"there is no job {text[:80]!r}", reason="JOB_NOT_FOUND") from None


def job_proto(job: Job, retention: timedelta, deliveries: Mapping[UUID, Delivery]) -> pb.FetchJob:
    """Write a job as it stands; `deliveries` says what became of the message that told of its latest end."""
    spec = FetchSpec.of(job.payload)
    target = pb.FetchTarget.FromString(spec.target)
    target.model, target.version = spec.model, spec.version
    written = pb.FetchJob(
        id=str(job.job_id), state=state_proto(job.state, spec.phase), source=reference_proto(spec.reference),
        target=target,
        resolved_revision=spec.plan.revision if spec.plan else "", attempt_count=job.attempt,
        max_attempts=job.max_attempts, priority=job.priority, worker_id=job.worker_id, created_by=job.created_by,
        cancel_requested=job.cancel_time is not None, progress=_progress(job, spec),
        files=map(file_proto, spec.plan.files) if spec.plan else (), schedule_id=str(spec.schedule_id or ""),
    )  # fmt: skip
    if spec.webhook is not None:
        told = deliveries.get(spec.webhook_message_id) if spec.webhook_message_id else None
        written.webhook.CopyFrom(webhook_proto(spec.webhook, told))
    if job.error.reason:
        retryable = job.error.reason in RETRYABLE
        error = pb.FetchError(reason=job.error.reason, message=job.error.message, retryable=retryable)
        if job.state is JobState.PENDING:
            error.retry_time.FromDatetime(job.due_time)
        written.error.CopyFrom(error)
    if job.result is not None:
        written.result.CopyFrom(_result(FetchResult(**job.result)))
    times: dict[str, datetime | None] = {
        "create_time": job.create_time, "due_time": job.due_time, "start_time": job.start_time,
        "end_time": job.end_time, "expire_time": job.end_time + retention if job.end_time else None,
    }  # fmt: skip
    for name, time in times.items():
        if time is not None:
            getattr(written, name).FromDatetime(time)
    return written


def state_proto(state: JobState, phase: Phase) -> pb.FetchJobState.ValueType:
    """Write how far a job has come; `phase`: what it is at while it runs."""
    if state is JobState.RUNNING:
        processing = phase is not Phase.DOWNLOADING
        return pb.FETCH_JOB_STATE_PROCESSING if processing else pb.FETCH_JOB_STATE_DOWNLOADING
    return pb.FetchJobState.Value(f"FETCH_JOB_STATE_{state.value}")


def reference_proto(said: Reference) -> sources_pb2.SourceReference:
    """Write what is fetched."""
    return sources_pb2.SourceReference(
        source=said.source,
        reference=said.reference,
        revision=said.revision,
        variant=said.variant,
        sha256=said.sha256,
    )


def file_proto(file: RemoteFile) -> sources_pb2.SourceFile:
    """Write a file."""
    return sources_pb2.SourceFile(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256)


def source_proto(source: Source) -> sources_pb2.Source:
    """Write a source."""
    return sources_pb2.Source(
        name=source.name,
        enabled=not source.disabled_reason,
        reason=source.disabled_reason,
        reference_form=source.reference_form,
        has_revisions=source.has_revisions,
    )


def found_proto(said: Reference, found: Found, lacking_bytes: int | None) -> sources_pb2.InspectSourceResponse:
    """Write what lies at a source, and how many bytes of it are not here."""
    plan = found.plan
    variants = found.variants or (Variant("default", plan.files),)
    return sources_pb2.InspectSourceResponse(
        source=reference_proto(said),
        resolved_revision=plan.revision,
        framework=_framework(plan),
        variants=[_variant_proto(each, is_default=found.has_default and each is variants[0]) for each in variants],
        metadata=ParseDict(dict(plan.metadata), registry.Metadata()),
        licence=found.licence,
        suggested_model=found.suggested_model,
        download_size_bytes=lacking_bytes,
        warnings=found.warnings,
        canonical_reference=plan.canonical or said.reference,
    )


def _variant_proto(variant: Variant, *, is_default: bool) -> sources_pb2.SourceVariant:
    return sources_pb2.SourceVariant(
        name=variant.name,
        files=map(file_proto, variant.files),
        size_bytes=size_of(variant.files),
        precision=variant.precision,
        is_default=is_default,
    )


def _framework(plan: Plan) -> registry.Framework.ValueType:
    if plan.framework:
        return registry.Framework.Value(f"FRAMEWORK_{plan.framework}")
    by_names = None if plan.unpack else framework_of(file.path for file in plan.files)
    return by_names or registry.FRAMEWORK_UNSPECIFIED


def _progress(job: Job, spec: FetchSpec) -> pb.FetchProgress:
    plan: Plan | None = spec.plan
    told_lately = job.read_time - job.update_time <= NEWS
    flows = job.state is JobState.RUNNING and spec.phase is Phase.DOWNLOADING and told_lately
    speed = spec.bytes_per_second if flows else 0
    left = max(0, plan.size_bytes - job.progress.done) if plan and plan.size_bytes is not None else None
    return pb.FetchProgress(
        done_bytes=job.progress.done,
        total_bytes=plan.size_bytes if plan else None,
        reused_bytes=spec.reused_bytes,
        done_files=spec.done_files,
        total_files=len(plan.files) if plan else 0,
        bytes_per_second=speed,
        remaining_ms=left * 1000 // speed if speed and left is not None else None,
    )


def _result(result: FetchResult) -> pb.FetchResult:
    return pb.FetchResult(
        model=result.model,
        version=result.version,
        deployment_number=result.deployment_number,
        existed=result.existed,
        downloaded_bytes=result.downloaded_bytes,
        warnings=result.warnings,
    )


def _check_target(target: pb.FetchTarget) -> None:
    """Hold it to the rules of the registry, which would refuse it once all is here."""
    if target.ByteSize() > MAX_TARGET_BYTES:
        sentence = f"{target.ByteSize():,} bytes came; {MAX_TARGET_BYTES:,} are allowed"
        raise InvalidArgument.field("target", sentence, reason="TOO_LARGE")
    if target.model:
        checks.model_name("target.model", target.model)
    if target.version:
        checks.new_version_name("target.version", target.version)
    checks.enum_name("target.framework", registry.Framework, target.framework, "FRAMEWORK_")
    checks.enum_name("target.stage", registry.Stage, target.stage, "STAGE_")
    checks.line("target.approved_by", target.approved_by)
    checks.text("target.note", target.note)
    checks.text("target.description", target.description)
    checks.labels("target.labels", target.labels)
    _check_metadata(target)
    if target.stage == registry.STAGE_ARCHIVED:
        raise InvalidArgument.field("target.stage", "nothing is fetched into the archive", reason="INVALID_STAGE")
    if target.stage == registry.STAGE_PRODUCTION:
        # It would go live under this service's own key, whoever asked.
        sentence = "nothing is fetched into PRODUCTION; fetch into STAGING at most, and promote it from there"
        raise InvalidArgument.field("target.stage", sentence, reason="INVALID_STAGE")


def _check_metadata(target: pb.FetchTarget) -> None:
    said, field = target.metadata, "target.metadata"
    checks.line(f"{field}.task_type", said.task_type)
    checks.line(f"{field}.equivalence_group", said.equivalence_group)
    checks.between(f"{field}.output_dimensions", said.output_dimensions, 0, 2**31 - 1)
    checks.tags(f"{field}.tags", said.tags)
    fields = checks.json_object(f"{field}.fields", said.fields)
    if target.framework == registry.FRAMEWORK_TRANSFORMERS:
        bundle_metadata.check(said.task_type, fields)


def _text(field: str, value: str, most: int) -> None:
    if len(value) > most or not value.isprintable():
        sentence = f"{len(value):,} characters came; at most {most:,} printable ones are allowed"
        raise InvalidArgument.field(field, sentence, reason="INVALID_REFERENCE")


def _within(field: str, value: int, most: int) -> int:
    if not 0 <= value <= most:
        raise InvalidArgument.field(field, f"got {value}; 0 to {most} are allowed", reason="OUT_OF_BOUNDS")
    return value
