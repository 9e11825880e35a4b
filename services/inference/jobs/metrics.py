"""What Prometheus hears of batch prediction."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import DomainError
from services.common.jobs import JobStore

_log = structlog.get_logger(__name__)


class RowCounters:
    """Rows that this process has made safe."""

    def __init__(self) -> None:
        self.rows = 0
        self.failed_rows = 0
        self._lock = threading.Lock()

    def add_rows(self, count: int, failed: int) -> None:
        """Count rows that are safe."""
        with self._lock:
            self.rows += count
            self.failed_rows += failed


class JobsCollector(Collector):
    """Reads the table when it is asked, so that every replica says the same."""

    def __init__(self, jobs: JobStore, counters: RowCounters, busy_count: Callable[[], int], *, live_s: float) -> None:
        self._jobs = jobs
        self._counters = counters
        self._busy_count = busy_count
        self._live_s = live_s

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape; what the database would have to say is left out while it is away."""
        rows = CounterMetricFamily(
            "penstock_job_rows", "Rows predicted by this process, made safe.", labels=("outcome",)
        )
        rows.add_metric(("ok",), self._counters.rows - self._counters.failed_rows)
        rows.add_metric(("failed",), self._counters.failed_rows)
        yield rows
        yield GaugeMetricFamily("penstock_job_runs", "Jobs that this process works on.", value=self._busy_count())
        try:
            yield from self._shared()
        except DomainError as error:
            _log.info("jobs not counted", reason=error.reason)

    def _shared(self) -> Iterator[Metric]:
        counts = GaugeMetricFamily("penstock_jobs", "Jobs by state, in all replicas together.", labels=("state",))
        for state, count in self._jobs.counts().items():
            counts.add_metric((state.value.lower(),), count)
        yield counts
        age = "For how long the job that is due longest waits, in s."
        yield GaugeMetricFamily("penstock_job_queue_age_seconds", age, value=self._jobs.queue_age_s())
        workers = GaugeMetricFamily("penstock_job_workers", "Processes that work on jobs.", labels=("live",))
        found = self._jobs.workers(live_s=self._live_s)
        workers.add_metric(("true",), sum(worker.live for worker in found))
        workers.add_metric(("false",), sum(not worker.live for worker in found))
        yield workers
