"""Protobuf ↔ values of validations; requests are checked here."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from uuid import UUID

from penstock.api.trainer.v1 import validations_pb2 as pb
from services.common import checks
from services.common.errors import InvalidArgument, NotFound
from services.common.jobs import Job, JobState
from services.trainer.faults import RETRYABLE
from services.trainer.runs.convert import MAX_NOTE_CHARS, MAX_SOURCE_CHARS
from services.trainer.validating.jobs import NewValidation, Rows, ValidationSpec
from services.trainer.validating.measuring import MAX_SLICE_COLUMNS
from services.trainer.validating.models import Criterion, Validation

_DERIVED: Final = re.compile(r"(?P<metric>.+)_vs_live(?:_low|_high)?")


def new_validation(request: pb.ValidateVersionRequest) -> NewValidation:
    """Read a validation to create; raises InvalidArgument."""
    if not request.model:
        raise InvalidArgument.field("model", "required: whose version is tried", reason="MODEL_REQUIRED")
    if not request.version:
        sentence = "required: an exact version, a stage, an alias or `latest`"
        raise InvalidArgument.field("version", sentence, reason="VERSION_REQUIRED")
    checks.model_name("model", request.model)
    checks.version_name("version", request.version)
    if request.against:
        checks.version_name("against", request.against)
        if request.alone:
            raise InvalidArgument.field("alone", "`against` came as well; send one of them", reason="INVALID_FIELD")
    rows = checks.enum_name("rows", pb.ValidationRows, request.rows, "VALIDATION_ROWS_")
    return NewValidation(
        model=request.model,
        version=request.version,
        data_source=checks.line("data_source", request.data_source, MAX_SOURCE_CHARS),
        rows=Rows(rows) if rows else Rows.TEST,
        against=request.against,
        alone=request.alone,
        label_column=checks.line("label_column", request.label_column, checks.MAX_NAME_CHARS),
        slices=checks.lines("slices", request.slices, count=MAX_SLICE_COLUMNS, limit=checks.MAX_NAME_CHARS),
        note=checks.text("note", request.note, MAX_NOTE_CHARS),
        request_id=checks.line("request_id", request.request_id, checks.MAX_NAME_CHARS),
        body_sha256=hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest(),
    )


def filters(request: pb.ListValidationsRequest) -> tuple[str, str]:
    """Read whose validations are wanted: of a model, of a version of it; raises InvalidArgument."""
    if request.version and not request.model:
        raise InvalidArgument.field("model", "required: whose version it is", reason="MODEL_REQUIRED")
    return request.model, request.version


def validation_id(text: str) -> UUID:
    """Read a validation's id; what cannot be one names none: NotFound (VALIDATION_NOT_FOUND)."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"there is no validation {text[:80]!r}", reason="VALIDATION_NOT_FOUND") from None


def validation_proto(job: Job) -> pb.Validation:
    """Write a validation as it stands."""
    spec = ValidationSpec.of(job.payload)
    found = Validation.of(job.result) if job.result is not None else None
    written = pb.Validation(
        id=str(job.job_id), model=spec.model, version=spec.version, live_version=spec.against,
        data_source=spec.data_source, dataset=spec.dataset,
        rows=pb.ValidationRows.Value(f"VALIDATION_ROWS_{spec.rows}"), label_column=spec.label_column,
        slices=spec.slices, state=_state(job.state), done_rows=job.progress.done,
        total_rows=job.progress.total or 0, reason=job.error.reason, message=job.error.message or spec.message,
        retryable=job.error.reason in RETRYABLE, attempt=job.attempt, note=spec.note, created_by=job.created_by,
        training_run_id=spec.training_run_id,
    )  # fmt: skip
    if found is not None:
        written.passed, written.evaluation_id, written.row_count = found.passed, found.evaluation_id, found.row_count
        written.live_version = found.live_version
        written.shortfalls.extend(found.shortfalls)
        written.notes.extend(found.notes)
        written.metrics.extend(metric_protos(found.metrics))
        written.criteria.extend(_criterion(each, found.metrics) for each in found.criteria)
    for name in ("create_time", "start_time", "end_time", "cancel_time"):
        time = getattr(job, name)
        if time is not None:
            getattr(written, name).FromDatetime(time)
    return written


def metric_protos(metrics: Mapping[str, float]) -> Iterator[pb.ValidationMetric]:
    """Write metrics by name, each with how it differs from the live version's."""
    for name in sorted(plain_names(metrics)):
        written = pb.ValidationMetric(name=name, value=metrics[name])
        difference = metrics.get(f"{name}_vs_live")
        if difference is not None:
            written.difference = difference
            written.live_value = metrics[name] - difference
        for field in ("low", "high"):
            end = metrics.get(f"{name}_vs_live_{field}")
            if end is not None:
                setattr(written, f"difference_{field}", end)
        yield written


def plain_names(metrics: Iterable[str]) -> set[str]:
    """Give the names of metrics that are no difference of another."""
    names = set(metrics)
    return {name for name in names if (found := _DERIVED.fullmatch(name)) is None or found["metric"] not in names}


def _criterion(criterion: Criterion, metrics: Mapping[str, float]) -> pb.ValidationCriterion:
    written = pb.ValidationCriterion(metric=criterion.metric, met=criterion.met(metrics))
    if criterion.at_most:
        written.at_most = criterion.threshold
    else:
        written.at_least = criterion.threshold
    if criterion.metric in metrics:
        written.value = metrics[criterion.metric]
    return written


def _state(state: JobState) -> pb.ValidationState.ValueType:
    if state is JobState.PENDING:
        return pb.VALIDATION_STATE_QUEUED
    return pb.ValidationState.Value(f"VALIDATION_STATE_{state.value}")
