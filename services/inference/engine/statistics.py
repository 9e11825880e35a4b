"""What each version has been asked and how long it took: the numbers behind ModelStatistics and the metrics."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from struct import Struct
from typing import Any

from services.common.counters import Counters
from services.common.errors import Cancelled, DeadlineExceeded, ResourceExhausted
from services.inference.models import ModelFailed, ResolvedVersion, Signature

EXACT_BATCH_ROWS = 64
FAILURES = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
# A row of counts that others add up: those of a success together, so that they are written in one go.
_SUCCESS = (
    "successes",
    "success_ns",
    "queue_ns",
    "compute_input_ns",
    "compute_infer_ns",
    "compute_output_ns",
    "inferences",
    "last_inference_ms",
)
_LOOKS = ("cache_hits", "cache_hit_ns", "cache_misses", "cache_miss_ns")
_NUMBERS = (*_SUCCESS, *_LOOKS, "failed", "failed_ns", "executions")
_FAILED, _FAILED_NS, _EXECUTIONS, _KINDS = (len(_NUMBERS) - 3, len(_NUMBERS) - 2, len(_NUMBERS) - 1, len(_NUMBERS))
_LATEST = _NUMBERS.index("last_inference_ms")
_CELLS = len(_NUMBERS) + len(FAILURES)
_VERSION, _BATCH = "version", "batch"
_write_success = Struct(f"{len(_SUCCESS)}Q").pack_into
_write_looks = Struct(f"{len(_LOOKS)}Q").pack_into
_write_tally = Struct("4Q").pack_into
_LOOKS_AT = 8 * len(_SUCCESS)


@dataclass(slots=True)
class Timings:
    """Where one request's nanoseconds went. `queue_ns` is the wait for a free and loaded session."""

    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    total_ns: int = 0


@dataclass(slots=True)
class BatchTally:
    """Executions of one batch size, and the nanoseconds they took."""

    executions: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0


@dataclass(slots=True)
class VersionStatistics:
    """The counts of one version since the process began; whoever counts holds its model's lock.

    `inferences` counts rows, `executions` runs of the model that answered, of one request or of several joined. Queue
    and compute times are those of the successful requests; each of those that were joined counts the whole run.
    `failures` are by kind: REJECTED, CANCELED, BACKEND, OTHER. `batches` are by rows: exact up to EXACT_BATCH_ROWS and
    rounded up to a power of two beyond, since callers choose how many they send.
    """

    version: ResolvedVersion
    in_flight: int = 0
    successes: int = 0
    success_ns: int = 0
    failed: int = 0
    failed_ns: int = 0
    queue_ns: int = 0
    compute_input_ns: int = 0
    compute_infer_ns: int = 0
    compute_output_ns: int = 0
    inferences: int = 0
    executions: int = 0
    last_inference_ms: int = 0
    cache_hits: int = 0
    cache_hit_ns: int = 0
    cache_misses: int = 0
    cache_miss_ns: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    batches: dict[int, BatchTally] = field(default_factory=dict)
    kept: Kept | None = None
    """Where others read them, if there are others."""

    def count_look(self, hit: bool, duration_ns: int) -> None:
        """Count a look into the response cache. One that found something is a success, and nothing was predicted."""
        if hit:
            self.cache_hits += 1
            self.cache_hit_ns += duration_ns
            self.successes += 1
            self.success_ns += duration_ns
        else:
            self.cache_misses += 1
            self.cache_miss_ns += duration_ns
        if self.kept is not None:
            self.kept.looked(self)

    def count_success(self, rows: int, timings: Timings) -> None:
        """Count one request that was answered."""
        self.successes += 1
        self.success_ns += timings.total_ns
        self.queue_ns += timings.queue_ns
        self.compute_input_ns += timings.compute_input_ns
        self.compute_infer_ns += timings.compute_infer_ns
        self.compute_output_ns += timings.compute_output_ns
        self.inferences += rows
        self.last_inference_ms = time.time_ns() // 1_000_000
        if self.kept is not None:
            self.kept.succeeded(self)

    def count_run(self, rows: int, timings: Timings) -> None:
        """Count one run of the model for `rows`, of one request or of several joined; `timings` are one request's."""
        self.executions += 1
        size = rows if rows <= EXACT_BATCH_ROWS else 1 << (rows - 1).bit_length()
        batch = self.batches.get(size)
        if batch is None:
            batch = self.batches[size] = BatchTally()
        batch.executions += 1
        batch.compute_input_ns += timings.compute_input_ns
        batch.compute_infer_ns += timings.compute_infer_ns
        batch.compute_output_ns += timings.compute_output_ns
        if self.kept is not None:
            self.kept.ran(self, size, batch)

    def count_failure(self, error: Exception, total_ns: int) -> None:
        """Count one failed request by the kind of its error."""
        kind = failure_kind(error)
        self.failed += 1
        self.failed_ns += total_ns
        self.failures[kind] = self.failures.get(kind, 0) + 1
        if self.kept is not None:
            self.kept.failed(self, kind)

    def snapshot(self) -> VersionStatistics:
        """Copy the counts, so that they stay together while they are read."""
        batches = {rows: replace(tally) for rows, tally in self.batches.items()}
        return replace(self, failures=dict(self.failures), batches=batches, kept=None)


class Kept:
    """One version's counts in the file of this worker's slot, written whenever they change.

    By name: a version that was registered anew with other bytes counts on where its namesake ended.
    """

    def __init__(self, counters: Counters, model: str, version: str) -> None:
        self._counters = counters
        self._name = (model, version)
        self._cells = counters.row((_VERSION, model, version), _CELLS).cells
        self._batches: dict[int, Any] = {}

    def succeeded(self, counts: VersionStatistics) -> None:
        """Write what a success changed."""
        _write_success(
            self._cells,
            0,
            counts.successes,
            counts.success_ns,
            counts.queue_ns,
            counts.compute_input_ns,
            counts.compute_infer_ns,
            counts.compute_output_ns,
            counts.inferences,
            counts.last_inference_ms,
        )

    def looked(self, counts: VersionStatistics) -> None:
        """Write what a look into the response cache changed."""
        self._cells[0], self._cells[1] = counts.successes, counts.success_ns
        looks = (counts.cache_hits, counts.cache_hit_ns, counts.cache_misses, counts.cache_miss_ns)
        _write_looks(self._cells, _LOOKS_AT, *looks)

    def ran(self, counts: VersionStatistics, size: int, tally: BatchTally) -> None:
        """Write what a run changed."""
        self._cells[_EXECUTIONS] = counts.executions
        cells = self._batches.get(size)
        if cells is None:
            cells = self._batches[size] = self._counters.row((_BATCH, *self._name, str(size)), 4).cells
        _write_tally(
            cells, 0, tally.executions, tally.compute_input_ns, tally.compute_infer_ns, tally.compute_output_ns
        )

    def failed(self, counts: VersionStatistics, kind: str) -> None:
        """Write what a failure changed."""
        self._cells[_FAILED], self._cells[_FAILED_NS] = counts.failed, counts.failed_ns
        self._cells[_KINDS + FAILURES.index(kind)] = counts.failures[kind]


class StatisticsBook:
    """The counts of all versions, of all workers where there are several."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._opened: dict[tuple[str, str], VersionStatistics] = {}
        self.shared = counters.shared

    def open(self, version: ResolvedVersion) -> VersionStatistics:
        """Begin to count a version, or go on where this slot's last worker ended; the caller holds a lock."""
        if not self.shared:
            return VersionStatistics(version)
        name = (version.model, version.version)
        counts = self._opened.get(name)
        if counts is None:
            counts = self._opened[name] = VersionStatistics(version)
            counts.kept = Kept(self._counters, *name)
            _fill(counts, [self._counters.row((_VERSION, *name), _CELLS).values()])
            for key, slots in self._counters.own(_BATCH).items():
                if key[1:3] == name:
                    counts.batches[int(key[3])] = _tally(slots)
        counts.version = version
        return counts

    def of_all_workers(self) -> list[VersionStatistics]:
        """Add up what every worker has counted, the dead ones too; what is in flight is not in it."""
        found: dict[tuple[str, str], VersionStatistics] = {}
        for (_, model, version), slots in self._counters.slots(_VERSION).items():
            found[model, version] = counts = VersionStatistics(_named(model, version))
            _fill(counts, slots)
        for (_, model, version, size), slots in self._counters.slots(_BATCH).items():
            if (model, version) in found:
                found[model, version].batches[int(size)] = _tally(slots)
        return list(found.values())


def _fill(counts: VersionStatistics, slots: Sequence[Sequence[int]]) -> None:
    for index, name in enumerate(_NUMBERS):
        values = [slot[index] for slot in slots]
        setattr(counts, name, max(values) if index == _LATEST else sum(values))
    for index, kind in enumerate(FAILURES, start=_KINDS):
        if count := sum(slot[index] for slot in slots):
            counts.failures[kind] = count


def _tally(slots: Sequence[Sequence[int]]) -> BatchTally:
    return BatchTally(*map(sum, zip(*slots, strict=True)))


def _named(model: str, version: str) -> ResolvedVersion:
    """Stand for a version of which only the name is known here."""
    return ResolvedVersion(model, version, 0, "", "", Signature((), ()), ())


def failure_kind(error: Exception) -> str:
    """Name the failure as Triton's metrics do: REJECTED, CANCELED, BACKEND or OTHER."""
    if isinstance(error, (ResourceExhausted, DeadlineExceeded)):
        return "REJECTED"
    if isinstance(error, Cancelled):
        return "CANCELED"
    return "BACKEND" if isinstance(error, ModelFailed) else "OTHER"
