"""What Prometheus reads of each model: all traffic, whichever replica took it, as the database has it.

Every replica says the same, so whoever reads several takes the largest of a value and adds up none:
`max by (model, version) (rate(penstock_model_requests_total[5m]))`.
"""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from itertools import accumulate
from typing import Final, Protocol

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from services.common.errors import DomainError
from services.monitoring.alerts.models import OpenCount, Severity
from services.monitoring.drift.models import DriftCheck, DriftStatus
from services.monitoring.models import Window
from services.monitoring.quality.models import QualityCheck, QualityStatus
from services.monitoring.rollups.latency import Latencies
from services.monitoring.rollups.models import Counts, Granularity
from services.monitoring.rollups.totals import EveryTotal

_log = structlog.get_logger(__name__)
Clock = Callable[[], datetime]
FRESH_S: Final = 10.0
"""Scrapes that come sooner get the same answer: several Prometheus servers cost no more than one."""
LATELY: Final = timedelta(days=1)
"""Versions without traffic for so long are told no longer, and accuracy is that of so long."""
SETTLED: Final = timedelta(days=2)
"""Days that ended longer ago are added up once: a scrape reads as much however long this process has run."""
LATENCY_BOUNDS_MS: Final = (0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1_000.0, 2_500.0, 5_000.0,
                            10_000.0, 30_000.0)  # fmt: skip
_LABELS = ("model", "version")
Key = tuple[str, str]


class MetricsSource(Protocol):
    """Metrics of all models at once."""

    def every(self, window: Window, *, latencies: bool) -> EveryTotal:
        """Count a window for each version that had traffic."""


class DriftSource(Protocol):
    """Drift checks."""

    def latest_of(self, versions: Iterable[Key]) -> Mapping[Key, DriftCheck]:
        """Give the last check by schedule of each of these versions that has one."""


class QualitySource(Protocol):
    """Quality checks."""

    def latest_of(self, versions: Iterable[Key]) -> Mapping[Key, QualityCheck]:
        """Give the last check by schedule of each of these versions that has one."""


class AlertSource(Protocol):
    """Alerts."""

    def open_counts(self) -> Sequence[OpenCount]:
        """Count the alerts that fire."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the values come from."""

    metrics: MetricsSource
    drift: DriftSource
    quality: QualitySource
    alerts: AlertSource


@dataclass(frozen=True, slots=True)
class Tally:
    """Counts that never go back. `latencies` has a place for each bound, and one for what lies above."""

    requests: int = 0
    errors: int = 0
    latency_ms: float = 0.0
    latencies: tuple[int, ...] = (0,) * (len(LATENCY_BOUNDS_MS) + 1)

    @classmethod
    def of(cls, counts: Counts) -> Tally:
        """Fold a count."""
        latencies = _folded(counts.latencies)
        return cls(counts.inference_count, counts.error_count, float(counts.latency_sum_ms), latencies)

    def and_then(self, more: Tally) -> Tally:
        """Add what came later."""
        latencies = tuple(one + other for one, other in zip(self.latencies, more.latencies, strict=True))
        return Tally(
            self.requests + more.requests, self.errors + more.errors, self.latency_ms + more.latency_ms, latencies
        )

    def since(self, base: Tally) -> Tally:
        """Give what came on top of an earlier count."""
        latencies = tuple(one - other for one, other in zip(self.latencies, base.latencies, strict=True))
        return Tally(
            self.requests - base.requests, self.errors - base.errors, self.latency_ms - base.latency_ms, latencies
        )

    def at_least(self, before: Tally) -> Tally:
        """Go back in nothing: a span that waits for its recount may be read as it stood before."""
        latencies = tuple(max(one, other) for one, other in zip(self.latencies, before.latencies, strict=True))
        return Tally(
            max(self.requests, before.requests),
            max(self.errors, before.errors),
            max(self.latency_ms, before.latency_ms),
            latencies,
        )


def _folded(latencies: Latencies) -> tuple[int, ...]:
    """Count by coarser bounds; what lies within 1 % of one may be on its other side."""
    counts = [0] * (len(LATENCY_BOUNDS_MS) + 1)
    for bin_ in latencies.bounds():
        counts[bisect_left(LATENCY_BOUNDS_MS, (bin_.from_ms + bin_.to_ms) / 2)] += bin_.count
    return tuple(counts)


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known of a version."""

    tally: Tally
    lately: Counts
    drift: DriftCheck | None = None
    quality: QualityCheck | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What a scrape is answered with."""

    versions: Mapping[Key, Seen] = field(default_factory=dict)
    unlisted: int = 0
    alerts: Sequence[OpenCount] = ()


class ModelCollector(Collector):
    """Reads what is kept when it is asked, at most every FRESH_S seconds, for at most `max_versions` versions.

    Requests and errors count from the beginning of this process, in spite of coming from the database, so that a
    restart is what Prometheus takes it for: a counter that begins again. Events that come over two days late are in
    none of these counters, as they were in no rate of when they happened.
    """

    def __init__(self, sources: Sources, clock: Clock, *, max_versions: int) -> None:
        self._sources = sources
        self._clock = clock
        self._max_versions = max_versions
        self._since = Granularity.DAY.floor(clock())
        self._settled: Mapping[Key, Tally] = {}
        self._bases: dict[Key, Tally] = {}
        self._based = False
        self._view = View()
        self._read_s: float | None = None
        self._lock = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        """Answer a scrape; while the database is away, with what was read last."""
        with self._lock:
            if self._read_s is None or time.monotonic() - self._read_s >= FRESH_S:
                try:
                    self._view = self._read()
                except DomainError as error:
                    _log.info("models not counted", reason=error.reason)
                self._read_s = time.monotonic()
            view = self._view
        yield from _traffic(view)
        yield from _truth(view)
        yield from _alerts(view)

    def _read(self) -> View:
        now = self._clock()
        lately = self._sources.metrics.every(Window(now - LATELY, now), latencies=False).counts
        found: dict[Key, Seen] = {}
        for key, total in self._totals(now).items():
            # Who was there before this process begins at 0; who comes later came from nothing.
            base = self._bases.setdefault(key, Tally() if self._based else total)
            before = self._view.versions.get(key)
            tally = total.since(base).at_least(before.tally if before else Tally())
            if key in lately:
                found[key] = Seen(tally, lately[key])
        self._based = True
        busiest = sorted(found, key=lambda key: (-found[key].lately.inference_count, key))[: self._max_versions]
        drift, quality = self._sources.drift.latest_of(busiest), self._sources.quality.latest_of(busiest)
        listed = {key: replace(found[key], drift=drift.get(key), quality=quality.get(key)) for key in sorted(busiest)}
        return View(listed, len(found) - len(listed), self._sources.alerts.open_counts())

    def _totals(self, now: datetime) -> Mapping[Key, Tally]:
        """Count each version since the day on which this process began."""
        every, settled_until = self._sources.metrics.every, Granularity.DAY.floor(now - SETTLED)
        if settled_until > self._since:
            closed = every(Window(self._since, settled_until), latencies=True)
            if closed.complete_until is None:  # what waits for its recount would stay as it stands
                self._settled, self._since = _summed(self._settled, closed.counts), settled_until
        return _summed(self._settled, every(Window(self._since, now), latencies=True).counts)


def _summed(tallies: Mapping[Key, Tally], counts: Mapping[Key, Counts]) -> Mapping[Key, Tally]:
    return {**tallies, **{key: tallies.get(key, Tally()).and_then(Tally.of(each)) for key, each in counts.items()}}


def _traffic(view: View) -> Iterator[Metric]:
    requests = CounterMetricFamily("penstock_model_requests", "Predictions, failed ones too.", labels=_LABELS)
    errors = CounterMetricFamily("penstock_model_errors", "Predictions that failed.", labels=_LABELS)
    latency = HistogramMetricFamily(
        "penstock_model_latency_seconds", "Latency of successful predictions, in s.", labels=_LABELS
    )
    bounds = [*(f"{bound / 1000:g}" for bound in LATENCY_BOUNDS_MS), "+Inf"]
    for key, seen in view.versions.items():
        requests.add_metric(key, seen.tally.requests)
        errors.add_metric(key, seen.tally.errors)
        buckets = list(zip(bounds, map(float, accumulate(seen.tally.latencies)), strict=True))
        latency.add_metric(key, buckets, seen.tally.latency_ms / 1000)
    yield from (requests, errors, latency)
    unlisted = "Versions with traffic that are not told: the busiest are, PENSTOCK_METRICS_MAX_VERSIONS of them."
    yield GaugeMetricFamily("penstock_model_unlisted_versions", unlisted, value=view.unlisted)


def _truth(view: View) -> Iterator[Metric]:
    judged = _gauge("judged_rows", "Rows judged right or wrong, of the predictions of the last 24 hours.")
    accuracy = _gauge("accuracy", "Rows judged right of those judged, of the predictions of the last 24 hours.")
    effect = _gauge(
        "drift_effect",
        "The largest effect of what drifted, else of all, in the last drift check by schedule: a PSI; of embeddings, "
        "the AUC above 0.5, twice; of concept drift, the accuracy's drop.",
    )
    drifted = _gauge("drifted", "Whether the last drift check by schedule found drift.")
    drift_time = _gauge("drift_check_timestamp_seconds", "When the last drift check by schedule was made.")
    violations = _gauge("quality_violations", "Violations that the last quality check by schedule found.")
    quality_time = _gauge("quality_check_timestamp_seconds", "When the last quality check by schedule was made.")
    for key, seen in view.versions.items():
        judged.add_metric(key, seen.lately.judged_count)
        if seen.lately.judged_count:
            accuracy.add_metric(key, seen.lately.correct_count / seen.lately.judged_count)
        if seen.drift is not None:
            drift_time.add_metric(key, seen.drift.create_time.timestamp())
            if seen.drift.status is not DriftStatus.INSUFFICIENT_DATA:
                effect.add_metric(key, seen.drift.effect)
                drifted.add_metric(key, seen.drift.status is DriftStatus.DRIFTED)
        if seen.quality is not None:
            quality_time.add_metric(key, seen.quality.create_time.timestamp())
            if seen.quality.status is not QualityStatus.INSUFFICIENT_DATA:
                violations.add_metric(key, seen.quality.violation_count)
    yield from (judged, accuracy, effect, drifted, drift_time, violations, quality_time)


def _gauge(name: str, documentation: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"penstock_model_{name}", documentation, labels=_LABELS)


def _alerts(view: View) -> Iterator[Metric]:
    labels = ("model", "severity")
    fire = GaugeMetricFamily("penstock_model_open_alerts", "Alerts that fire.", labels=labels)
    unattended = GaugeMetricFamily(
        "penstock_model_unattended_alerts", "Alerts that fire, neither acknowledged nor silenced.", labels=labels
    )
    models = sorted({model for model, _ in view.versions})
    counts = {(model, severity): OpenCount(model, severity, 0, 0) for model in models for severity in Severity}
    counts.update({(one.model, one.severity): one for one in view.alerts})
    for (model, severity), count in counts.items():
        key = (model, severity.name.lower())
        fire.add_metric(key, count.count)
        unattended.add_metric(key, count.unattended)
    yield from (fire, unattended)
