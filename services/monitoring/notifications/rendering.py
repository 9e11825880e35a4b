"""What a notification says: one JSON document, which webhooks get as it is and people as its title and text.

Receivers rely on the document, which docs/webhooks.md describes: fields are added, none changes its meaning. Times are
ISO 8601 in UTC, what is not known is null.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from services.common.outbox import MAX_BODY_BYTES
from services.monitoring.notifications.models import MAX_ALERTS, AlertNews, Notification

VERSION = 1
FIRING, RESOLVED = "FIRING", "RESOLVED"
_WORST_FIRST = ("CRITICAL", "WARNING", "INFO")
_MAX_TEXT_CHARS = 1_000
_SHOWN_ALERTS = 10
"""In the text for people; all of them are in the document."""


def alerts_document(notification: Notification, message_id: UUID, channel: str, now: datetime) -> bytes:
    """Write the document of a notification: of 50 alerts, or of as many of them as fit."""
    alerts = notification.alerts
    told = alerts[:MAX_ALERTS]
    while True:
        document = {
            "type": "alerts",
            **_head(message_id, channel, now, title_of(alerts), text_of(alerts)),
            "severity": _worst(alerts),
            "state": FIRING if any(alert.state == FIRING for alert in alerts) else RESOLVED,
            "left_out_count": len(alerts) - len(told),
            "alerts": [_alert(alert) for alert in told],
        }
        body = _encoded(document)
        if len(body) <= MAX_BODY_BYTES or not told:
            return body
        told = told[: len(told) // 2]


def trial_document(message_id: UUID, channel: str, sent_by: str, now: datetime) -> bytes:
    """Write the document of a test."""
    text = f"{sent_by} asked for this test of the channel {channel}. Nothing is wrong."
    document = {
        "type": "test",
        **_head(message_id, channel, now, f"Penstock: a test of {channel}", text),
        "severity": "INFO",
        "state": RESOLVED,
        "left_out_count": 0,
        "alerts": [],
    }
    return _encoded(document)


def title_of(alerts: Sequence[AlertNews]) -> str:
    """Say in a line what it is about: `CRITICAL: slow, iris 1.0.0`, `CRITICAL: slow and 1 more rule, iris 1.0.0`."""
    if not alerts:
        return "Penstock: no alerts"
    firing = [alert for alert in alerts if alert.state == FIRING]
    told = firing or alerts
    head = _worst(told) if firing else "Resolved"
    again = " again" if firing and all(alert.repeated for alert in firing) else ""
    # A line break would begin another header of a mail.
    return _cut(" ".join(f"{head}{again}: {_what(told)}".split()), 200)


def _what(told: Sequence[AlertNews]) -> str:
    """Name the rule, or the worst alert's and how many others, and whom it is about."""
    others = len({alert.rule_name for alert in told}) - 1
    targets = {f"{alert.model} {alert.version}".strip() for alert in told}
    if not others:
        where = targets.pop() if len(told) == 1 else f"{len(told)} model versions"
        return f"{told[0].rule_name}, {where}"
    where = targets.pop() if len(targets) == 1 else f"{len(targets)} model versions"
    return f"{told[0].rule_name} and {others} more {'rule' if others == 1 else 'rules'}, {where}"


def text_of(alerts: Sequence[AlertNews]) -> str:
    """Say it for people, in plain text: a paragraph an alert."""
    paragraphs = [_paragraph(alert) for alert in alerts[:_SHOWN_ALERTS]]
    if len(alerts) > _SHOWN_ALERTS:
        paragraphs.append(f"… and {len(alerts) - _SHOWN_ALERTS} more: penstock alert list")
    return "\n\n".join(paragraphs)


def _paragraph(alert: AlertNews) -> str:
    lines = [f"{_cut(alert.message, _MAX_TEXT_CHARS)}", f"Rule: {alert.rule_name} ({alert.condition})"]
    begun = alert.fire_time or alert.begin_time
    if alert.state == RESOLVED and alert.resolve_time is not None:
        lines.append(f"Resolved: {_for_people(alert.resolve_time)}, after it began {_for_people(begun)}")
    else:
        lines.append(f"{alert.severity} since {_for_people(begun)}" + (", told before" if alert.repeated else ""))
    if alert.flapping:
        lines.append("It comes and goes: until it stays away, you are not told each time.")
    lines.append(f"Alert: penstock alert show {alert.alert_id}")
    return "\n".join(lines)


def _head(message_id: UUID, channel: str, now: datetime, title: str, text: str) -> dict[str, Any]:
    return {
        "version": VERSION,
        "id": str(message_id),
        "time": _time(now),
        "channel": channel,
        "title": title,
        "text": text,
    }


def _alert(alert: AlertNews) -> dict[str, Any]:
    return {
        "id": alert.alert_id,
        "rule_id": alert.rule_id,
        "rule_name": alert.rule_name,
        "type": alert.type,
        "severity": alert.severity,
        "state": alert.state,
        "model": alert.model,
        "version": alert.version,
        "condition": _cut(alert.condition, _MAX_TEXT_CHARS),
        "message": _cut(alert.message, _MAX_TEXT_CHARS),
        "value": _number(alert.value),
        "threshold": _number(alert.threshold),
        "begin_time": _time(alert.begin_time),
        "fire_time": _time(alert.fire_time),
        "resolve_time": _time(alert.resolve_time),
        "repeated": alert.repeated,
        "flapping": alert.flapping,
        "check_id": alert.check_id or None,
    }


def _number(value: float | None) -> float | None:
    """Leave out what JSON cannot say."""
    return value if value is not None and math.isfinite(value) else None


def _worst(alerts: Sequence[AlertNews]) -> str:
    there = {alert.severity for alert in alerts}
    return next((severity for severity in _WORST_FIRST if severity in there), _WORST_FIRST[-1])


def _time(time: datetime | None) -> str | None:
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _for_people(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _cut(text: str, most_chars: int) -> str:
    return text if len(text) <= most_chars else text[: most_chars - 1] + "…"


def _encoded(document: dict[str, Any]) -> bytes:
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
