"""What each version has been asked and how long it took: the numbers behind ModelStatistics and the metrics."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from services.common.errors import Cancelled, DeadlineExceeded, ResourceExhausted
from services.inference.models import ModelFailed, ResolvedVersion

EXACT_BATCH_ROWS = 64


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

    def count_failure(self, error: Exception, total_ns: int) -> None:
        """Count one failed request by the kind of its error."""
        kind = failure_kind(error)
        self.failed += 1
        self.failed_ns += total_ns
        self.failures[kind] = self.failures.get(kind, 0) + 1

    def snapshot(self) -> VersionStatistics:
        """Copy the counts, so that they stay together while they are read."""
        batches = {rows: replace(tally) for rows, tally in self.batches.items()}
        return replace(self, failures=dict(self.failures), batches=batches)


def failure_kind(error: Exception) -> str:
    """Name the failure as Triton's metrics do: REJECTED, CANCELED, BACKEND or OTHER."""
    if isinstance(error, (ResourceExhausted, DeadlineExceeded)):
        return "REJECTED"
    if isinstance(error, Cancelled):
        return "CANCELED"
    return "BACKEND" if isinstance(error, ModelFailed) else "OTHER"
