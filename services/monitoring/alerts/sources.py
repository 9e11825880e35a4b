"""What rules read: the other parts that their values come from."""

from __future__ import annotations

from dataclasses import dataclass

from services.monitoring.drift.checks import DriftChecks
from services.monitoring.quality.checks import QualityChecks
from services.monitoring.rollups.metrics import MetricsReader


@dataclass(frozen=True, slots=True)
class Sources:
    """Metrics, drift checks and quality checks."""

    metrics: MetricsReader
    drift: DriftChecks
    quality: QualityChecks
