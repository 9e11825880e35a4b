"""What Prometheus hears of fetching."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import DomainError
from services.common.jobs import JobRun, JobStore
from services.common.jobs.workers import Work

_log = structlog.get_logger(__name__)


class FetchCounters:
    """What this process received, waited for and stumbled over."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.received_bytes = Counter(
            "penstock_fetch_received_bytes", "Bytes that came over HTTP into this process.", registry=registry
        )
        self.throttled_seconds = Counter(
            "penstock_fetch_throttled_seconds",
            "Time that transfers of this process waited for their turn at a host, in s, by what there was too much of.",
            ["unit"],
            registry=registry,
        )
        self.pauses = Counter(
            "penstock_fetch_pauses",
            "How often a host told this process when to come again (429 or 503 with Retry-After).",
            registry=registry,
        )
        self._faults = Counter(
            "penstock_fetch_faults",
            "Attempts of this process that ended in a fault, by its reason, and whether it may pass.",
            ["reason", "retryable"],
            registry=registry,
        )
        for unit in ("requests", "bytes"):
            self.throttled_seconds.labels(unit)

    def counted(self, work: Work) -> Work:
        """Count the faults of some work, which it raises as before."""

        def do(run: JobRun) -> Mapping[str, Any] | None:
            try:
                return work(run)
            except DomainError as error:
                self._faults.labels(error.reason, str(error.retryable).lower()).inc()
                raise

        return do


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
