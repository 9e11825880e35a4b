"""Protos of training configs and evaluations to what the use cases take, checked; see `encode` for the way back."""

from __future__ import annotations

import math

from penstock.api.registry.v1 import registry_pb2 as pb
from services.common import checks
from services.common.errors import InvalidArgument
from services.registry import convert
from services.registry.training import Comparison, NewEvaluation, SuccessCriterion, TrainingConfig

MAX_CRITERIA = 32
MAX_METRICS = 256


def training_config(config: pb.TrainingConfig) -> TrainingConfig:
    """Read how a model is trained, but for the number, which the registry gives."""
    criteria = config.success_criteria
    if len(criteria) > MAX_CRITERIA:
        raise InvalidArgument.field(
            "training_config.success_criteria",
            f"{len(criteria):,} came; at most {MAX_CRITERIA} are allowed",
            reason="TOO_MANY",
        )
    return TrainingConfig(
        recipe=checks.line("training_config.recipe", config.recipe),
        parameters=checks.json_object("training_config.parameters", config.parameters),
        data_source=checks.line("training_config.data_source", config.data_source),
        success_criteria=tuple(
            _criterion(f"training_config.success_criteria[{index}]", criterion)
            for index, criterion in enumerate(criteria)
        ),
    )


def _criterion(field: str, criterion: pb.SuccessCriterion) -> SuccessCriterion:
    comparison = checks.enum_name(f"{field}.comparison", pb.Comparison, criterion.comparison, "COMPARISON_")
    if not comparison:
        raise InvalidArgument.field(
            f"{field}.comparison", f"not given; send one of {', '.join(Comparison)}", reason="INVALID_CRITERION"
        )
    if not math.isfinite(criterion.threshold):
        raise InvalidArgument.field(
            f"{field}.threshold", f"got {criterion.threshold}; send a finite number", reason="INVALID_CRITERION"
        )
    return SuccessCriterion(metric(f"{field}.metric", criterion.metric), Comparison(comparison), criterion.threshold)


def metric(field: str, name: str) -> str:
    """Read a metric's name."""
    if not name.strip():
        raise InvalidArgument.field(field, "empty; a metric has a name", reason="INVALID_METRIC")
    return checks.line(field, name, checks.MAX_NAME_CHARS)


def new_evaluation(request: pb.RecordEvaluationRequest) -> NewEvaluation:
    """Read an evaluation to keep."""
    if len(request.metrics) > MAX_METRICS:
        raise InvalidArgument.field(
            "metrics", f"{len(request.metrics):,} came; at most {MAX_METRICS} are allowed", reason="TOO_MANY"
        )
    failure = checks.text("failure", request.failure).strip()
    if not request.metrics and not failure:
        sentence = "none came; an evaluation measures something, or says in `failure` why it could not"
        raise InvalidArgument.field("metrics", sentence, reason="INVALID_METRIC")
    for name, value in request.metrics.items():
        if not math.isfinite(value):
            raise InvalidArgument.field(
                f"metrics[{metric('metrics', name)}]", f"got {value}; send a finite number", reason="INVALID_METRIC"
            )
    model, version = convert.model_and_version(request)
    return NewEvaluation(
        model=model,
        version=version,
        metrics={metric("metrics", name): value for name, value in request.metrics.items()},
        dataset=checks.line("dataset", request.dataset),
        note=checks.text("note", request.note),
        failure=failure,
        request_id=checks.line("request_id", request.request_id, checks.MAX_NAME_CHARS),
        body_sha256=convert.body_sha256(request),
    )
