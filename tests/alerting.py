"""Rules, findings and what they rest on, for the tests of alerts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from services.monitoring.alerts.models import AlertType, MissingData, Operator, Rule, RuleDraft, Severity, Target
from services.monitoring.alerts.sources import Sources
from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift.models import DriftCheck, DriftResult, DriftStatus, DriftType, Trigger
from services.monitoring.models import Window
from services.monitoring.quality.models import QualityCheck, QualityFinding, QualityIssue, QualityStatus
from services.monitoring.rollups.models import Counts, Totals

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

    @property
    def sources(self) -> Sources:
        """All of it, as alerts take it."""
        own: Any = self
        return Sources(own, _Latest(self.drift_checks), _Latest(self.quality_checks))  # type: ignore[arg-type] # stand-ins

    def total(self, model: str, version: str, window: Window) -> Totals:
        """Say how a version did, whatever the window."""
        return Totals(window, self.counts.get(Target(model, version), Counts()))

    def versions(self, model: str, window: Window) -> tuple[str, ...]:
        """Name a model's versions with traffic."""
        found = {target.version for target in self.counts if target.model == model}
        return tuple(sorted(found | set(self.lately.get(model, ()) if window.seconds >= 86_400 else ())))

    def models(self, window: Window) -> tuple[str, ...]:
        """Name the models with traffic."""
        lately = self.lately if window.seconds >= 86_400 else ()
        return tuple(sorted({target.model for target in self.counts} | set(lately)))


@dataclass
class _Latest:
    checks: dict[Target, Any]

    def latest(self, model: str, version: str) -> Any:
        return self.checks.get(Target(model, version))


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
