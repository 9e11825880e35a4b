"""One metrics page for all workers: the supervisor asks each for its own, and adds its own to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.metrics import MetricsServer
from services.inference.settings import InferenceSettings
from services.inference.workers import families
from services.inference.workers.children import Slot
from services.inference.workers.replies import Document

SCRAPE_TIMEOUT_S = 3.0
"""A worker that has not answered by then is left out; a scrape has 10 s by default."""


class Scraped(Protocol):
    """Whoever can ask the workers."""

    workers: list[Slot]

    @property
    def ready(self) -> bool:
        """Whether one of them serves."""
        ...

    def ask(self, name: str, timeout_s: float) -> list[Document]:
        """Ask all of them."""
        ...


class WorkersCollector(Collector):
    """Yields what the workers have, and how they are."""

    def __init__(self, scraped: Scraped) -> None:
        self._scraped = scraped
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)

    def describe(self) -> Iterable[Metric]:
        """Name nothing beforehand: there is nobody to ask before the workers run."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape."""
        told: Sequence[Sequence[families.Document]] = ()
        try:
            replies = self._scraped.ask("metrics", SCRAPE_TIMEOUT_S)
            told = [reply["result"]["families"] for reply in replies if "result" in reply]
        except FutureTimeoutError:
            pass  # what is left says that no worker was heard
        yield from families.merged([*told, families.to_documents(self._own.collect())])
        slots = self._scraped.workers
        serving = sum(slot.child is not None and slot.child.ready for slot in slots)
        yield GaugeMetricFamily("penstock_workers", "Workers that there should be.", len(slots))
        yield GaugeMetricFamily("penstock_workers_serving", "Workers that answer predictions.", serving)
        yield GaugeMetricFamily("penstock_workers_heard", "Workers that answered this scrape.", len(told))
        deaths = sum(slot.deaths for slot in slots)
        yield CounterMetricFamily("penstock_worker_deaths", "Workers that died or were replaced.", deaths)


def open_metrics(scraped: Scraped, settings: InferenceSettings) -> MetricsServer:
    """Listen where Prometheus and the probes look."""
    registry = CollectorRegistry()
    metrics = MetricsServer(settings.host, settings.metrics_port, registry)
    metrics.ready = lambda: scraped.ready
    metrics.open()
    registry.register(WorkersCollector(scraped))
    return metrics
