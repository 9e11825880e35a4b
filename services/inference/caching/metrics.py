"""The response cache's own counts, as Prometheus reads them; hits and misses are among the engine's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.metrics import of_all_workers
from services.inference.caching.cache import ResponseCache
from services.inference.caching.counts import VersionCounts

_PER_VERSION: tuple[tuple[str, str, Callable[[VersionCounts], int]], ...] = (
    ("penstock_response_cache_stored", "Answers put into the response cache.", lambda each: each.stored),
    ("penstock_response_cache_evictions", "Answers pushed out, or too old.", lambda each: each.evicted),
    ("penstock_response_cache_errors", "Times that the shared cache did not answer.", lambda each: each.errors),
)


class CacheCollector(Collector):
    """Reads the cache when somebody asks. What a shared one holds is for its own exporter to say."""

    def __init__(self, cache: ResponseCache) -> None:
        self._cache = cache

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape."""
        versions = self._cache.statistics.all()
        for name, text, read in _PER_VERSION:
            family = CounterMetricFamily(name, text, labels=("model", "version"))
            for each in versions:
                family.add_metric((each.model, each.version), read(each))
            yield of_all_workers(family)
        if not self._cache.store.shared:
            held = self._cache.store.held()
            yield GaugeMetricFamily("penstock_response_cache_answers", "Answers in memory.", held.entry_count)
            yield GaugeMetricFamily("penstock_response_cache_bytes", "What they take, in bytes.", held.size_bytes)
