"""Who is told of an alert, and when: once when it fires, again from time to time, and when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.monitoring.alerts.models import Alert, AlertState, Rule, Silence
from services.monitoring.notifications.models import AlertNews


def is_due(alert: Alert, rule: Rule, silences: Sequence[Silence], now: datetime) -> bool:
    """Say whether an alert is to be told of now, as it stands after its latest step.

    One that fires is told when nobody was told yet, or the last time is long enough ago by a clock that went either
    way; not while it is acknowledged. Its end is told to those who were told of it. A silence keeps all of it back:
    one that still fires when the silence is over is told then.
    """
    if any(silence.covers(alert, now) for silence in silences):
        return False
    match alert.state:
        case AlertState.PENDING:
            return False
        case AlertState.FIRING:
            if alert.acknowledgement is not None:
                return False
            return alert.send_time is None or abs(now - alert.send_time) >= rule.repeat_interval
        case AlertState.RESOLVED:
            return alert.send_time is not None


def news_of(alert: Alert) -> AlertNews:
    """Say of an alert what goes to a channel; `alert` as it stands before this is sent."""
    return AlertNews(
        alert_id=str(alert.id),
        rule_id=str(alert.rule_id),
        rule_name=alert.rule_name,
        type=alert.type.name,
        severity=alert.severity.name,
        state=alert.state.name,
        model=alert.target.model,
        version=alert.target.version,
        condition=alert.condition,
        message=alert.message,
        value=alert.value,
        threshold=alert.threshold,
        begin_time=alert.begin_time,
        fire_time=alert.fire_time,
        resolve_time=alert.resolve_time,
        repeated=alert.state is AlertState.FIRING and alert.send_time is not None,
        flapping=alert.flapping,
        check_id=str(alert.check_id or ""),
    )
