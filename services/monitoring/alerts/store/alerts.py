"""The tables of alerts and of their history."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from enum import Enum
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.monitoring.alerts.models import (
    Acknowledgement,
    Alert,
    AlertEvent,
    AlertFilters,
    AlertState,
    AlertType,
    Severity,
    Target,
)

MAX_HISTORY = 1_000
_COLUMNS = (
    "alert_id AS id, rule_id, rule_name, rule_revision, model, version, type, severity, state, condition, value, "
    "threshold, message, begin_time, judge_time, change_time, held, fire_time, resolve_time, "
    "acknowledge_time, acknowledged_by, acknowledge_note, flapping, check_id, last_value, last_check_id, told"
)
_SELECT = f"SELECT {_COLUMNS} FROM monitoring.alerts"  # noqa: S608 - the braces are a constant of ours
_FIND = f"{_SELECT} WHERE alert_id = %(alert_id)s"
_LOCK = f"{_FIND} FOR UPDATE"
_OPEN = f"""
{_SELECT} WHERE rule_id = %(rule_id)s AND state <> 'RESOLVED'
  AND (%(models)s::text[] IS NULL OR model = ANY (%(models)s)) ORDER BY alert_id FOR UPDATE
"""
_OPEN_TARGETS = "SELECT rule_id, model, version FROM monitoring.alerts WHERE state <> 'RESOLVED'"
_PAGE = f"""
{_SELECT}
WHERE (%(before)s::uuid IS NULL OR alert_id < %(before)s)
  AND (%(model)s = '' OR model = %(model)s)
  AND (%(version)s = '' OR version = %(version)s)
  AND (%(severity)s::text IS NULL OR severity = %(severity)s)
  AND (%(states)s::text[] = '{{}}' OR state = ANY (%(states)s))
  AND (%(type)s::text IS NULL OR type = %(type)s)
ORDER BY alert_id DESC LIMIT %(limit)s
"""
_RECENT = """
SELECT model, version,
    count(fire_time) FILTER (WHERE fire_time > %(since)s)
    + count(resolve_time) FILTER (WHERE resolve_time > %(since)s) AS change_count
FROM monitoring.alerts
WHERE rule_id = %(rule_id)s AND (resolve_time IS NULL OR resolve_time > %(since)s)
GROUP BY model, version
"""
_FIRING = f"{_SELECT} WHERE state = 'FIRING' ORDER BY model, severity"
_SAVE = """
INSERT INTO monitoring.alerts (
    alert_id, rule_id, rule_name, rule_revision, model, version, type, severity, state, condition, value, threshold,
    message, begin_time, judge_time, change_time, held, fire_time, resolve_time, acknowledge_time,
    acknowledged_by, acknowledge_note, flapping, check_id, last_value, last_check_id, told
)
VALUES (
    %(id)s, %(rule_id)s, %(rule_name)s, %(rule_revision)s, %(model)s, %(version)s, %(type)s, %(severity)s, %(state)s,
    %(condition)s, %(value)s, %(threshold)s, %(message)s, %(begin_time)s, %(judge_time)s, %(change_time)s, %(held)s,
    %(fire_time)s, %(resolve_time)s, %(acknowledge_time)s, %(acknowledged_by)s, %(acknowledge_note)s, %(flapping)s,
    %(check_id)s, %(last_value)s, %(last_check_id)s, %(told)s
)
ON CONFLICT ON CONSTRAINT alerts_pkey DO UPDATE SET
    state = excluded.state, value = excluded.value, message = excluded.message, judge_time = excluded.judge_time,
    change_time = excluded.change_time, held = excluded.held, fire_time = excluded.fire_time,
    resolve_time = excluded.resolve_time, acknowledge_time = excluded.acknowledge_time,
    acknowledged_by = excluded.acknowledged_by, acknowledge_note = excluded.acknowledge_note,
    flapping = excluded.flapping, check_id = excluded.check_id, last_value = excluded.last_value,
    last_check_id = excluded.last_check_id, told = excluded.told
"""
_WAITING = "SELECT DISTINCT ordering_key, destination FROM monitoring.outbox WHERE state = 'WAITING'"
_FORGET = "DELETE FROM monitoring.alerts WHERE alert_id = %(alert_id)s"
_APPEND = """
INSERT INTO monitoring.alert_events (alert_id, event_time, state, value, actor, message)
VALUES (%(alert_id)s, %(time)s, %(state)s, %(value)s, %(actor)s, %(message)s)
"""
_HISTORY = """
SELECT event_time AS time, state, value, actor, message FROM monitoring.alert_events
WHERE alert_id = %(alert_id)s ORDER BY event_number DESC LIMIT %(limit)s
"""
_EXPIRE = """
DELETE FROM monitoring.alerts WHERE alert_id IN (
    SELECT alert_id FROM monitoring.alerts
    WHERE state = 'RESOLVED' AND resolve_time < %(before)s ORDER BY resolve_time LIMIT %(limit)s
)
"""


class AlertTable:
    """Alerts, inside one transaction."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def find(self, alert_id: UUID) -> Alert | None:
        """Find an alert."""
        return self._find(_FIND, alert_id)

    def lock(self, alert_id: UUID) -> Alert | None:
        """Find an alert, and keep others from changing it until the commit."""
        return self._find(_LOCK, alert_id)

    def open_of(self, rule_id: UUID, models: Iterable[str] | None = None) -> dict[Target, Alert]:
        """Give a rule's open alerts, of these models or of all, and keep others from changing them until the commit."""
        values = {"rule_id": rule_id, "models": None if models is None else list(models)}
        found = [_alert(row) for row in self._connection.execute(_OPEN, values)]
        return {alert.target: alert for alert in found}

    def open_targets(self) -> dict[UUID, set[Target]]:
        """Say for what each rule has open alerts."""
        targets: dict[UUID, set[Target]] = {}
        for row in self._connection.execute(_OPEN_TARGETS):
            targets.setdefault(row["rule_id"], set()).add(Target(row["model"], row["version"]))
        return targets

    def page(self, filters: AlertFilters, *, before: UUID | None, limit: int) -> list[Alert]:
        """List the newest, those before an id where one is given."""
        values = {
            "model": filters.model, "version": filters.version, "before": before, "limit": limit,
            "severity": filters.severity.name if filters.severity else None,
            "states": [state.name for state in filters.states],
            "type": filters.type.name if filters.type else None,
        }  # fmt: skip
        return [_alert(row) for row in self._connection.execute(_PAGE, values)]

    def recent_changes(self, rule_id: UUID, since: datetime) -> dict[Target, int]:
        """Count the beginnings and ends of a rule's alerts since a time."""
        rows = self._connection.execute(_RECENT, {"rule_id": rule_id, "since": since})
        return {Target(row["model"], row["version"]): int(row["change_count"]) for row in rows}

    def firing(self) -> list[Alert]:
        """Give those that fire, by model and severity."""
        return [_alert(row) for row in self._connection.execute(_FIRING)]

    def waiting(self) -> frozenset[tuple[str, str]]:
        """Say of which models messages wait, and for which channels."""
        rows = self._connection.execute(_WAITING)
        return frozenset((row["ordering_key"], row["destination"]) for row in rows)

    def save(self, alerts: Iterable[tuple[Alert, Collection[AlertEvent]]]) -> None:
        """Write alerts as they now are, and append to their histories; see `CONSTRAINTS` for what is raised."""
        saved = list(alerts)
        with self._connection.cursor() as cursor:
            cursor.executemany(_SAVE, [_values(alert) for alert, _ in saved])
            cursor.executemany(_APPEND, [_event_values(alert, event) for alert, events in saved for event in events])

    def forget(self, alert_id: UUID) -> None:
        """Delete an alert with its history."""
        self._connection.execute(_FORGET, {"alert_id": alert_id})

    def history(self, alert_id: UUID) -> Sequence[AlertEvent]:
        """Give the newest MAX_HISTORY steps, the oldest first."""
        rows = self._connection.execute(_HISTORY, {"alert_id": alert_id, "limit": MAX_HISTORY}).fetchall()
        return [AlertEvent(**{**row, "state": AlertState[row["state"]]}) for row in reversed(rows)]

    def expire(self, before: datetime, *, limit: int) -> int:
        """Delete some that were resolved before a time; says how many."""
        return self._connection.execute(_EXPIRE, {"before": before, "limit": limit}).rowcount

    def _find(self, statement: str, alert_id: UUID) -> Alert | None:
        row = self._connection.execute(statement, {"alert_id": alert_id}).fetchone()
        return None if row is None else _alert(row)


def _event_values(alert: Alert, event: AlertEvent) -> dict[str, Any]:
    return {**asdict(event), "alert_id": alert.id, "state": event.state.name}


def _values(alert: Alert) -> dict[str, Any]:
    names = (name for name in Alert.__dataclass_fields__ if name not in ("target", "acknowledgement", "told"))
    values = {name: getattr(alert, name) for name in names}
    known = alert.acknowledgement
    return {
        **{name: value.name if isinstance(value, Enum) else value for name, value in values.items()},
        "model": alert.target.model,
        "version": alert.target.version,
        "told": Jsonb({channel: time.isoformat() for channel, time in alert.told.items()}),
        "acknowledge_time": known.time if known else None,
        "acknowledged_by": known.by if known else None,
        "acknowledge_note": known.note if known else None,
    }


def _alert(row: Mapping[str, Any]) -> Alert:
    values = dict(row)
    time, by, note = (values.pop(name) for name in ("acknowledge_time", "acknowledged_by", "acknowledge_note"))
    made: dict[str, Any] = {
        "type": AlertType[values.pop("type")],
        "severity": Severity[values.pop("severity")],
        "state": AlertState[values.pop("state")],
        "target": Target(values.pop("model"), values.pop("version")),
        "acknowledgement": Acknowledgement(time, by, note) if time else None,
        "told": {channel: datetime.fromisoformat(told) for channel, told in values.pop("told").items()},
    }
    return Alert(**values, **made)
