"""Keeping the rollups' days: those to come are made ready, and each granularity goes after its own retention."""

from __future__ import annotations

from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.models import Retention
from services.monitoring.retention import keep_days
from services.monitoring.rollups.metrics import kept_of
from services.monitoring.rollups.models import Granularity
from services.monitoring.rollups.store.drops import DropStore
from services.monitoring.store.days import Days


class RollupKeeper:
    """Makes today's and tomorrow's partitions, and drops what is past its retention."""

    def __init__(self, days: Days, store: DropStore, configurations: Configurations, retention: Retention) -> None:
        self._days = days
        self._store = store
        self._configurations = configurations
        self._retention = retention

    def work(self, turn: Turn) -> None:
        """Look at the days once."""
        keep_days(self._days, self._configurations.effective().rollups.five_minute_retention)
        kept = kept_of(self._configurations, self._retention, self._days.reference_time())
        for granularity in (Granularity.HOUR, Granularity.DAY):
            while turn.renew() and self._store.delete_before(granularity, kept.rollups[granularity]):
                pass
