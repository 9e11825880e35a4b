"""Many texts through one model: in requests that the engine can run with others', and with one event for all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from penstock.ids import uuid7
from services.common.errors import DomainError, InvalidArgument
from services.inference import prediction_spans
from services.inference.caching.engine import CachingEngine
from services.inference.engine.batch import WrongRowCount
from services.inference.engine.engine import Engine, InferenceRequest, Resolver
from services.inference.events.events import Event, EventLog
from services.inference.models import Caller, ModelFailed, NotAskedLikeThat, ResolvedVersion
from services.inference.tensors import Tensor

OnCancel = Callable[[Callable[[], None]], bool]
TERMINATED: Final = "RUN_TERMINATED"
ROWS_APART: Final = frozenset({"transformers", "ollama"})
"""Runtimes that keep rows apart themselves where they must not run together; of the others each row is a request."""


@dataclass(frozen=True, slots=True)
class Asked:
    """Which model is asked, for whom, and for how long: `timeout_s` from now, None: for as long as it takes.

    `on_cancel` takes a callback for when the client goes away; it says False where it has gone already. `skip_cache`:
    neither look into the response cache nor keep the answers there.
    """

    model: str
    version: str
    caller: Caller
    timeout_s: float | None
    on_cancel: OnCancel
    skip_cache: bool = False


@dataclass(slots=True)
class Answered:
    """An output for each row, or the row's own error; then its values are zeros."""

    values: Tensor
    errors: dict[int, DomainError] = field(default_factory=dict)


class TextRuns:
    """Runs versions on texts. `max_batch_size` is how many at once where the version says nothing."""

    def __init__(
        self, catalog: Resolver, engine: Engine | CachingEngine, events: EventLog, *, max_batch_size: int
    ) -> None:
        self._catalog = catalog
        self._engine = engine
        self._events = events
        self._max_batch_size = max_batch_size

    @contextmanager
    def attempt(self, asked: Asked) -> Iterator[Attempt]:
        """Resolve the version, and record what becomes of it: once the block ends, or what it raised.

        A version that is not asked like that leaves nothing to record.
        """
        attempt = Attempt(self._engine, asked)
        event = attempt.event
        try:
            version = attempt.version = event.resolved = self._catalog.resolve(asked.model, asked.version)
            whole = version.rows_independent or version.framework in ROWS_APART
            attempt.most_rows = (version.serving.max_batch_size or self._max_batch_size) if whole else 1
            if not asked.on_cancel(attempt.cancel):
                attempt.cancel()
            yield attempt
        except NotAskedLikeThat:
            raise
        except Exception as error:
            event.error_code = error.reason if isinstance(error, DomainError) else "INTERNAL"
            self._record(attempt)
            raise
        self._record(attempt)

    def _record(self, attempt: Attempt) -> None:
        attempt.event.latency_ms = attempt.elapsed_ms()
        self._events.record(attempt.event)


class Attempt:
    """One call under way."""

    version: ResolvedVersion

    def __init__(self, engine: Engine | CachingEngine, asked: Asked) -> None:
        self.event = Event(uuid7(), asked.model, asked.caller)
        self.most_rows = 1
        self._engine = engine
        self._asked = asked
        self._began_ns = time.perf_counter_ns()
        timeout_s = asked.timeout_s
        self._deadline_ns = 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9)
        self._cancelled = False
        self._request: InferenceRequest | None = None

    def cancel(self) -> None:
        """Say that nobody waits any more. Safe from any thread."""
        self._cancelled = True
        request = self._request
        if request is not None:
            request.cancel()

    def elapsed_ms(self) -> float:
        """The time since the call came."""
        return (time.perf_counter_ns() - self._began_ns) / 1e6

    def answer(self, inputs: Mapping[str, Tensor], output: str, *, forgiving: bool = False) -> Answered:
        """Run all rows, so many at once as the version takes, and those of like length together.

        `forgiving`: a row that the model cannot answer fails alone; it is found by halving the rows that it ran with.
        What is no row's own fault (a full queue, a run that took too long) fails them all.
        """
        order = np.argsort(-_sizes(inputs), kind="stable")
        answered = Answered(np.zeros(0))
        waiting = deque(order[begin : begin + self.most_rows] for begin in range(0, len(order), self.most_rows))
        while waiting:
            rows = waiting.popleft()
            try:
                values = self._run({name: tensor[rows] for name, tensor in inputs.items()}, output, len(rows))
            except (InvalidArgument, ModelFailed) as error:
                if not forgiving or error.reason == TERMINATED:
                    raise
                if len(rows) > 1:
                    waiting.extendleft((rows[len(rows) // 2 :], rows[: len(rows) // 2]))
                else:
                    answered.errors[int(rows[0])] = error
            else:
                _place(answered, values, rows, len(order))
        return answered

    def _run(self, inputs: Mapping[str, Tensor], output: str, count: int) -> Tensor:
        asked = self._asked
        request = self._request = InferenceRequest(
            asked.model,
            asked.version,
            inputs,
            outputs=(output,),
            deadline_ns=self._deadline_ns,
            resolved=self.version,
            skip_cache=asked.skip_cache,
        )
        if self._cancelled:
            request.cancel()
        answer = self._engine.infer(request)
        if answer.error is not None:
            raise answer.error
        if self.event.trace.recorded:
            prediction_spans.record(self.event.trace, self.event.inference_id, answer)
        values = answer.outputs[output]
        if len(values) != count:
            raise WrongRowCount(f"the model gave {len(values)} rows of {output!r} for {count} texts")
        return values


def _place(answered: Answered, values: Tensor, rows: NDArray[Any], count: int) -> None:
    if not answered.values.size:
        answered.values = np.zeros((count, *values.shape[1:]), values.dtype)
    if values.shape[1:] != answered.values.shape[1:]:
        raise ModelFailed("the model gave vectors of unlike length for the texts of one request")
    answered.values[rows] = values


def _sizes(inputs: Mapping[str, Tensor]) -> NDArray[np.int64]:
    """The length of each row's texts together, in bytes."""
    columns = [np.fromiter(map(len, tensor.tolist()), np.int64, len(tensor)) for tensor in inputs.values()]
    return np.asarray(np.sum(columns, axis=0))
