"""The table of rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from enum import Enum
from typing import Any
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from services.monitoring.alerts.models import AlertType, MissingData, Operator, Rule, Severity
from services.monitoring.drift.models import DriftType

_SELECT = """
SELECT rule_id AS id, name, model, version, enabled, type, severity, metric, operator, threshold,
    window_length AS "window", hold, drift_type, feature, error_code, min_count, missing_data, repeat_interval,
    description, revision, create_time, update_time, updated_by,
    ARRAY(SELECT channel FROM monitoring.alert_rule_channels AS told WHERE told.rule_id = rule.rule_id
        ORDER BY position) AS channels
FROM monitoring.alert_rules AS rule
"""
_FIND = f"{_SELECT} WHERE rule_id = %(rule_id)s"
_LOCK = f"{_FIND} FOR UPDATE OF rule"
_ALL = f"{_SELECT} ORDER BY name, model, version"
# A rule holds for a model, or a version, unless a more specific one of its name does.
_PAGE = f"""
{_SELECT}
WHERE (name, model, version) > (%(name)s, %(model_after)s, %(version_after)s)
  AND (%(model)s = '' OR model IN ('', %(model)s))
  AND (%(version)s = '' OR version IN ('', %(version)s))
  AND (%(model)s = '' OR NOT EXISTS (
    SELECT FROM monitoring.alert_rules AS own
    WHERE own.name = rule.name AND own.model = %(model)s AND own.version IN ('', %(version)s)
      AND (own.model, own.version) > (rule.model, rule.version)
  ))
ORDER BY name, model, version LIMIT %(limit)s
"""
_COUNT = "SELECT count(*) AS count FROM monitoring.alert_rules"
_LOCK_COUNT = "SELECT pg_advisory_xact_lock(hashtextextended('penstock.monitoring.alert_rules', 0))"
_INSERT = """
INSERT INTO monitoring.alert_rules (
    rule_id, name, model, version, enabled, type, severity, metric, operator, threshold, window_length, hold,
    drift_type, feature, error_code, min_count, missing_data, repeat_interval, description, revision, create_time,
    update_time, updated_by
)
VALUES (
    %(id)s, %(name)s, %(model)s, %(version)s, %(enabled)s, %(type)s, %(severity)s, %(metric)s, %(operator)s,
    %(threshold)s, %(window)s, %(hold)s, %(drift_type)s, %(feature)s, %(error_code)s, %(min_count)s, %(missing_data)s,
    %(repeat_interval)s, %(description)s, %(revision)s, %(create_time)s, %(update_time)s, %(updated_by)s
)
"""
_UPDATE = """
UPDATE monitoring.alert_rules SET
    name = %(name)s, model = %(model)s, version = %(version)s, enabled = %(enabled)s, type = %(type)s,
    severity = %(severity)s, metric = %(metric)s, operator = %(operator)s, threshold = %(threshold)s,
    window_length = %(window)s, hold = %(hold)s, drift_type = %(drift_type)s, feature = %(feature)s,
    error_code = %(error_code)s, min_count = %(min_count)s, missing_data = %(missing_data)s,
    repeat_interval = %(repeat_interval)s, description = %(description)s, revision = %(revision)s,
    update_time = %(update_time)s, updated_by = %(updated_by)s
WHERE rule_id = %(id)s
"""
_TELL_NOBODY = "DELETE FROM monitoring.alert_rule_channels WHERE rule_id = %(rule_id)s"
_TELL = """
INSERT INTO monitoring.alert_rule_channels (rule_id, position, channel)
SELECT %(rule_id)s, position, channel FROM unnest(%(channels)s::text[]) WITH ORDINALITY AS told (channel, position)
"""
_NAMING = """
SELECT DISTINCT name FROM monitoring.alert_rules JOIN monitoring.alert_rule_channels USING (rule_id)
WHERE channel = %(channel)s ORDER BY name LIMIT 10
"""
_THERE = "SELECT name FROM monitoring.channels WHERE name = ANY (%(names)s)"
_DELETE = "DELETE FROM monitoring.alert_rules WHERE rule_id = %(rule_id)s"


class RuleTable:
    """Rules, inside one transaction."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def find(self, rule_id: UUID) -> Rule | None:
        """Find a rule."""
        return self._find(_FIND, rule_id)

    def lock(self, rule_id: UUID) -> Rule | None:
        """Find a rule, and keep others from changing it, or from changing alerts of it, until the commit."""
        return self._find(_LOCK, rule_id)

    def all(self) -> list[Rule]:
        """Give all of them, by name."""
        return [_rule(row) for row in self._connection.execute(_ALL)]

    def page(self, model: str, version: str, *, after: tuple[str, str, str], limit: int) -> list[Rule]:
        """List those that hold for a model and a version, by name; empty ones mean all."""
        name, model_after, version_after = after
        values = {
            "model": model, "version": version, "name": name, "model_after": model_after,
            "version_after": version_after, "limit": limit,
        }  # fmt: skip
        return [_rule(row) for row in self._connection.execute(_PAGE, values)]

    def count(self) -> int:
        """Count them, and keep others from adding some until the commit."""
        self._connection.execute(_LOCK_COUNT)
        row = self._connection.execute(_COUNT).fetchone()
        return int(row["count"]) if row else 0

    def insert(self, rule: Rule) -> None:
        """Add a rule; see `CONSTRAINTS` for what is raised."""
        self._connection.execute(_INSERT, _values(rule))
        self._connection.execute(_TELL, {"rule_id": rule.id, "channels": list(rule.channels)})

    def update(self, rule: Rule) -> None:
        """Replace a rule; raises as `insert` does."""
        self._connection.execute(_UPDATE, _values(rule))
        self._connection.execute(_TELL_NOBODY, {"rule_id": rule.id})
        self._connection.execute(_TELL, {"rule_id": rule.id, "channels": list(rule.channels)})

    def delete(self, rule_id: UUID) -> None:
        """Delete a rule."""
        self._connection.execute(_DELETE, {"rule_id": rule_id})

    def naming(self, channel: str) -> list[str]:
        """Name some rules that tell a channel."""
        return [row["name"] for row in self._connection.execute(_NAMING, {"channel": channel})]

    def channels_there(self, names: Iterable[str]) -> set[str]:
        """Give those of these channels that there are."""
        return {row["name"] for row in self._connection.execute(_THERE, {"names": list(names)})}

    def _find(self, statement: str, rule_id: UUID) -> Rule | None:
        row = self._connection.execute(statement, {"rule_id": rule_id}).fetchone()
        return None if row is None else _rule(row)


def _values(rule: Rule) -> dict[str, Any]:
    return {name: value.name if isinstance(value, Enum) else value for name, value in asdict(rule).items()}


def _rule(row: Mapping[str, Any]) -> Rule:
    enums = {
        "type": AlertType[row["type"]],
        "severity": Severity[row["severity"]],
        "operator": Operator[row["operator"]],
        "drift_type": DriftType[row["drift_type"]] if row["drift_type"] else None,
        "missing_data": MissingData[row["missing_data"]],
    }
    return Rule(**{**row, **enums, "channels": tuple(row["channels"])})
