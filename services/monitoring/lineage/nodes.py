"""What each thing looks like as a node. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from services.monitoring.lineage.models import AlertFound, CheckFound, Kind, Node, ProfileFound, VersionName
from services.monitoring.models import Inference
from services.monitoring.registry_reader import Evaluated, KeptDataset, Moved, RegisteredVersion, TrainingRun
from services.monitoring.retraining.models import Request

MAX_METRICS = 8
"""Of an evaluation's, that a lineage shows."""


def inference_node(inference: Inference) -> Node:
    """Show a prediction; of its payloads and its user nothing: GetInference gives them."""
    event = inference.event
    judged = [each.correct for each in inference.feedback if each.correct is not None]
    attributes = {
        "model": event.model,
        "version": event.version,
        "framework": event.framework,
        "latency_ms": f"{event.latency_ms:.4g}",
        "row_count": str(event.row_count),
        "error_code": event.error_code,
        "confidence": "" if event.confidence is None else f"{event.confidence:.4g}",
        "request_id": event.request_id,
        "trace_id": event.trace_id,
        "judged_right": f"{sum(judged)} of {len(judged)}" if judged else "",
    }
    title = f"A prediction by {event.model} {event.version}".rstrip()
    return Node(Kind.INFERENCE, str(event.inference_id), title, inference.time, _filled(attributes))


def version_node(name: VersionName, found: RegisteredVersion | None, missing: str = "") -> Node:
    """Show a version, with what the registry says of it."""
    title = f"Version {name.version} of {name.model}"
    if found is None:
        return Node(Kind.VERSION, str(name), title, missing=missing)
    attributes = {
        "stage": found.stage,
        "state": found.state,
        "framework": found.framework,
        "deployment_number": str(found.deployment_number),
        "parent_deployment_number": str(found.parent_deployment_number or ""),
        "source_version": found.source_version,
        "source": found.source,
        "training_run_id": found.training_run_id,
        "created_by": found.created_by,
        "promoted_by": found.promoted_by,
        "promoted_time": _written(found.promoted_time),
    }
    return Node(Kind.VERSION, str(name), title, found.create_time, _filled(attributes))


def run_node(run_id: str, found: TrainingRun | None, missing: str = "") -> Node:
    """Show a training run, with what the trainer says of it."""
    if found is None:
        return Node(Kind.TRAINING_RUN, run_id, "A training run", missing=missing)
    passed = {None: "", True: "yes", False: "no"}[found.validation_passed]
    attributes = {
        "state": found.state,
        "type": found.type,
        "requested_by": found.requested_by,
        "note": found.note,
        "parent_version": found.parent_version,
        "config_version": str(found.config_version or ""),
        "dataset": found.dataset,
        "new_version": found.new_version,
        "validation_passed": passed,
        "message": found.message,
    }
    title = f"A training run of {found.model}"
    return Node(Kind.TRAINING_RUN, run_id, title, found.create_time, _filled(attributes))


def dataset_node(name: str, found: KeptDataset | None, missing: str = "") -> Node:
    """Show a dataset, with what the trainer says of it."""
    title = f"The dataset {name}"
    if found is None:
        return Node(Kind.DATASET, name, title, missing=missing)
    attributes = {
        "row_count": str(found.row_count),
        "column_count": str(found.column_count),
        "digest": found.digest,
        "source": found.source,
        "created_by": found.created_by,
    }
    return Node(Kind.DATASET, name, title, found.create_time, _filled(attributes))


def evaluation_node(name: VersionName, found: Evaluated) -> Node:
    """Show how a version did on rows that it had not seen; of its metrics those that people look for first."""
    shown = sorted(found.metrics, key=lambda metric: (metric.count("_") + metric.count("["), metric))[:MAX_METRICS]
    attributes = {
        "passed": "yes" if found.passed else "no",
        "dataset": found.dataset,
        **{metric: f"{found.metrics[metric]:.4g}" for metric in shown},
        "shortfalls": "; ".join(found.shortfalls),
        "note": found.note,
        "evaluated_by": found.evaluated_by,
    }
    title = f"An evaluation of {name.model} {name.version}"
    return Node(Kind.EVALUATION, str(found.id), title, found.time, _filled(attributes))


def transition_node(name: VersionName, found: Moved) -> Node:
    """Show a version's move to a stage, and who approved it."""
    attributes = {
        "from_stage": found.from_stage,
        "to_stage": found.to_stage,
        "kind": found.kind,
        "promoted_by": found.promoted_by,
        "approved_by": found.approved_by,
        "note": found.note,
    }
    title = f"{name.model} {name.version} to {found.to_stage}"
    return Node(Kind.TRANSITION, str(found.id), title, found.time, _filled(attributes))


def profile_node(found: ProfileFound) -> Node:
    """Show a reference profile."""
    return Node(Kind.PROFILE, str(found.id), f"Reference profile {found.number}", found.time, _filled(found.attributes))


def check_node(found: CheckFound) -> Node:
    """Show a check."""
    kind = "drift" if found.is_drift else "data quality"
    title = f"A check of {found.of.model} {found.of.version} for {kind}"
    return Node(Kind.CHECK, str(found.id), title, found.time, _filled({"type": kind, **found.attributes}))


def alert_node(found: AlertFound) -> Node:
    """Show an alert."""
    title = f"The alert {found.rule_name} for {found.of.model} {found.of.version}".rstrip()
    return Node(Kind.ALERT, str(found.id), title, found.time, _filled(found.attributes))


def request_node(request: Request) -> Node:
    """Show a retraining request."""
    attributes = {
        "state": request.state.name,
        "reason": request.reason.name,
        "requested_by": request.requested_by,
        "label_count": str(request.label_count),
        "decided_by": request.decided_by,
        "decide_time": _written(request.decide_time),
        "decision_note": request.decision_note,
        "training_run_id": request.training_run_id,
        "new_version": request.new_version,
        "message": request.message,
    }
    title = f"A retraining request for {request.model} {request.version}".rstrip()
    return Node(Kind.RETRAINING_REQUEST, str(request.id), title, request.create_time, _filled(attributes))


def gone_node(kind: Kind, node_id: str, title: str) -> Node:
    """Show what something names and the database no longer has."""
    return Node(kind, node_id, title, missing="it is no longer kept")


def _filled(attributes: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in attributes.items() if value}


def _written(time: datetime | None) -> str:
    return "" if time is None else time.isoformat()
