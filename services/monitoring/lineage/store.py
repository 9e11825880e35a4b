"""Reading what the other parts keep, as far as a lineage shows it: each question by an index, and with a limit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from penstock.api.monitoring.v1.drift_pb2 import DriftCheck
from penstock.api.monitoring.v1.quality_pb2 import QualityCheck
from services.common.postgres import Database
from services.monitoring.drift.models import DriftStatus
from services.monitoring.lineage.models import MAX_RELATED, AlertFound, CheckFound, ProfileFound, VersionName
from services.monitoring.quality.models import QualityStatus

_DRIFT = "check_id, model, version, create_time, profile_id::text AS profile_id, status, overview"
_QUALITY = "check_id, model, version, create_time, '' AS profile_id, status, overview"
_ALERT = """
alert_id, model, version, check_id, rule_name, type, severity, state, condition, value, last_value, threshold, message,
begin_time, fire_time, resolve_time, acknowledged_by, acknowledge_note
"""

_FIND_DRIFT = f"SELECT {_DRIFT} FROM monitoring.drift_checks WHERE check_id = %(id)s"  # noqa: S608 - constants of ours
_FIND_QUALITY = f"SELECT {_QUALITY} FROM monitoring.quality_checks WHERE check_id = %(id)s"  # noqa: S608 - as above
_FIND_ALERT = f"SELECT {_ALERT} FROM monitoring.alerts WHERE alert_id = %(id)s"  # noqa: S608 - as above

_DRIFT_CHECKS = f"""
SELECT {_DRIFT} FROM monitoring.drift_checks
WHERE model = %(model)s AND version = %(version)s AND status = %(bad)s
ORDER BY check_id DESC LIMIT %(limit)s
"""  # noqa: S608 - as above

_QUALITY_CHECKS = f"""
SELECT {_QUALITY} FROM monitoring.quality_checks
WHERE model = %(model)s AND version = %(version)s AND status = %(bad)s
ORDER BY check_id DESC LIMIT %(limit)s
"""  # noqa: S608 - as above

# An alert that is pending is none yet.
_ALERTS = f"""
SELECT {_ALERT} FROM monitoring.alerts
WHERE model = %(model)s AND version = %(version)s AND fire_time IS NOT NULL
ORDER BY alert_id DESC LIMIT %(limit)s
"""  # noqa: S608 - as above

_ALERTS_ON = f"""
SELECT {_ALERT} FROM monitoring.alerts
WHERE check_id = %(check_id)s AND fire_time IS NOT NULL
ORDER BY alert_id DESC LIMIT %(limit)s
"""  # noqa: S608 - as above

_PROFILE = """
SELECT profile_id, profile_number, create_time, created_by, row_count, accuracy, version, note
FROM monitoring.profiles
"""
_ATTACHED = f"""
{_PROFILE}
WHERE profile_id = (
    SELECT profile_id FROM monitoring.profile_attachments WHERE model = %(model)s AND version = %(version)s
)
"""  # noqa: S608 - as above
_FIND_PROFILE = f"{_PROFILE} WHERE profile_id = %(id)s"


class LineageStore:
    """What checks, alerts and profiles there are."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def find_check(self, check_id: UUID) -> CheckFound | None:
        """Find a check of either kind."""
        with self._db.transaction() as connection:
            row = connection.execute(_FIND_DRIFT, {"id": check_id}).fetchone()
            if row is not None:
                return _drift_check(row)
            row = connection.execute(_FIND_QUALITY, {"id": check_id}).fetchone()
            return None if row is None else _quality_check(row)

    def checks_of(self, of: VersionName) -> list[CheckFound]:
        """Give the newest checks of a version that found something, of either kind."""
        values = {**of._asdict(), "limit": MAX_RELATED}
        with self._db.transaction() as connection:
            drift = connection.execute(_DRIFT_CHECKS, {**values, "bad": DriftStatus.DRIFTED.value})
            found = [_drift_check(row) for row in drift]
            quality = connection.execute(_QUALITY_CHECKS, {**values, "bad": QualityStatus.VIOLATED.value})
            found += [_quality_check(row) for row in quality]
        return sorted(found, key=lambda check: check.id, reverse=True)[:MAX_RELATED]

    def find_alert(self, alert_id: UUID) -> AlertFound | None:
        """Find an alert."""
        with self._db.transaction() as connection:
            row = connection.execute(_FIND_ALERT, {"id": alert_id}).fetchone()
        return None if row is None else _alert(row)

    def alerts_of(self, of: VersionName) -> list[AlertFound]:
        """Give the newest alerts of a version that fired."""
        with self._db.transaction() as connection:
            return [_alert(row) for row in connection.execute(_ALERTS, {**of._asdict(), "limit": MAX_RELATED})]

    def alerts_on(self, check_id: UUID) -> list[AlertFound]:
        """Give the newest alerts that fired on a check."""
        with self._db.transaction() as connection:
            values = {"check_id": check_id, "limit": MAX_RELATED}
            return [_alert(row) for row in connection.execute(_ALERTS_ON, values)]

    def profile_of(self, of: VersionName) -> ProfileFound | None:
        """Find the profile that a version is compared with now."""
        with self._db.transaction() as connection:
            row = connection.execute(_ATTACHED, of._asdict()).fetchone()
        return None if row is None else _profile(row)

    def find_profile(self, profile_id: UUID) -> ProfileFound | None:
        """Find a profile."""
        with self._db.transaction() as connection:
            row = connection.execute(_FIND_PROFILE, {"id": profile_id}).fetchone()
        return None if row is None else _profile(row)


def _drift_check(row: Mapping[str, Any]) -> CheckFound:
    message = DriftCheck.FromString(row["overview"])
    attributes = {
        "status": DriftStatus(row["status"]).name,
        "effect": f"{message.effect:.4g}",
        "drifted_count": str(message.drifted_count),
        "summary": message.summary,
    }
    return _check(row, attributes, is_drift=True)


def _quality_check(row: Mapping[str, Any]) -> CheckFound:
    message = QualityCheck.FromString(row["overview"])
    attributes = {
        "status": QualityStatus(row["status"]).name,
        "violation_count": str(message.violation_count),
        "summary": message.summary,
    }
    return _check({**row, "profile_id": message.profile_id}, attributes, is_drift=False)


def _check(row: Mapping[str, Any], attributes: Mapping[str, str], *, is_drift: bool) -> CheckFound:
    return CheckFound(
        id=row["check_id"],
        of=VersionName(row["model"], row["version"]),
        is_drift=is_drift,
        profile_id=row["profile_id"],
        time=row["create_time"],
        attributes=attributes,
    )


def _alert(row: Mapping[str, Any]) -> AlertFound:
    attributes = {
        "type": row["type"],
        "severity": row["severity"],
        "state": row["state"],
        "condition": row["condition"],
        "value": _number(row["value"]),
        "last_value": "" if row["last_value"] == row["value"] else _number(row["last_value"]),
        "threshold": f"{row['threshold']:.4g}",
        "message": row["message"],
        "fire_time": _written(row["fire_time"]),
        "resolve_time": _written(row["resolve_time"]),
        "acknowledged_by": row["acknowledged_by"] or "",
        "acknowledge_note": row["acknowledge_note"] or "",
    }
    return AlertFound(
        id=row["alert_id"],
        of=VersionName(row["model"], row["version"]),
        check_id=row["check_id"],
        rule_name=row["rule_name"],
        fired=row["fire_time"] is not None,
        time=row["begin_time"],
        attributes=attributes,
    )


def _profile(row: Mapping[str, Any]) -> ProfileFound:
    attributes = {
        "made_for": row["version"],
        "created_by": row["created_by"],
        "row_count": str(row["row_count"]),
        "accuracy": "" if row["accuracy"] is None else f"{row['accuracy']:.4g}",
        "note": row["note"],
    }
    return ProfileFound(row["profile_id"], row["profile_number"], row["create_time"], attributes)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _written(time: Any) -> str:
    return "" if time is None else str(time.isoformat())
