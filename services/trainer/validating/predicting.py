"""Rows through a version as it is served: by its exact name, past the cache, and without an event."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import chain, islice, repeat
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock import Client
from penstock.api.registry.v1.registry_pb2 import ModelVersion
from penstock.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PenstockError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from penstock.predictions import Prediction
from services.trainer.faults import InferenceUnavailable
from services.trainer.task import Stopping
from services.trainer.validating.inputs import Inputs, Rows
from services.trainer.validating.models import Untried, VersionFails
from services.trainer.validating.outputs import worth_keeping

BATCH_ROWS: Final = 256
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Of a request with several rows: below what a server takes of one message."""
CONCURRENCY: Final = 4
"""Requests at once: enough to keep a version busy, and few beside live traffic."""
TIMEOUT_S: Final = 120.0
"""Of one request with its retries; the first waits until the version is loaded."""
APPEAR_S: Final = 60.0
"""How long the inference service may take to hear of a version that the registry has."""
LOOK_INTERVAL_S: Final = 0.2
WARM_UPS: Final = 10
TIMED: Final = 200
"""Single rows that latency is measured by, after the warm-ups, for at most so long:"""
TIMED_S: Final = 20.0
_UNHEARD: Final = frozenset({"MODEL_NOT_FOUND", "VERSION_NOT_FOUND", "NO_VERSION_READY", "VERSION_NOT_READY"})
_SILENT: Final = (Unavailable, ResourceExhausted, DeadlineExceeded, Cancelled)
_TOO_LARGE: Final = frozenset({"SESSION_BUDGET_EXCEEDED"})
"""A version that does not fit is at fault itself, though the service says that it is full."""
_NO_KEY: Final = (Unauthenticated, PermissionDenied)
Outputs = dict[str, NDArray[Any]]


class Predicting:
    """Asks one version."""

    def __init__(self, client: Client, stopping: Stopping, version: ModelVersion) -> None:
        self._client = client
        self._stopping = stopping
        self._version = version

    def outputs(self, rows: Rows, row_count: int, told: Callable[[int], None]) -> Outputs:
        """Predict all rows, some at once; gives, with a row a row, the outputs by which answers are read.

        `told` hears how many rows are done.

        Raises:
            Untried: the version does not take the rows (VersionFails: it does not load, or fails on what it took).
            InferenceUnavailable: there is no answer.
            Stopped: it is to end.
        """
        pieces = enumerate(_pieces(rows))
        _, first = next(pieces)
        answers = {0: self._kept(self._first(first))}
        told(_count(first))
        with ThreadPoolExecutor(CONCURRENCY, thread_name_prefix="validation") as pool:
            waiting: dict[Future[Outputs], tuple[int, int]] = {}
            done = _count(first)
            try:
                for number, piece in pieces:
                    waiting[pool.submit(self._predicted, piece)] = (number, _count(piece))
                    if len(waiting) >= 2 * CONCURRENCY:
                        done += self._take(waiting, answers)
                    told(done)
                while waiting:
                    done += self._take(waiting, answers)
            finally:
                for future in waiting:
                    future.cancel()
        told(row_count)
        return self._joined([answers[number] for number in sorted(answers)], row_count)

    def latencies(self, rows: Rows) -> dict[str, float]:
        """Time single rows one after another, as the service itself times them: p50, p95 and p99 in ms.

        Raises as `outputs`.
        """
        times: list[float] = []
        until = time.monotonic() + TIMED_S
        again = chain.from_iterable(_single_rows(inputs) for _ in repeat(None) for inputs in rows())
        for number, row in enumerate(islice(again, WARM_UPS + TIMED)):
            answer = self._predict(row)
            if number >= WARM_UPS:
                times.append(answer.latency_ms)
                if time.monotonic() > until:
                    break
        return {f"latency_p{share}_ms": float(np.percentile(times, share)) for share in (50, 95, 99)}

    def _predicted(self, tensors: Mapping[str, NDArray[Any]]) -> Outputs:
        return self._kept(self._predict(tensors))

    def _kept(self, answer: Prediction) -> Outputs:
        in_order = (spec.name for spec in self._version.signature.outputs)
        return worth_keeping({name: answer.outputs[name] for name in in_order if name in answer.outputs})

    def _first(self, tensors: Mapping[str, NDArray[Any]]) -> Prediction:
        """Ask for the first time: the inference service may not have heard of the version yet."""
        until = time.monotonic() + APPEAR_S
        while True:
            try:
                return self._asked(tensors)
            except PenstockError as error:
                if error.reason not in _UNHEARD or time.monotonic() >= until:
                    raise self._fault(error) from error
            self._stopping.wait(LOOK_INTERVAL_S)

    def _predict(self, tensors: Mapping[str, NDArray[Any]]) -> Prediction:
        self._stopping.check()
        try:
            return self._asked(tensors)
        except PenstockError as error:
            raise self._fault(error) from error

    def _asked(self, tensors: Mapping[str, NDArray[Any]]) -> Prediction:
        return self._client.inference.predict(
            self._version.model,
            tensors=tensors,
            version=self._version.version,
            skip_cache=True,
            skip_event=True,
            retry=True,
            timeout_s=TIMEOUT_S,
        )

    def _fault(self, error: PenstockError) -> Exception:
        """Tell a version that is at fault from rows that it does not take, and from a service that is away."""
        self._stopping.check()  # what it stumbled over may be its own end
        said = f"{error.message} ({error.reason})"
        if isinstance(error, _NO_KEY):
            sentence = f"the inference service does not let this trainer try versions: {said}; it needs a key with the"
            return Untried(f"{sentence} role operator, as PENSTOCK_SERVICE_TOKEN")
        does_not_fit = error.reason in _TOO_LARGE
        if (isinstance(error, _SILENT) and not does_not_fit) or (
            isinstance(error, NotFound) and error.reason in _UNHEARD
        ):
            return InferenceUnavailable(f"the inference service gives no answer: {said}")
        sentence = f"version {self._version.version} could not be tried: {said}"
        return Untried(sentence) if isinstance(error, InvalidArgument) else VersionFails(sentence)

    def _take(self, waiting: dict[Future[Outputs], tuple[int, int]], answers: dict[int, Outputs]) -> int:
        """Wait a moment for answers, keep those that came, and say how many rows they are of."""
        done, _ = wait(waiting, timeout=LOOK_INTERVAL_S, return_when=FIRST_COMPLETED)
        self._stopping.check()
        rows = 0
        for future in done:
            number, count = waiting.pop(future)
            answers[number] = future.result()
            rows += count
        return rows

    def _joined(self, answers: list[Outputs], row_count: int) -> Outputs:
        joined: Outputs = {}
        for name in answers[0]:
            values = np.concatenate([answer[name] for answer in answers if name in answer])
            if len(values) == row_count:
                joined[name] = values
        if not joined:
            version = self._version.version
            raise Untried(f"version {version} gives no output with one answer a row, so it cannot be measured")
        return joined


def _pieces(rows: Rows) -> Iterator[Outputs]:
    """Give the rows as they are asked: several in one request where they may be, and each alone elsewhere."""
    for inputs in rows():
        yield from inputs.pieces(BATCH_ROWS if inputs.batched else 1, BATCH_BYTES)


def _single_rows(inputs: Inputs) -> Iterator[Outputs]:
    return (inputs.between(row, row + 1) for row in range(inputs.row_count))


def _count(tensors: Mapping[str, NDArray[Any]]) -> int:
    return len(next(iter(tensors.values())))
