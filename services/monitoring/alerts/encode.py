"""From our dataclasses to the contract's messages; what is None stays unset."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import alerts_pb2 as pb
from penstock.api.monitoring.v1 import drift_pb2
from penstock.durations import write_duration
from services.monitoring.alerts.alerts import ShownAlert
from services.monitoring.alerts.conditions import in_words
from services.monitoring.alerts.models import AlertEvent, Rule, RuleChange, Silence


def rule_proto(rule: Rule, doubts: Sequence[str] = ()) -> pb.AlertRule:
    """Encode a rule, with its condition in words; `doubts` are what may be a mistake of it."""
    message = pb.AlertRule(
        id=str(rule.id),
        name=rule.name,
        enabled=rule.enabled,
        type=pb.AlertType.ValueType(rule.type.value),
        severity=pb.Severity.ValueType(rule.severity.value),
        model=rule.model,
        version=rule.version,
        metric=rule.metric,
        operator=pb.Operator.ValueType(rule.operator.value),
        threshold=rule.threshold,
        window=write_duration(rule.window),
        drift_type=drift_pb2.DriftType.ValueType(rule.drift_type.value if rule.drift_type else 0),
        feature=rule.feature,
        error_code=rule.error_code,
        min_count=rule.min_count,
        missing_data=pb.MissingData.ValueType(rule.missing_data.value),
        channels=rule.channels,
        repeat_interval=write_duration(rule.repeat_interval),
        description=rule.description,
        etag=rule.etag,
        create_time=_time(rule.create_time),
        update_time=_time(rule.update_time),
        updated_by=rule.updated_by,
        condition=in_words(rule),
        warnings=doubts,
    )
    setattr(message, "for", write_duration(rule.hold))
    return message


def alert_proto(shown: ShownAlert) -> pb.Alert:
    """Encode an alert, with what is there of its history."""
    alert, known = shown.alert, shown.alert.acknowledgement
    return pb.Alert(
        id=str(alert.id),
        rule_id=str(alert.rule_id),
        rule_name=alert.rule_name,
        model=alert.target.model,
        version=alert.target.version,
        type=pb.AlertType.ValueType(alert.type.value),
        severity=pb.Severity.ValueType(alert.severity.value),
        state=pb.AlertState.ValueType(alert.state.value),
        condition=alert.condition,
        value=alert.value,
        threshold=alert.threshold,
        message=alert.message,
        begin_time=_time(alert.begin_time),
        fire_time=_time(alert.fire_time),
        resolve_time=_time(alert.resolve_time),
        acknowledge_time=_time(known.time) if known else None,
        acknowledged_by=known.by if known else "",
        acknowledge_note=known.note if known else "",
        silenced=shown.silenced,
        flapping=alert.flapping,
        check_id=str(alert.check_id or ""),
        history=map(_event_proto, shown.history),
        told_channels=sorted(alert.told),
        last_value=alert.last_value,
        last_check_id=str(alert.last_check_id or ""),
    )


def _event_proto(event: AlertEvent) -> pb.AlertEvent:
    return pb.AlertEvent(
        time=_time(event.time),
        state=pb.AlertState.ValueType(event.state.value),
        value=event.value,
        actor=event.actor,
        message=event.message,
    )


def silence_proto(silence: Silence, doubts: Sequence[str] = ()) -> pb.Silence:
    """Encode a silence; `doubts` are what may be a mistake of it."""
    return pb.Silence(
        id=str(silence.id),
        model=silence.model,
        version=silence.version,
        rule_name=silence.rule_name,
        severity=pb.Severity.ValueType(silence.severity.value if silence.severity else 0),
        begin_time=_time(silence.begin_time),
        end_time=_time(silence.end_time),
        note=silence.note,
        created_by=silence.created_by,
        without_version=silence.without_version,
        warnings=doubts,
    )


def rules_response(rules: Sequence[Rule], token: str) -> pb.ListAlertRulesResponse:
    """Encode a page of rules."""
    return pb.ListAlertRulesResponse(rules=map(rule_proto, rules), next_page_token=token)


def changes_response(changes: Sequence[RuleChange], token: str) -> pb.ListAlertRuleChangesResponse:
    """Encode a page of what was done to rules."""
    return pb.ListAlertRuleChangesResponse(changes=map(_change_proto, changes), next_page_token=token)


def _change_proto(change: RuleChange) -> pb.AlertRuleChange:
    return pb.AlertRuleChange(
        time=_time(change.time),
        rule_id=str(change.rule_id),
        before=rule_proto(change.before) if change.before else None,
        after=rule_proto(change.after) if change.after else None,
        changed_by=change.changed_by,
    )


def alerts_response(alerts: Sequence[ShownAlert], token: str) -> pb.ListAlertsResponse:
    """Encode a page of alerts."""
    return pb.ListAlertsResponse(alerts=map(alert_proto, alerts), next_page_token=token)


def silences_response(silences: Sequence[Silence], token: str) -> pb.ListSilencesResponse:
    """Encode a page of silences."""
    return pb.ListSilencesResponse(silences=map(silence_proto, silences), next_page_token=token)


def _time(time: datetime | None) -> Timestamp | None:
    if time is None:
        return None
    timestamp = Timestamp()
    timestamp.FromDatetime(time)
    return timestamp
