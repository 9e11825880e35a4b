"""What Prometheus hears of an outbox."""

from __future__ import annotations

from collections.abc import Iterator

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import DomainError
from services.common.outbox.store import Outbox
from services.common.outbox.workers import OutboxWorkers

_log = structlog.get_logger(__name__)


class OutboxCollector(Collector):
    """Reads the table when it is asked, so that every replica says the same; attempts are this process's own."""

    def __init__(self, outbox: Outbox, workers: OutboxWorkers) -> None:
        self._outbox = outbox
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape; what the database would have to say is left out while it is away."""
        attempts = CounterMetricFamily(
            "penstock_outbox_attempts", "Attempts of this process, by what became of the message.", labels=("outcome",)
        )
        attempts.add_metric(("delivered",), self._workers.delivered_count)
        attempts.add_metric(("retried",), self._workers.retried_count)
        attempts.add_metric(("failed",), self._workers.failed_count)
        yield attempts
        try:
            counts = self._outbox.counts()
        except DomainError as error:
            _log.info("outbox not counted", reason=error.reason)
            return
        messages = GaugeMetricFamily(
            "penstock_outbox_messages", "Messages by state, of all replicas together.", labels=("state",)
        )
        messages.add_metric(("waiting",), counts.waiting)
        messages.add_metric(("failed",), counts.failed)
        yield messages
        # Of the table: it knows what was given up without an attempt of anybody's, too.
        about = "When a message was last given up, in s since 1970; nothing where none was."
        last_failure = GaugeMetricFamily("penstock_outbox_last_failure_time_seconds", about)
        if counts.last_failure_time is not None:
            last_failure.add_metric((), counts.last_failure_time.timestamp())
        yield last_failure
        age = "For how long the oldest message that has not arrived waits, in s."
        yield GaugeMetricFamily("penstock_outbox_oldest_age_seconds", age, value=counts.oldest_age_s)
