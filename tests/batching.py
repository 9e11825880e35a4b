"""A model that runs when told to, and callers on threads of their own: for the tests of who runs with whom."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

from services.inference.engine.engine import Engine, EngineLimits, InferenceAnswer, InferenceRequest, QueueStatus
from services.inference.models import ModelFailed, ResolvedVersion, ServingSettings, Signature, TensorSpec
from services.inference.runtimes.runtime import Session
from services.inference.sessions.sessions import SessionCache
from services.inference.tensors import Tensor
from tests.serving import Versions, plain_version, wait_until

FREE = Signature((TensorSpec("x", "FP32", (-1, -1)),), (TensorSpec("y", "FP32", (-1, -1)),))
POISON = -1.0
HANGS = -2.0
LONG_US = 100_000_000
"""A wait for others that no test outlasts."""


class ToldSession:
    """Doubles what it is given, once it is told to; `runs` are the inputs of each run in their order.

    A run with POISON in it fails; one with HANGS in it goes on until it is terminated.
    """

    signature = FREE
    size_bytes = 1

    def __init__(self) -> None:
        self.runs: list[Tensor] = []
        self.threads: list[int] = []
        self.answer: Callable[[Tensor], Tensor] = lambda x: x * 2
        self._turns = threading.Semaphore(0)
        self._free = False
        self._terminated = threading.Event()

    def run(self, inputs: Mapping[str, Tensor], outputs: Sequence[str] = ()) -> dict[str, Tensor]:
        """Note what came, wait to be told, and answer."""
        x = inputs["x"]
        self.threads.append(threading.get_ident())
        self.runs.append(x)
        if not self._free:
            assert self._turns.acquire(timeout=60), "nobody told it to go on"
        if np.any(x == HANGS):
            assert self._terminated.wait(60), "nobody ended it"
            self._terminated.clear()
            raise ModelFailed("the run took too long and was ended", reason="RUN_TERMINATED")
        if np.any(x == POISON):
            raise ModelFailed("it was poisoned")
        return {"y": self.answer(x)}

    def go(self, runs: int = 1) -> None:
        """Let so many runs come to their end."""
        self._turns.release(runs)

    def go_on(self) -> None:
        """Let every run come to its end from now on."""
        self._free = True
        self._turns.release(1000)

    def terminate(self, *, longer_than_s: float = 0.0) -> int:
        """End the run that hangs."""
        self._terminated.set()
        return 1

    def close(self) -> None:
        """Nothing to give back."""

    @property
    def sizes(self) -> list[int]:
        """The rows of each run."""
        return [len(run) for run in self.runs]


class Callers:
    """An engine over one such model, and callers that block on threads of their own."""

    def __init__(self, version: ResolvedVersion, limits: EngineLimits, pool: ThreadPoolExecutor) -> None:
        self.version = version
        self.session = ToldSession()
        self.sessions = SessionCache(self._load)
        self.engine = Engine(Versions(version), self.sessions, limits)
        self._pool = pool

    def _load(self, version: ResolvedVersion, resources: ExitStack) -> Session:
        return self.session

    def request(self, value: float = 1.0, *, rows: int = 1, columns: int = 2, **more: Any) -> InferenceRequest:
        """Make a request whose rows hold this value."""
        x = np.full((rows, columns), value, np.float32)
        return InferenceRequest(self.version.model, "", {"x": x}, resolved=more.pop("resolved", self.version), **more)

    def send(self, request: InferenceRequest) -> Future[InferenceAnswer]:
        """Have a caller block on a request, and wait until it runs or waits, or is refused."""
        runs = len(self.session.runs)
        future = self._pool.submit(self.engine.infer, request)
        wait_until(lambda: len(self.session.runs) > runs or request.on_cancel is not None or future.done())
        return future

    def ask(self, value: float = 1.0, **more: Any) -> Future[InferenceAnswer]:
        """Send a request whose rows hold this value."""
        return self.send(self.request(value, **more))

    def ask_many(self, count: int, **more: Any) -> list[Future[InferenceAnswer]]:
        """Send several, one after another, with values from 10 on."""
        return [self.ask(10.0 + number, **more) for number in range(count)]

    def until_run(self, runs: int) -> None:
        """Wait until so many runs have begun."""
        wait_until(lambda: len(self.session.runs) == runs)

    @property
    def queue(self) -> QueueStatus:
        """What waits now."""
        queues = self.engine.queues()
        return queues[-1] if queues else QueueStatus(self.version, 0, 0, 0.0, 0)


@contextmanager
def calling(
    *,
    serving: ServingSettings | None = None,
    independent: bool = True,
    limits: EngineLimits | None = None,
    signature: Signature = FREE,
) -> Iterator[Callers]:
    """Serve such a model; at the end everybody must have been answered."""
    version = replace(
        plain_version("doubler"),
        signature=signature,
        rows_independent=independent,
        serving=serving or ServingSettings(),
    )
    with ThreadPoolExecutor(64) as pool:
        callers = Callers(version, limits or EngineLimits(), pool)
        try:
            yield callers
        finally:
            callers.session.go_on()
    wait_until(lambda: callers.queue.running == 0)
    assert all(each.in_flight == 0 for each in callers.engine.statistics())
    callers.sessions.close(60)


def until_answered(futures: Sequence[Future[InferenceAnswer]], count: int) -> None:
    """Wait until exactly so many of them are answered."""
    wait_until(lambda: sum(future.done() for future in futures) == count)


def values(futures: Sequence[Future[InferenceAnswer]]) -> list[float]:
    """What each was answered, in the value of its rows; the first error is raised."""
    return [value_of(future.result(60)) for future in futures]


def value_of(answer: InferenceAnswer) -> float:
    """The value of an answer's rows, which must be one."""
    if answer.error is not None:
        raise answer.error
    (value,) = set(answer.outputs["y"].ravel().tolist())
    return float(value)
