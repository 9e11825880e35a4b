"""What Prometheus reads of the ingest."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram

from services.monitoring.models import Recorded, Rejection, Result


class IngestCounters:
    """Events by what became of them, and how long batches took."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._events = Counter(
            "penstock_monitoring_events", "Events taken, by what became of them.", ["outcome"], registry=registry
        )
        self._rejected = Counter(
            "penstock_monitoring_events_rejected", "Events refused, by the reason.", ["reason"], registry=registry
        )
        self.batch_seconds = Histogram(
            "penstock_monitoring_ingest_batch_seconds", "Time to store a batch of events, in s.", registry=registry
        )
        for outcome in ("stored", "duplicate", "rejected"):
            self._events.labels(outcome)

    def count(self, results: Sequence[Result]) -> None:
        """Count a batch that is durable."""
        self._events.labels("stored").inc(results.count(Recorded.STORED))
        self._events.labels("duplicate").inc(results.count(Recorded.DUPLICATE))
        for result in results:
            if isinstance(result, Rejection):
                self._events.labels("rejected").inc()
                self._rejected.labels(result.reason.value).inc()
