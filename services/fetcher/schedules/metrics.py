"""What Prometheus hears of schedules."""

from __future__ import annotations

from collections.abc import Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import DomainError
from services.fetcher.schedules.store import ScheduleStore

_log = structlog.get_logger(__name__)


class ScheduleCollector(Collector):
    """Reads the table when it is asked, so that every replica says the same."""

    def __init__(self, store: ScheduleStore) -> None:
        self._store = store

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape; what the database would have to say is left out while it is away."""
        try:
            count = self._store.failing()
        except DomainError as error:
            _log.info("schedules not counted", reason=error.reason)
            return
        yield GaugeMetricFamily(
            "penstock_fetch_failing_schedules",
            "Schedules that are on and whose last try or last fetch failed, in all replicas together; those whose only "
            "time is over for a day.",
            value=count,
        )
