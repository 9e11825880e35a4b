"""The table of what people did to rules: appended to, and read the newest first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from enum import Enum
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.monitoring.alerts.models import AlertType, MissingData, Operator, Rule, RuleChange, Severity
from services.monitoring.drift.models import DriftType

_APPEND = """
INSERT INTO monitoring.alert_rule_changes (change_time, rule_id, model, rule_before, rule_after, changed_by)
VALUES (%(time)s, %(rule_id)s, %(model)s, %(before)s, %(after)s, %(changed_by)s)
"""
_PAGE = """
SELECT change_number, change_time, rule_id, rule_before, rule_after, changed_by
FROM monitoring.alert_rule_changes
WHERE (%(before)s::bigint IS NULL OR change_number < %(before)s)
  AND (%(rule_id)s::uuid IS NULL OR rule_id = %(rule_id)s)
  AND (%(model)s = '' OR model = %(model)s)
ORDER BY change_number DESC LIMIT %(limit)s
"""
_EXPIRE = "DELETE FROM monitoring.alert_rule_changes WHERE change_time < %(before)s"
_ENUMS: Mapping[str, type[Enum]] = {
    "type": AlertType, "severity": Severity, "operator": Operator, "drift_type": DriftType, "missing_data": MissingData,
}  # fmt: skip
_SPANS = ("window", "hold", "repeat_interval")
_TIMES = ("create_time", "update_time")


class RuleChangeTable:
    """What was done to rules, inside one transaction."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def append(self, before: Rule | None, after: Rule | None, *, changed_by: str, time: datetime) -> None:
        """Keep what somebody did to a rule; one of the two is there."""
        rule = after or before
        if rule is None:
            raise AssertionError("a change is of a rule")
        values = {"time": time, "rule_id": rule.id, "model": rule.model, "changed_by": changed_by}
        sides = {"before": _document(before), "after": _document(after)}
        self._connection.execute(_APPEND, {**values, **sides})

    def page(self, model: str, rule_id: UUID | None, *, before: int | None, limit: int) -> list[RuleChange]:
        """List the newest, those before a number where one is given; of a model's own rules, or of one rule."""
        values = {"model": model, "rule_id": rule_id, "before": before, "limit": limit}
        return [_change(row) for row in self._connection.execute(_PAGE, values)]

    def expire(self, before: datetime) -> None:
        """Forget what was done before a time."""
        self._connection.execute(_EXPIRE, {"before": before})


def _document(rule: Rule | None) -> Jsonb | None:
    return None if rule is None else Jsonb({name: _plain(value) for name, value in asdict(rule).items()})


def _plain(value: Any) -> Any:
    match value:
        case Enum():
            return value.name
        case timedelta():
            return value.total_seconds()
        case datetime():
            return value.isoformat()
        case UUID():
            return str(value)
    return value


def _rule(document: Mapping[str, Any] | None) -> Rule | None:
    if document is None:
        return None
    values: dict[str, Any] = {**document, "id": UUID(document["id"]), "channels": tuple(document["channels"])}
    values.update({name: kind[values[name]] for name, kind in _ENUMS.items() if values[name] is not None})
    values.update({name: timedelta(seconds=values[name]) for name in _SPANS})
    values.update({name: datetime.fromisoformat(values[name]) for name in _TIMES})
    return Rule(**values)


def _change(row: Mapping[str, Any]) -> RuleChange:
    return RuleChange(
        number=row["change_number"],
        time=row["change_time"],
        rule_id=row["rule_id"],
        before=_rule(row["rule_before"]),
        after=_rule(row["rule_after"]),
        changed_by=row["changed_by"],
    )
