"""Putting this part of monitoring together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from services.common.server import Service
from services.monitoring.parts import Parts
from services.monitoring.rollups.keeping import RollupKeeper
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import Granularity
from services.monitoring.rollups.recounts import Recounts
from services.monitoring.rollups.servicer import MetricsServicer, service
from services.monitoring.rollups.store.drops import DropStore
from services.monitoring.rollups.store.metrics import MetricsStore
from services.monitoring.rollups.store.recounts import RecountStore
from services.monitoring.rollups.store.rows import TABLES
from services.monitoring.rollups.store.totals import TotalsStore
from services.monitoring.rollups.totals import TotalsReader
from services.monitoring.store.days import Days, by_time

RECOUNT = "rollups"
KEEP = "rollup days"


def assemble(parts: Parts) -> Sequence[Service]:
    """Build the part on what others have built, add its chores, and give what it serves."""
    days = Days(parts.database, (by_time(TABLES[Granularity.FIVE_MINUTES]),))
    parts.metrics = MetricsReader(MetricsStore(parts.database), parts.configurations, parts.retention, parts.clock)
    parts.totals = TotalsReader(TotalsStore(parts.database), parts.configurations, parts.retention, parts.clock)
    recounts = Recounts(
        RecountStore(parts.database, days),
        parts.configurations,
        parts.retention,
        parts.clock,
        partial(parts.chores.wake, RECOUNT),
    )
    keeper = RollupKeeper(days, DropStore(parts.database), parts.configurations, parts.retention)
    parts.chores.add(RECOUNT, recounts.work, interval_s=parts.settings.rollup_interval_ms / 1000)
    parts.chores.add(KEEP, keeper.work, interval_s=parts.settings.retention_interval_ms / 1000)
    return (service(MetricsServicer(parts.metrics, parts.known_models)),)
