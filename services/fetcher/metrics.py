"""What Prometheus hears of fetching."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import DomainError
from services.common.jobs import JobStore

_log = structlog.get_logger(__name__)


class FetchCollector(Collector):
    """Reads the table when it is asked, so that every replica says the same."""

    def __init__(self, jobs: JobStore, busy_count: Callable[[], int]) -> None:
        self._jobs = jobs
        self._busy_count = busy_count

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape; what the database would have to say is left out while it is away."""
        yield GaugeMetricFamily("penstock_fetch_runs", "Fetches that this process works on.", value=self._busy_count())
        try:
            counts = GaugeMetricFamily(
                "penstock_fetches", "Fetches by state, in all replicas together.", labels=("state",)
            )
            for state, count in self._jobs.counts().items():
                counts.add_metric((state.value.lower(),), count)
            age = GaugeMetricFamily(
                "penstock_fetch_queue_age_seconds",
                "For how long the fetch that has been due longest waits.",
                value=self._jobs.queue_age_s(),
            )
        except DomainError as error:
            _log.info("fetches not counted", reason=error.reason)
        else:
            yield counts
            yield age
