"""Rules, findings and what they rest on, for the tests of alerts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.monitoring.alerts.models import AlertType, MissingData, Operator, Rule, RuleDraft, Severity, Target
from services.monitoring.alerts.registered import Standing
from services.monitoring.alerts.sources import Sources
from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift.models import DriftCheck, DriftResult, DriftStatus, DriftType, Trigger
from services.monitoring.models import Window
from services.monitoring.quality.models import QualityCheck, QualityFinding, QualityIssue, QualityStatus
from services.monitoring.rollups.models import Counts
from services.monitoring.rollups.totals import EveryTotal

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
IRIS = Target("iris", "1.0.0")
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)


def draft(**changes: Any) -> RuleDraft:
    """A rule about errors, but for what is given."""
    given: dict[str, Any] = {
        "name": "errors",
        "enabled": True,
        "type": AlertType.ERROR_RATE,
        "severity": Severity.CRITICAL,
        "model": "",
        "version": "",
        "metric": "error_rate",
        "operator": Operator.GREATER,
        "threshold": 0.1,
        "window": 5 * MINUTE,
        "hold": timedelta(),
        "drift_type": None,
        "feature": "",
        "error_code": "",
        "min_count": 0,
        "missing_data": MissingData.IGNORE,
        "channels": (),
        "repeat_interval": 4 * HOUR,
        "description": "",
    }
    return RuleDraft(**{**given, **changes})


def rule(**changes: Any) -> Rule:
    """A rule that stands, but for what is given."""
    standing: dict[str, Any] = {
        "id": UUID(int=1),
        "revision": 1,
        "create_time": NOON,
        "update_time": NOON,
        "updated_by": "ada",
    }
    standing.update({name: changes.pop(name) for name in list(changes) if name in standing})
    made = draft(**changes)
    return Rule(**{name: getattr(made, name) for name in RuleDraft.__dataclass_fields__}, **standing)


@dataclass
class Readings:
    """What rules read, as a test says it is: stands in for metrics, drift checks and quality checks alike."""

    counts: dict[Target, Counts] = field(default_factory=dict)
    lately: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Versions that had traffic within a day, and not in shorter windows."""
    drift_checks: dict[Target, DriftCheck] = field(default_factory=dict)
    quality_checks: dict[Target, QualityCheck] = field(default_factory=dict)
    views: set[Target] = field(default_factory=set)
    """Feature views that are checked for drift."""

    archived: set[Target] = field(default_factory=set)
    unknown: set[Target] = field(default_factory=set)

    @property
    def sources(self) -> Sources:
        """All of it, as alerts take it."""
        own: Any = self
        return Sources(own, _Latest(self.drift_checks, self.views), _Latest(self.quality_checks), own)  # type: ignore[arg-type] # stand-ins

    def every(self, window: Window, *, latencies: bool) -> EveryTotal:
        """Say how all versions did, whatever the window."""
        return EveryTotal(window, {(target.model, target.version): counts for target, counts in self.counts.items()})

    def seen(self, window: Window) -> frozenset[tuple[str, str]]:
        """Name the versions with traffic."""
        found = {(target.model, target.version) for target in self.counts}
        before = {(model, version) for model, versions in self.lately.items() for version in versions}
        return frozenset(found | before if window.seconds >= 86_400 else found)

    def begin(self) -> None:
        """Be the registry of a turn."""

    def standing(self, model: str, version: str) -> Standing:
        """Say how the registry has a version."""
        target = Target(model, version)
        if target in self.unknown:
            return Standing.UNKNOWN
        return Standing.ARCHIVED if target in self.archived else Standing.IN_USE


@dataclass
class _Latest:
    checks: dict[Target, Any]
    views: set[Target] = field(default_factory=set)

    def views_checked(self) -> set[tuple[str, str]]:
        return {(view.model, view.version) for view in self.views}

    def latest_of(self, versions: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Any]:
        found = {(target.model, target.version): check for target, check in self.checks.items()}
        return {key: found[key] for key in versions if key in found}


def counted(errors: int, of: int = 100, **more: Any) -> Counts:
    """Predictions, some of which failed."""
    return Counts(inference_count=of, error_count=errors, **more)


def drift_result(feature: str, effect: float, **changes: Any) -> DriftResult:
    """A comparison that found drift, but for what is given."""
    given: dict[str, Any] = {
        "type": DriftType.INPUT,
        "feature": feature,
        "kind": None,
        "status": DriftStatus.DRIFTED,
        "gate": DriftGate.PSI_CALIBRATED,
        "statistic": 1.0,
        "effect": effect,
        "effect_floor": 0.02,
        "reference_count": 1_000,
        "live_count": 1_000,
    }
    return DriftResult(**{**given, **changes})


def drift_check(*results: DriftResult, to_time: datetime = NOON, **changes: Any) -> DriftCheck:
    """A check with these results."""
    given: dict[str, Any] = {
        "id": UUID(int=3),
        "model": IRIS.model,
        "version": IRIS.version,
        "profile_id": UUID(int=4),
        "window": Window(to_time - 24 * HOUR, to_time),
        "status": DriftStatus.DRIFTED,
        "drifted_types": (DriftType.INPUT,),
        "drifted_count": len(results),
        "compared_count": len(results),
        "effect": 0.0,
        "live_count": 1_000,
        "alpha": 0.05,
        "gate": DriftGate.PSI_CALIBRATED,
        "false_alarm_rate": 0.05,
        "summary": "",
        "results": results,
        "trigger": Trigger.SCHEDULE,
        "create_time": to_time,
    }
    return DriftCheck(**{**given, **changes})


def quality_finding(issue: QualityIssue, feature: str, value: float, *, violated: bool = True) -> QualityFinding:
    """Something that a check found."""
    return QualityFinding(issue, feature, value, 0.01, 0.02, violated, 10, "")


def quality_check(
    *findings: QualityFinding, to_time: datetime = NOON, status: QualityStatus = QualityStatus.VIOLATED
) -> QualityCheck:
    """A check with these findings."""
    return QualityCheck(
        id=UUID(int=5),
        model=IRIS.model,
        version=IRIS.version,
        profile_id=UUID(int=4),
        window=Window(to_time - 24 * HOUR, to_time),
        status=status,
        row_count=1_000,
        violation_count=sum(finding.violated for finding in findings),
        summary="",
        findings=findings,
        trigger=Trigger.SCHEDULE,
        create_time=to_time,
    )
