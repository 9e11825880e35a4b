"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.monitoring.parts import Parts
from services.monitoring.profiles.store.samples import SampleStore
from services.monitoring.quality.checks import QualityChecks, Sources
from services.monitoring.quality.servicer import QualityServicer, service
from services.monitoring.quality.unreferenced import Unreferenced
from services.monitoring.window_checks.store import CheckStore


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    unreferenced = Unreferenced(SampleStore(parts.database), parts.profiles.layout)
    sources = Sources(parts.configurations, parts.metrics, parts.profiles, parts.live, unreferenced, parts.totals.seen)
    parts.quality = QualityChecks(CheckStore(parts.database, "quality"), sources, parts.clock)
    parts.chores.add("quality", parts.quality.check_due, interval_s=parts.settings.quality_interval_ms / 1000)
    return (service(QualityServicer(parts.quality, parts.known_models)),)
