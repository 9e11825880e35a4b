"""Who is told of an alert, and when: once when it fires, again from time to time, and when it is over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.monitoring.alerts.models import Alert, AlertState, Rule, Silence
from services.monitoring.notifications.models import AlertNews


def due_channels(alert: Alert, rule: Rule, silences: Sequence[Silence], now: datetime) -> tuple[str, ...]:
    """Name the channels that are to be told of an alert now, as it stands after its latest step.

    Of one that fires, each channel of its rule that was not told yet, or was long enough ago by a clock that went
    either way; none while it is acknowledged, or a silence lies on it: if it still fires when the silence is over, it
    is told then. Its end is told to those who were told of it, whomever the rule tells by now, and in spite of a
    silence: nobody is left with an alert that is over.
    """
    match alert.state:
        case AlertState.PENDING:
            return ()
        case AlertState.RESOLVED:
            return tuple(alert.told)
        case AlertState.FIRING:
            if alert.acknowledgement is not None or any(silence.covers(alert, now) for silence in silences):
                return ()
            return tuple(each for each in rule.channels if _is_due(alert.told.get(each), rule, now))


def _is_due(told: datetime | None, rule: Rule, now: datetime) -> bool:
    return told is None or abs(now - told) >= rule.repeat_interval


def is_repeat(alert: Alert, channel: str) -> bool:
    """Say whether a channel was told before that an alert fires, and hears it again."""
    return alert.state is AlertState.FIRING and channel in alert.told


def news_of(alert: Alert, channel: str) -> AlertNews:
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
        repeated=is_repeat(alert, channel),
        flapping=alert.flapping,
        check_id=str(alert.check_id or ""),
    )
