"""What monitoring answers of alerts, retraining and what led to it, for the tests of the commands that show it."""

from __future__ import annotations

from google.protobuf.struct_pb2 import Struct

from penstock.api.monitoring.v1 import (
    alerts_pb2,
    configuration_pb2,
    drift_pb2,
    lineage_pb2,
    retraining_pb2,
)
from tests.monitoring_answers import ID, stamp


def alert(**more: object) -> alerts_pb2.Alert:
    """A firing drift alert with its history."""
    firing, pending = alerts_pb2.ALERT_STATE_FIRING, alerts_pb2.ALERT_STATE_PENDING
    message = "input drift of iris 2.0.0: effect 0.31, more than 0.1"
    found = alerts_pb2.Alert(
        id=f"{ID}4",
        rule_id=f"{ID}5",
        rule_name="drift",
        model="iris",
        version="2.0.0",
        type=alerts_pb2.ALERT_TYPE_DRIFT,
        severity=alerts_pb2.SEVERITY_CRITICAL,
        state=firing,
        condition="drift effect > 0.1 in the latest check of 24h",
        value=0.31,
        threshold=0.1,
        message=message,
        begin_time=stamp(minutes=20),
        fire_time=stamp(minutes=15),
        check_id=f"{ID}1",
        history=[
            alerts_pb2.AlertEvent(time=stamp(minutes=20), state=pending, value=0.31, message="the condition holds"),
            alerts_pb2.AlertEvent(time=stamp(minutes=15), state=firing, value=0.31, message=message),
        ],
    )
    found.MergeFrom(alerts_pb2.Alert(**more))  # type: ignore[arg-type]  # whatever a test gives
    return found


def rule(**more: object) -> alerts_pb2.AlertRule:
    """A rule on latency."""
    found = alerts_pb2.AlertRule(
        id=f"{ID}5",
        name="slow",
        enabled=True,
        type=alerts_pb2.ALERT_TYPE_LATENCY,
        severity=alerts_pb2.SEVERITY_WARNING,
        metric="p95_latency_ms",
        operator=alerts_pb2.OPERATOR_GREATER,
        threshold=200,
        window="15m",
        channels=["ops"],
        repeat_interval="4h",
        etag="e",
        update_time=stamp(days=2),
        updated_by="ada",
        condition="p95 latency over 15m > 200 ms, for 5m",
    )
    setattr(found, "for", "5m")
    found.MergeFrom(alerts_pb2.AlertRule(**more))  # type: ignore[arg-type]  # whatever a test gives
    return found


def retraining(**more: object) -> retraining_pb2.RetrainingRequest:
    """A pending request that an alert raised."""
    details = Struct()
    details.update({"metric": "effect", "value": 0.31, "features": ["petal_length"]})
    found = retraining_pb2.RetrainingRequest(
        id=f"{ID}6",
        model="iris",
        version="2.0.0",
        state=retraining_pb2.RETRAINING_STATE_PENDING,
        reason=retraining_pb2.RETRAINING_REASON_DRIFT_DETECTED,
        details=details,
        alert_id=f"{ID}4",
        check_id=f"{ID}1",
        label_count=812,
        requested_by="monitoring",
        create_time=stamp(minutes=14),
        expire_time=stamp(days=-7),
        history=[
            retraining_pb2.RetrainingEvent(
                time=stamp(minutes=14), state=retraining_pb2.RETRAINING_STATE_PENDING, note="drift effect 0.31"
            )
        ],
    )
    found.MergeFrom(retraining_pb2.RetrainingRequest(**more))  # type: ignore[arg-type]  # whatever a test gives
    return found


def lineage() -> lineage_pb2.GetLineageResponse:
    """From an alert back to the training data, and on to the version that answered it."""
    node, kinds = lineage_pb2.LineageNode, lineage_pb2
    nodes = [
        node(
            kind=kinds.LINEAGE_KIND_ALERT, id=f"{ID}4", title="The alert drift for iris 2.0.0", time=stamp(minutes=15)
        ),
        node(
            kind=kinds.LINEAGE_KIND_CHECK, id=f"{ID}1", title="A check of iris 2.0.0 for drift", time=stamp(minutes=20)
        ),
        node(
            kind=kinds.LINEAGE_KIND_VERSION,
            id="iris/2.0.0",
            title="Version 2.0.0 of iris",
            attributes={"stage": "production", "promoted_by": "ada"},
        ),
        node(kind=kinds.LINEAGE_KIND_PROFILE, id=f"{ID}2", title="Reference profile 3"),
        node(
            kind=kinds.LINEAGE_KIND_TRAINING_RUN,
            id="run-7",
            title="A run of the trainer",
            missing="there is no trainer",
        ),
        node(kind=kinds.LINEAGE_KIND_RETRAINING_REQUEST, id=f"{ID}6", title="A retraining request for iris 2.0.0"),
        node(kind=kinds.LINEAGE_KIND_VERSION, id="iris/3.0.0", title="Version 3.0.0 of iris"),
        node(kind=kinds.LINEAGE_KIND_DATASET, id="flowers/12", title="Dataset flowers/12"),
    ]
    edge = lineage_pb2.LineageEdge
    edges = [
        edge(from_node=1, to_node=0, relation="raised"),
        edge(from_node=2, to_node=1, relation="was checked by"),
        edge(from_node=3, to_node=1, relation="was the reference of"),
        edge(from_node=4, to_node=2, relation="trained"),
        edge(from_node=0, to_node=5, relation="raised"),
        edge(from_node=5, to_node=6, relation="led to"),
    ]
    return lineage_pb2.GetLineageResponse(nodes=nodes, edges=edges)


def configuration() -> configuration_pb2.GetConfigurationResponse:
    """What holds for a model that says two things itself."""
    effective = configuration_pb2.Configuration(
        drift=configuration_pb2.DriftConfiguration(
            enabled=True,
            interval="1h",
            window="24h",
            alpha=0.01,
            effect_floor=0.02,
            min_rows=50,
            gate=drift_pb2.DRIFT_GATE_PSI_CALIBRATED,
        ),
        retraining=configuration_pb2.RetrainingConfiguration(enabled=False, min_interval="7d", min_labels=500),
    )
    own = configuration_pb2.Configuration(drift=configuration_pb2.DriftConfiguration(interval="1h", alpha=0.01))
    return configuration_pb2.GetConfigurationResponse(effective=effective, own=own, etag="e")
