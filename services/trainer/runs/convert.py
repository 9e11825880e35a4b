"""Protobuf ↔ values of training runs; requests are checked here."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Struct, Value

from penstock.api.trainer.v1 import training_pb2 as pb
from services.common import checks
from services.common.errors import InvalidArgument, NotFound
from services.common.jobs import Job, JobState
from services.common.keys import Principal
from services.trainer.faults import RETRYABLE
from services.trainer.recipes.catalogue import Offered
from services.trainer.runs.models import ExecutorName, KeptEpoch, NewRun, Phase, RunFilters, RunSpec, Trigger
from services.trainer.task import Part, TrainingType

MAX_NOTE_CHARS = 1_000
MAX_SOURCE_CHARS = 1_024
_RUNNING = {
    pb.TRAINING_RUN_STATE_RUNNING: Phase.TRAINING,
    pb.TRAINING_RUN_STATE_VALIDATING: Phase.VALIDATING,
}
_STATES = {
    pb.TRAINING_RUN_STATE_QUEUED: JobState.QUEUED,
    pb.TRAINING_RUN_STATE_COMPLETED: JobState.COMPLETED,
    pb.TRAINING_RUN_STATE_FAILED: JobState.FAILED,
    pb.TRAINING_RUN_STATE_CANCELLED: JobState.CANCELLED,
} | dict.fromkeys(_RUNNING, JobState.RUNNING)


def new_run(request: pb.CreateTrainingRunRequest, principal: Principal) -> NewRun:
    """Read a run to create; raises InvalidArgument."""
    if not request.model:
        raise InvalidArgument.field("model", "required: the model that is trained", reason="MODEL_REQUIRED")
    checks.model_name("model", request.model)
    if request.parent_version:
        checks.version_name("parent_version", request.parent_version)
    if request.version:
        checks.new_version_name("version", request.version)
    checks.line("data_source", request.data_source, MAX_SOURCE_CHARS)
    checks.line("recipe", request.recipe, checks.MAX_NAME_CHARS)
    checks.line("request_id", request.request_id, checks.MAX_NAME_CHARS)
    checks.line("trigger.requested_by", request.trigger.requested_by)
    checks.line("trigger.retraining_request_id", request.trigger.retraining_request_id, checks.MAX_NAME_CHARS)
    checks.text("trigger.note", request.trigger.note, MAX_NOTE_CHARS)
    kind = checks.enum_name("type", pb.TrainingType, request.type, "TRAINING_TYPE_")
    executor = checks.enum_name("executor", pb.TrainingExecutor, request.executor, "TRAINING_EXECUTOR_")
    checks.between("config_version", request.config_version, 0, 2**31 - 1)
    trigger = request.trigger
    return NewRun(
        model=request.model,
        type=TrainingType(kind) if request.type else None,
        parent_version=request.parent_version,
        trigger=Trigger(trigger.requested_by or principal.name, trigger.retraining_request_id, trigger.note),
        config_version=request.config_version,
        data_source=request.data_source,
        parameters=_plain(checks.json_object("parameters", request.parameters)),
        version=request.version,
        recipe=request.recipe,
        executor=ExecutorName(executor) if request.executor else None,
        request_id=request.request_id,
        body_sha256=hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest(),
    )


def run_id(text: str) -> UUID:
    """Read a run's id; what cannot be one names none: NotFound (RUN_NOT_FOUND)."""
    try:
        return UUID(text)
    except ValueError:
        raise NotFound(f"there is no run {text[:80]!r}", reason="RUN_NOT_FOUND") from None


def filters(request: pb.ListTrainingRunsRequest) -> RunFilters:
    """Read which runs are wanted; states that this service does not know name none."""
    states = frozenset(_STATES[state] for state in request.states if state in _STATES)
    if request.states and not states:
        sentence = "none of these states is one that a run can be in"
        raise InvalidArgument.field("states", sentence, reason="INVALID_FIELD")
    if JobState.QUEUED in states:
        states |= {JobState.PENDING}
    phases = {_RUNNING[state] for state in request.states if state in _RUNNING}
    return RunFilters(states, phases.pop() if len(phases) == 1 else None, request.model)


def run_proto(job: Job) -> pb.TrainingRun:
    """Write a run as it stands."""
    spec = RunSpec.of(job.payload)
    outcome = spec.outcome
    metrics = outcome.metrics if outcome else {}
    written = pb.TrainingRun(
        id=str(job.job_id), model=spec.model, state=state_proto(job.state, spec.phase),
        type=pb.TrainingType.Value(f"TRAINING_TYPE_{spec.type}"),
        trigger=pb.TrainingTrigger(
            requested_by=spec.trigger.requested_by, retraining_request_id=spec.trigger.retraining_request_id,
            note=spec.trigger.note,
        ),
        parent_version=spec.parent_version, config_version=spec.config_version, dataset=spec.dataset,
        new_version=_made(job, spec), validation_passed=spec.validation_passed,
        message=job.error.message or spec.message, recipe=spec.recipe, data_source=spec.data_source,
        executor=pb.TrainingExecutor.Value(f"TRAINING_EXECUTOR_{spec.executor}"),
        parameters=ParseDict(dict(spec.parameters), Struct()),
        train_count=spec.part_counts.get(Part.TRAIN, 0), validation_count=spec.part_counts.get(Part.VALIDATION, 0),
        test_count=spec.part_counts.get(Part.TEST, 0), train_metrics=metrics.get(Part.TRAIN),
        validation_metrics=metrics.get(Part.VALIDATION), test_metrics=metrics.get(Part.TEST),
        done_epochs=job.progress.done, total_epochs=job.progress.total or 0, reason=job.error.reason,
        retryable=job.error.reason in RETRYABLE, attempt=job.attempt, duration_ms=_duration_ms(job),
        shortfalls=spec.shortfalls, evaluation_id=spec.evaluation_id, created_by=job.created_by,
        new_version_stage=spec.new_version_stage, profile_id=spec.profile_id, script=spec.script,
    )  # fmt: skip
    if outcome is not None:
        written.code_sha256, written.label_column = outcome.code_sha256, outcome.label
        written.feature_columns.extend(column.name for column in outcome.features)
        written.environment.update(outcome.environment)
        written.notes.extend(outcome.notes)
    times: dict[str, datetime | None] = {
        "create_time": job.create_time, "start_time": job.start_time, "end_time": job.end_time,
        "cancel_time": job.cancel_time,
    }  # fmt: skip
    for name, time in times.items():
        if time is not None:
            getattr(written, name).FromDatetime(time)
    return written


def state_proto(state: JobState, phase: Phase) -> pb.TrainingRunState.ValueType:
    """Write how far a run has come; `phase`: what it is at while it runs."""
    if state is JobState.RUNNING:
        validating = phase is Phase.VALIDATING
        return pb.TRAINING_RUN_STATE_VALIDATING if validating else pb.TRAINING_RUN_STATE_RUNNING
    if state is JobState.PENDING:
        return pb.TRAINING_RUN_STATE_QUEUED
    return pb.TrainingRunState.Value(f"TRAINING_RUN_STATE_{state.value}")


def epoch_proto(epoch: KeptEpoch) -> pb.TrainingEpoch:
    """Write an epoch."""
    written = pb.TrainingEpoch(number=epoch.number, metrics=epoch.metrics, attempt=epoch.attempt)
    written.time.FromDatetime(epoch.time)
    return written


def recipe_proto(offered: Offered) -> pb.Recipe:
    """Write a recipe and what it takes."""
    recipe = offered.recipe
    parameters = []
    for name, field in recipe.parameters.model_fields.items():
        default = ParseDict(field.get_default(call_default_factory=True), Value()) if not field.is_required() else None
        parameters.append(pb.RecipeParameter(name=name, description=field.description or "", default_value=default))
    return pb.Recipe(
        name=recipe.name,
        description=recipe.description,
        parameters=parameters,
        allowed=not offered.refusal,
        refusal=offered.refusal,
    )


def plain_parameters(parameters: Struct) -> dict[str, Any]:
    """Read a training config's parameters."""
    return _plain(MessageToDict(parameters))


def _made(job: Job, spec: RunSpec) -> str:
    """Name the version that is there, or may be: a run that is ended while it registers says which."""
    ended_meanwhile = job.state is JobState.CANCELLED and spec.phase is Phase.VALIDATING
    return spec.new_version if spec.registered or ended_meanwhile else ""


def _duration_ms(job: Job) -> int:
    if job.start_time is None:
        return 0
    return max(0, round(((job.end_time or job.read_time) - job.start_time).total_seconds() * 1000))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Have whole numbers be integers again: JSON of protobuf knows doubles alone."""
    return {name: _whole(value) for name, value in values.items()}


def _whole(value: Any) -> Any:
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    if isinstance(value, list):
        return [_whole(each) for each in value]
    if isinstance(value, dict):
        return _plain(value)
    return value
