"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.monitoring.parts import Parts
from services.monitoring.quality.checks import QualityChecks, Sources
from services.monitoring.quality.servicer import QualityServicer, service
from services.monitoring.quality.store import QualityStore
from services.monitoring.quality.unreferenced import Unreferenced


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    store = QualityStore(parts.database)
    sources = Sources(parts.configurations, parts.metrics, parts.profiles, parts.live, Unreferenced(store))
    parts.quality = QualityChecks(store, sources, parts.clock)
    parts.chores.add("quality", parts.quality.check_due, interval_s=parts.settings.quality_interval_ms / 1000)
    return (service(QualityServicer(parts.quality)),)
