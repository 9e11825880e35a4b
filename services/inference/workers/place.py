"""A worker's place among the others: what the supervisor tells it when it starts it, and what follows from that."""

from __future__ import annotations

import ctypes
import json
import math
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from services.common.cpus import cpu_count, find_quota
from services.inference.settings import InferenceSettings

VARIABLE = "PENSTOCK_WORKER"
"""Holds the place, as JSON; set by the supervisor alone."""
PR_SET_PDEATHSIG = 1
DIVIDED_BYTES = (
    "session_budget_bytes",
    "tensorflow_budget_bytes",
    "transformers_budget_bytes",
    "response_cache_bytes",
    "spool_max_bytes",
)
DIVIDED = ("spool_queue_events", "ollama_parallel")
"""What the service as a whole may use, each worker its share. What is on disk for all of them stays whole."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process stands in the service.

    Attributes:
        number: of the worker, from 0; its slot's.
        count: of workers.
        parent: the supervisor's process.
        wire: the descriptor of the socket to it.
        port: where all workers listen.
        metrics_port: where the supervisor answers for all.
        counters: the descriptors of the slots' files.
        core: the one that the worker keeps to; None: all that the service may use.
    """

    number: int
    count: int
    parent: int
    wire: int
    port: int
    metrics_port: int
    counters: Sequence[int]
    core: int | None = None

    def to_variable(self) -> str:
        """Write it for the environment of a child."""
        return json.dumps(asdict(self))

    @classmethod
    def from_environment(cls) -> Place:
        """Read what the supervisor wrote."""
        return cls(**json.loads(os.environ[VARIABLE]))

    def take(self) -> None:
        """End with the supervisor, however that ends, and keep to the core. Call it before any thread starts."""
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self.parent:  # it died before the kernel was told
            sys.exit(1)
        if self.core is not None:
            os.sched_setaffinity(0, {self.core})

    def settings(self, settings: InferenceSettings) -> InferenceSettings:
        """Give a worker's share of what the service was told it may use."""
        return settings.model_copy(
            update={
                "port": self.port,
                "metrics_port": self.metrics_port,
                **{name: getattr(settings, name) // self.count for name in DIVIDED_BYTES},
                **{name: math.ceil(getattr(settings, name) / self.count) for name in DIVIDED},
                "runtime_threads": self._threads(settings),
            }
        )

    def _threads(self, settings: InferenceSettings) -> int:
        if self.core is not None:
            return 1
        return settings.runtime_threads or max(1, cpu_count() // self.count)


def worker_count(settings: InferenceSettings) -> int:
    """Say how many workers the service is to have. The sharing of a port is the Linux kernel's."""
    if sys.platform != "linux":
        return 1
    return cpu_count() if settings.inference_workers == "auto" else settings.inference_workers


def cores(settings: InferenceSettings, count: int) -> list[int | None]:
    """Give each worker its core; None for all of them where they are not to be pinned.

    By itself only where the cores are ours alone: a set of them no larger than the quota. Anywhere else the kernel
    knows better which are free.
    """
    allowed = sorted(os.sched_getaffinity(0))
    quota = find_quota()
    alone = quota is not None and len(allowed) <= quota
    if settings.inference_pinned == "never" or (settings.inference_pinned == "auto" and not alone):
        return [None] * count
    return [allowed[number % len(allowed)] for number in range(count)]
