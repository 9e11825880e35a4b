"""What Prometheus hears of training."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import DomainError
from services.common.jobs import JobRun, JobStore
from services.common.jobs.workers import Work

_log = structlog.get_logger(__name__)
BUCKETS_S = (1, 5, 15, 60, 300, 900, 3_600, 4 * 3_600, 24 * 3_600)


class TrainingCounters:
    """What runs of this process took and stumbled over."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._faults = Counter(
            "penstock_training_faults",
            "Attempts of this process that ended in a fault, by its reason, and whether it may pass.",
            ["reason", "retryable"],
            registry=registry,
        )
        self._duration = Histogram(
            "penstock_training_duration_seconds",
            "How long attempts of this process took that ended with a version.",
            buckets=BUCKETS_S,
            registry=registry,
        )

    def counted(self, work: Work) -> Work:
        """Count the faults of some work, which it raises as before, and time what goes well."""

        def do(run: JobRun) -> Mapping[str, Any] | None:
            begin = time.monotonic()
            try:
                result = work(run)
            except DomainError as error:
                self._faults.labels(error.reason, str(error.retryable).lower()).inc()
                raise
            self._duration.observe(time.monotonic() - begin)
            return result

        return do


class TrainingCollector(Collector):
    """Reads the table when it is asked, so that every replica says the same."""

    def __init__(self, jobs: JobStore, busy_count: Callable[[], int]) -> None:
        self._jobs = jobs
        self._busy_count = busy_count

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape; what the database would have to say is left out while it is away."""
        yield GaugeMetricFamily("penstock_training_busy", "Runs that this process works on.", value=self._busy_count())
        try:
            counts = GaugeMetricFamily(
                "penstock_training_runs", "Training runs by state, in all replicas together.", labels=("state",)
            )
            for state, count in self._jobs.counts().items():
                counts.add_metric((state.value.lower(),), count)
            age = GaugeMetricFamily(
                "penstock_training_queue_age_seconds",
                "For how long the run that has been due longest waits.",
                value=self._jobs.queue_age_s(),
            )
        except DomainError as error:
            _log.info("runs not counted", reason=error.reason)
        else:
            yield counts
            yield age
