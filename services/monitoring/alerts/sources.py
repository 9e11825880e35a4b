"""What rules read: the other parts that their values come from."""

from __future__ import annotations

from dataclasses import dataclass

from services.monitoring.alerts.registered import Registered
from services.monitoring.drift.checks import DriftChecks
from services.monitoring.quality.checks import QualityChecks
from services.monitoring.rollups.totals import TotalsReader


@dataclass(frozen=True, slots=True)
class Sources:
    """Metrics, drift checks and quality checks, and which versions the registry still knows."""

    metrics: TotalsReader
    drift: DriftChecks
    quality: QualityChecks
    registered: Registered
