"""The inference service's own counts, as Prometheus reads them and under the names that Triton's dashboards know.

Counters without a `_total` suffix are what those dashboards expect; prometheus_client's own Counter forces one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.counters import Counters
from services.common.metrics import of_all_workers
from services.inference.engine.engine import Engine
from services.inference.engine.statistics import FAILURES, VersionStatistics
from services.inference.events.delivery import DeliveryCounters
from services.inference.events.events import Event
from services.inference.events.spool import DELIVERY, SPOOL, Spool, SpoolCounters
from services.inference.lookups.reader import LOOKUPS, LookupCounters
from services.inference.sessions.cached_session import CacheCounters
from services.inference.sessions.caches import SESSIONS, SessionCaches

_PER_VERSION: tuple[tuple[str, str, Callable[[VersionStatistics], float]], ...] = (
    ("nv_inference_request_success", "Successful requests.", lambda each: each.successes),
    ("nv_inference_count", "Rows predicted.", lambda each: each.inferences),
    ("nv_inference_exec_count", "Runs of the model.", lambda each: each.executions),
    ("nv_inference_request_duration_us", "Time of successful requests, in µs.", lambda each: each.success_ns / 1000),
    ("nv_inference_queue_duration_us", "Time spent waiting, in µs.", lambda each: each.queue_ns / 1000),
    ("nv_inference_compute_input_duration_us", "Checking inputs, in µs.", lambda each: each.compute_input_ns / 1000),
    ("nv_inference_compute_infer_duration_us", "Running models, in µs.", lambda each: each.compute_infer_ns / 1000),
    ("nv_inference_compute_output_duration_us", "Reading outputs, in µs.", lambda each: each.compute_output_ns / 1000),
    ("nv_cache_num_hits_per_model", "Requests answered from the response cache.", lambda each: each.cache_hits),
    ("nv_cache_num_misses_per_model", "Requests not found in the response cache.", lambda each: each.cache_misses),
    ("nv_cache_hit_duration_per_model", "Looking up what was found, in µs.", lambda each: each.cache_hit_ns / 1000),
    ("nv_cache_miss_duration_per_model", "Looking in vain, in µs.", lambda each: each.cache_miss_ns / 1000),
)
_SESSIONS = {
    "hits": ("penstock_session_hits", "Requests that found their model loaded."),
    "loads": ("penstock_session_loads", "Models loaded."),
    "failed_loads": ("penstock_session_load_failures", "Loads that failed."),
    "evictions": ("penstock_session_evictions", "Models evicted."),
}
_SPOOL = {
    "spooled": ("penstock_spool_written_events", "Events written to disk."),
    "dropped": ("penstock_spool_dropped_events", "Events lost at the spool's bound."),
}
_DELIVERY = {
    "delivered": ("penstock_spool_delivered_events", "Events stored by monitoring."),
    "duplicates": ("penstock_spool_duplicate_events", "Events stored before."),
    "rejected": ("penstock_spool_rejected_events", "Events refused for good."),
}
_LOOKUPS = {
    "reads": ("penstock_feature_lookups", "Reads of feature views, for predictions by entity."),
    "failures": ("penstock_feature_lookup_failures", "Those that gave no values."),
    "duration_us": ("penstock_feature_lookup_duration_us", "How long they took, in µs."),
}
_LABELS = ("model", "version")


class _Unsuffixed(Metric):
    """A counter whose name ends as it is written."""

    def __init__(self, name: str, documentation: str) -> None:
        super().__init__(name, documentation, "unknown")
        self.type = "counter"

    def add(self, value: float, **labels: str) -> None:
        self.add_sample(self.name, labels, value)


class InferenceCollector(Collector):
    """Reads the engine, the session cache and the spool when somebody asks."""

    def __init__(self, engine: Engine, sessions: SessionCaches, spool: Spool[Event] | None, counters: Counters) -> None:
        self._counters = counters
        self._engine = engine
        self._sessions = sessions
        self._spool = spool

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape."""
        statistics = self._engine.service_statistics()
        for name, text, read in _PER_VERSION:
            family = _Unsuffixed(name, text)
            for each in statistics:
                family.add(read(each), model=each.version.model, version=each.version.version)
            yield of_all_workers(family)
        yield _failures(statistics)
        yield _pending(self._engine.statistics())
        yield from self._session_metrics()
        yield from _tallied(self._counters, SESSIONS, CacheCounters.names, _SESSIONS)
        yield from _tallied(self._counters, LOOKUPS, LookupCounters.names, _LOOKUPS)
        if self._spool is not None:
            status = self._spool.status
            yield GaugeMetricFamily("penstock_spool_queued_events", "Events not yet on disk.", status.queued)
            yield GaugeMetricFamily("penstock_spool_bytes", "Disk that waiting events take, in bytes.", status.bytes)
            yield from _tallied(self._counters, SPOOL, SpoolCounters.names, _SPOOL)
            yield from _tallied(self._counters, DELIVERY, DeliveryCounters.names, _DELIVERY)

    def _session_metrics(self) -> Iterator[Metric]:
        # By name: a version that was registered anew with other bytes may be loaded beside its namesake.
        load_s: dict[tuple[str, str], float] = {}
        held_bytes: Counter[tuple[str, str]] = Counter()
        for session in self._sessions.list_sessions():
            labels = (session.version.model, session.version.version)
            load_s[labels] = session.load_s
            held_bytes[labels] += session.size_bytes
        yield _gauge("nv_model_load_duration_secs", "Time the load took, in s.", load_s)
        yield _gauge("penstock_session_bytes", "Memory of a loaded model, in bytes.", held_bytes)


def _failures(statistics: list[VersionStatistics]) -> Metric:
    family = _Unsuffixed("nv_inference_request_failure", "Failed requests.")
    for each in statistics:
        for reason in FAILURES:
            labels = {"model": each.version.model, "version": each.version.version}
            family.add(each.failures.get(reason, 0), reason=reason, **labels)
    return of_all_workers(family)


def _pending(statistics: list[VersionStatistics]) -> Metric:
    family = GaugeMetricFamily("nv_inference_pending_request_count", "Requests in flight.", labels=_LABELS)
    for each in statistics:
        family.add_metric((each.version.model, each.version.version), each.in_flight)
    return family


def _gauge(name: str, text: str, values: Mapping[tuple[str, str], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=_LABELS)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _tallied(
    counters: Counters, kind: str, names: Sequence[str], families: Mapping[str, tuple[str, str]]
) -> Iterator[Metric]:
    """Add up the rows of a kind over all that count in them."""
    rows = counters.sums(kind).values()
    totals = dict(zip(names, map(sum, zip(*rows, strict=True)), strict=True)) if rows else dict.fromkeys(names, 0)
    for name, (family, text) in families.items():
        yield of_all_workers(CounterMetricFamily(family, text, totals[name]))
