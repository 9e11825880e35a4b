"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence

from services.common.server import Service
from services.monitoring.export.events import EventExports
from services.monitoring.export.metrics import MetricsExports
from services.monitoring.export.servicer import ExportServicer, service
from services.monitoring.export.store import ExportStore
from services.monitoring.gauges import ModelCollector, Sources
from services.monitoring.parts import Parts


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    events = EventExports(ExportStore(parts.database), parts.retention, parts.clock)
    sources = Sources(parts.totals, parts.drift, parts.quality, parts.alerts)
    parts.registry.register(ModelCollector(sources, parts.clock, max_versions=parts.settings.metrics_max_versions))
    return (service(ExportServicer(events, MetricsExports(parts.metrics), parts.known_models)),)
