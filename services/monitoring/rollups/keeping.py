"""Keeping the rollups' days: those to come are made ready, and each granularity goes after its own retention."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

import structlog

from services.monitoring.chores import Turn
from services.monitoring.configuration.configurations import Configurations
from services.monitoring.models import Retention
from services.monitoring.rollups.metrics import kept_of
from services.monitoring.rollups.models import Granularity
from services.monitoring.rollups.store.drops import DropStore
from services.monitoring.store.days import Days

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]


class RollupKeeper:
    """Makes today's and tomorrow's partitions, and drops what is past its retention."""

    def __init__(
        self, days: Days, store: DropStore, configurations: Configurations, retention: Retention, clock: Clock
    ) -> None:
        self._days = days
        self._store = store
        self._configurations = configurations
        self._retention = retention
        self._clock = clock

    def work(self, turn: Turn) -> None:
        """Look at the days once."""
        now = self._clock()
        self._days.ensure((now.date(), (now + timedelta(days=1)).date()))
        kept = kept_of(self._configurations, self._retention, now).rollups
        for name in self._days.drop_before(kept[Granularity.FIVE_MINUTES].date()):
            _log.info("day dropped", partition=name)
        for granularity in (Granularity.HOUR, Granularity.DAY):
            while turn.renew() and self._store.delete_before(granularity, kept[granularity]):
                pass
