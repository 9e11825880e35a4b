"""Calls of one Ollama session at once, whichever predictions they are for; the server is a stand-in."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from services.common.errors import Cancelled
from services.inference.models import ModelFailed, OllamaReference, Signature, TensorSpec
from services.inference.runtimes.ollama.server import OllamaLimits, OllamaServer
from services.inference.runtimes.ollama.session import OllamaSession
from services.inference.runtimes.runtime import GenerationOptions
from services.inference.tensors import Tensor
from tests import ollama
from tests.ollama import WAIT_S, Exchange, StubOllama, well
from tests.serving import wait_until

PARALLEL = 4
SIGNATURE = Signature((TensorSpec("prompt", "BYTES", (-1,)),), (TensorSpec("response", "BYTES", (-1,)),))


class Gate:
    """A model that answers when it is let, and counts how many calls are with it at once."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self.now = 0
        self.most = 0
        self.open = False

    def __call__(self, exchange: Exchange) -> None:
        """Answer once the gate is open."""
        with self.changed:
            self.now += 1
            self.most = max(self.most, self.now)
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.open, WAIT_S)
            self.now -= 1
        well(exchange)

    def until_full(self) -> None:
        """Wait until as many calls are here as may be."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.now >= PARALLEL, WAIT_S)

    def let(self) -> None:
        """Open it."""
        with self.changed:
            self.open = True
            self.changed.notify_all()


@pytest.fixture
def gate() -> Iterator[Gate]:
    gate = Gate()
    yield gate
    gate.let()


@pytest.fixture
def stub(gate: Gate) -> Iterator[StubOllama]:
    with ollama.running(m=gate) as running:
        yield running


@pytest.fixture
def session(stub: StubOllama) -> OllamaSession:
    server = OllamaServer(stub.url, OllamaLimits(parallel_calls=PARALLEL))
    return OllamaSession(server, OllamaReference("m", "generate"), SIGNATURE)


def until_waiting(session: OllamaSession, count: int) -> None:
    """Wait until so many threads wait for their turn."""
    waiters: Collection[object] = session._slots._changed._waiters  # type: ignore[attr-defined]  # the library's own
    wait_until(lambda: len(waiters) == count)


def words(count: int) -> dict[str, Tensor]:
    tensor = np.empty(count, dtype=object)
    tensor.fill(b"word")
    return {"prompt": tensor}


def test_predictions_at_once_share_the_bound_on_calls(session: OllamaSession, gate: Gate, stub: StubOllama) -> None:
    with ThreadPoolExecutor(PARALLEL) as callers:
        runs = [callers.submit(session.run, words(8)) for _ in range(PARALLEL)]
        gate.until_full()
        until_waiting(session, PARALLEL)  # each caller, and as many threads for its other rows
        gate.let()
        answers = [run.result(WAIT_S)["response"].tolist() for run in runs]
    assert answers == [["you said word"] * 8] * PARALLEL
    assert len(stub.exchanges) == 8 * PARALLEL
    assert gate.most == PARALLEL


def test_one_that_waits_for_its_turn_is_called_off_at_once(
    session: OllamaSession, gate: Gate, stub: StubOllama
) -> None:
    with ThreadPoolExecutor(3) as callers:
        first = callers.submit(session.run, words(PARALLEL))
        gate.until_full()
        cancelled, ended = session.prepare(words(2)), session.prepare(words(2))
        waiting = [callers.submit(cancelled), callers.submit(ended)]
        until_waiting(session, 3)  # the last thread for other rows is the first one's
        cancelled.cancel()
        with pytest.raises(Cancelled):
            waiting[0].result(WAIT_S)
        ended._run.end(ModelFailed("the run took too long and was ended", reason="RUN_TERMINATED"))
        with pytest.raises(ModelFailed):
            waiting[1].result(WAIT_S)
        assert len(stub.exchanges) == PARALLEL, "neither asked anything"
        gate.let()
        assert len(first.result(WAIT_S)["response"]) == PARALLEL
    assert session.run(words(1))["response"].tolist() == ["you said word"], "their turns were not lost"


def test_a_stream_does_not_wait_for_predictions(session: OllamaSession, gate: Gate) -> None:
    with ThreadPoolExecutor(2) as callers:
        callers.submit(session.run, words(PARALLEL))
        gate.until_full()
        stream = callers.submit(lambda: list(session.stream(words(1), GenerationOptions())))
        with gate.changed:
            assert gate.changed.wait_for(lambda: gate.now == PARALLEL + 1, WAIT_S)
        gate.let()
        assert stream.result(WAIT_S)
