"""How models are watched: what each scope says itself, and what comes of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)

Own = Mapping[str, Mapping[str, Any]]
"""What a scope says itself: by part and field, the values as the dataclasses below have them."""


class DriftGate(enum.Enum):
    """What decides whether a feature has drifted; the numbers are the contract's."""

    PSI_CALIBRATED = 1
    PSI_FIXED = 2
    KS = 3
    CHI_SQUARE = 4
    WASSERSTEIN = 5
    JENSEN_SHANNON = 6


@dataclass(frozen=True, slots=True)
class RollupConfiguration:
    """How metrics are rolled up; for all models only."""

    enabled: bool = True
    hourly_interval: timedelta = _HOUR
    daily_interval: timedelta = _DAY
    five_minute_retention: timedelta = 14 * _DAY
    hourly_retention: timedelta = 90 * _DAY
    daily_retention: timedelta = 730 * _DAY


@dataclass(frozen=True, slots=True)
class ProfileConfiguration:
    """Whether live data is counted in the bins of its reference, without which no check has anything to look at."""

    enabled: bool = True


@dataclass(frozen=True, slots=True)
class DriftConfiguration:
    """How a version is checked for drift. Effects are debiased PSI, of concept drift the drop of the accuracy."""

    enabled: bool = True
    interval: timedelta = 6 * _HOUR
    window: timedelta = 24 * _HOUR
    alpha: float = 0.05
    effect_floor: float = 0.02
    min_rows: int = 50
    gate: DriftGate = DriftGate.PSI_CALIBRATED
    min_labels: int = 100
    accuracy_drop: float = 0.05
    ignored_features: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QualityConfiguration:
    """How a version's data is looked over. `tolerance` is how much above the reference's a rate may be."""

    enabled: bool = True
    interval: timedelta = _HOUR
    window: timedelta = 24 * _HOUR
    min_rows: int = 50
    tolerance: float = 0.01
    stale_after: timedelta = _HOUR


@dataclass(frozen=True, slots=True)
class RetrainingConfiguration:
    """When a retraining is asked for. No `schedule_interval`: none by schedule."""

    enabled: bool = True
    min_interval: timedelta = 7 * _DAY
    min_labels: int = 500
    drift_effect: float = 0.3
    error_rate: float = 0.1
    schedule_interval: timedelta = timedelta()
    expiry: timedelta = 7 * _DAY
    approval_expiry: timedelta = 30 * _DAY


@dataclass(frozen=True, slots=True)
class AlertConfiguration:
    """Whether alert rules are judged for a version."""

    enabled: bool = True


@dataclass(frozen=True, slots=True)
class Effective:
    """What holds for a version, a model or all: nothing unset."""

    rollups: RollupConfiguration = field(default_factory=RollupConfiguration)
    profiles: ProfileConfiguration = field(default_factory=ProfileConfiguration)
    drift: DriftConfiguration = field(default_factory=DriftConfiguration)
    quality: QualityConfiguration = field(default_factory=QualityConfiguration)
    retraining: RetrainingConfiguration = field(default_factory=RetrainingConfiguration)
    alerts: AlertConfiguration = field(default_factory=AlertConfiguration)

    def overlaid(self, own: Own) -> Effective:
        """Give what holds where a scope below says this."""
        return Effective(
            rollups=replace(self.rollups, **own.get("rollups", {})),
            profiles=replace(self.profiles, **own.get("profiles", {})),
            drift=replace(self.drift, **own.get("drift", {})),
            quality=replace(self.quality, **own.get("quality", {})),
            retraining=replace(self.retraining, **own.get("retraining", {})),
            alerts=replace(self.alerts, **own.get("alerts", {})),
        )


@dataclass(frozen=True, slots=True)
class Scope:
    """Whom a configuration is for: one version, all of a model (no version), or all models (neither)."""

    model: str = ""
    version: str = ""

    @property
    def lineage(self) -> tuple[Scope, ...]:
        """The scopes that say what holds here, the most general first, itself last."""
        if not self.model:
            return (Scope(),)
        return (Scope(), Scope(self.model), self) if self.version else (Scope(), self)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a scope stands: what holds, what it says itself, and the etag of that."""

    effective: Effective
    own: Own
    etag: str


@dataclass(frozen=True, slots=True)
class Change:
    """One change of what a scope says itself."""

    number: int
    time: datetime
    scope: Scope
    before: Own
    after: Own
    changed_by: str
    note: str
