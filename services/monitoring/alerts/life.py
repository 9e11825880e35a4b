"""The life of an alert: pending → firing → resolved. Pure: what is seen now, and the alert so far, give the next step.

Time is measured by what was seen, not by the clock's word: a turn adds the time since the one before, at most
`longest_gap` of it and never less than nothing. So neither a clock that jumps nor a service that was away makes a
condition look as if it had held.

A pending alert whose condition ends is forgotten: it never was one. An alert that comes and goes too often is damped:
it stays open until its condition has stayed away for a while, and is told once.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from uuid import UUID

from services.common.errors import FailedPrecondition
from services.monitoring.alerts.models import Acknowledgement, Alert, AlertEvent, AlertState, Rule, Target

FLAPPING_WINDOW = timedelta(hours=1)
FLAPPING_CHANGES = 6
"""So many beginnings and ends within the window, three times on and off, are too many."""
FLAPPING_QUIET = timedelta(minutes=30)
"""Then it is resolved only once its condition has been seen away for this long."""


class Verdict(enum.Enum):
    """What a rule makes of a version at one moment."""

    HOLDS = "holds"
    CLEAR = "clear"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict, the value that it rests on, and what that means in a sentence."""

    verdict: Verdict
    value: float | None
    message: str
    check_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Moment:
    """When a finding is judged, and how much time may at most be counted since the turn before."""

    time: datetime
    longest_gap: timedelta


@dataclass(frozen=True, slots=True)
class Step:
    """What comes of a judgement. `alert` None: it is forgotten; `events` are new entries of its history."""

    alert: Alert | None
    events: Sequence[AlertEvent] = ()
    fired: bool = False


@dataclass(frozen=True, slots=True)
class Birth:
    """What a new alert is made with; `recent_changes` counts what came and went within FLAPPING_WINDOW before it."""

    id: UUID
    target: Target
    recent_changes: int


def begin(birth: Birth, rule: Rule, condition: str, finding: Finding, moment: Moment) -> Step | None:
    """Begin an alert, pending or, where the condition need not hold for any time, firing; None: nothing holds."""
    if finding.verdict is not Verdict.HOLDS:
        return None
    alert = Alert(
        id=birth.id,
        rule_id=rule.id,
        rule_name=rule.name,
        rule_revision=rule.revision,
        target=birth.target,
        type=rule.type,
        severity=rule.severity,
        state=AlertState.PENDING,
        condition=condition,
        value=finding.value,
        threshold=rule.threshold,
        message=finding.message,
        begin_time=moment.time,
        judge_time=moment.time,
        change_time=moment.time,
        check_id=finding.check_id,
        last_value=finding.value,
        last_check_id=finding.check_id,
    )
    if not rule.hold:
        return _fire(alert, birth.recent_changes)
    return Step(alert, (_event(alert, finding.message),))


def go_on(alert: Alert, rule: Rule, finding: Finding, moment: Moment, recent_changes: int) -> Step | None:
    """Judge an open alert by its rule; None: it has ended, or a replica that is ahead has judged it.

    What it fired on stays, whatever is seen later.
    """
    ahead = alert.judge_time - moment.time
    if alert.state is AlertState.RESOLVED or timedelta() < ahead <= moment.longest_gap:
        return None
    gap = min(max(-ahead, timedelta()), moment.longest_gap)
    alert = replace(alert, judge_time=moment.time, change_time=max(alert.change_time, moment.time))
    if finding.verdict is Verdict.UNKNOWN:
        return Step(alert)
    alert = replace(alert, last_value=finding.value, last_check_id=finding.check_id or alert.last_check_id)
    if finding.verdict is Verdict.CLEAR:
        return _away(alert, finding, gap)
    alert = replace(alert, message=finding.message)
    if alert.state is AlertState.FIRING:
        return Step(replace(alert, held=timedelta()))
    alert = replace(alert, held=alert.held + gap, value=alert.last_value, check_id=alert.last_check_id)
    return _fire(alert, recent_changes) if alert.held >= rule.hold else Step(alert)


def end(alert: Alert, message: str, moment: Moment, *, actor: str = "") -> Step | None:
    """End an alert whatever its condition says: its rule no longer holds for it. None: it has ended before."""
    if alert.state is AlertState.RESOLVED:
        return None
    if alert.state is AlertState.PENDING:
        return Step(None)
    alert = replace(alert, judge_time=moment.time, change_time=max(alert.change_time, moment.time))
    return _resolve(alert, message, actor=actor)


def acknowledge(alert: Alert, acknowledgement: Acknowledgement) -> tuple[Alert, AlertEvent]:
    """Note that somebody has taken it in hand; the last word counts.

    Raises:
        FailedPrecondition: it has ended (ALERT_RESOLVED).
    """
    if alert.state is AlertState.RESOLVED:
        raise FailedPrecondition(
            f"alert {alert.id} was resolved at {alert.change_time.isoformat()}; only open ones can be acknowledged",
            reason="ALERT_RESOLVED",
        )
    time = max(alert.change_time, acknowledgement.time)
    alert = replace(alert, acknowledgement=replace(acknowledgement, time=time), change_time=time)
    said = f"acknowledged: {acknowledgement.note}" if acknowledgement.note else "acknowledged"
    return alert, _event(alert, said, actor=acknowledgement.by)


def _fire(alert: Alert, recent_changes: int) -> Step:
    flapping = recent_changes >= FLAPPING_CHANGES
    alert = replace(alert, state=AlertState.FIRING, fire_time=alert.change_time, held=timedelta(), flapping=flapping)
    return Step(alert, (_event(alert, alert.message + (_DAMPED if flapping else "")),), fired=True)


_DAMPED = (
    f"; it has come and gone often of late, so it is resolved only once it stays away for "
    f"{FLAPPING_QUIET // timedelta(minutes=1)}m"
)


def _away(alert: Alert, finding: Finding, gap: timedelta) -> Step:
    if alert.state is AlertState.PENDING:
        return Step(None)
    if alert.flapping and alert.held + gap < FLAPPING_QUIET:
        return Step(replace(alert, held=alert.held + gap))
    return _resolve(alert, finding.message)


def _resolve(alert: Alert, message: str, *, actor: str = "") -> Step:
    alert = replace(alert, state=AlertState.RESOLVED, resolve_time=alert.change_time, message=message)
    return Step(alert, (_event(alert, message, actor=actor),))


def _event(alert: Alert, message: str, *, actor: str = "") -> AlertEvent:
    return AlertEvent(alert.change_time, alert.state, alert.last_value, actor, message)
