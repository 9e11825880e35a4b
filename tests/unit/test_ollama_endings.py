"""Runs of an Ollama session that are ended before they are over; the server is a stand-in."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from types import SimpleNamespace

import pytest

from services.common.errors import (
    Cancelled,
    Unavailable,
)
from services.inference.engine.engine import Engine, InferenceRequest
from services.inference.models import (
    ModelFailed,
)
from services.inference.runtimes.ollama import session as session_module
from services.inference.runtimes.ollama.connections import OwnedConnection
from services.inference.runtimes.ollama.server import OllamaLimits
from services.inference.runtimes.runtime import GenerationOptions
from services.inference.sessions.sessions import SessionCache
from tests.ollama import WAIT_S, Exchange, StubOllama
from tests.ollama_sessions import NAME, load, stub, texts, version
from tests.serving import Versions, wait_until

__all__ = ["stub"]


def lingering(stub: StubOllama) -> tuple[threading.Semaphore, threading.Semaphore]:
    """Let the model answer nothing, and say how many were asked and how many saw their connection closed."""
    asked, closed = threading.Semaphore(0), threading.Semaphore(0)

    def linger(exchange: Exchange) -> None:
        asked.release()
        exchange.until_closed()
        closed.release()

    stub.models[NAME] = linger
    return asked, closed


def test_terminate_closes_the_connections_of_late_runs(stub: StubOllama) -> None:
    asked, closed = lingering(stub)
    session = load(stub, "generate", OllamaLimits(parallel_calls=2))
    with ThreadPoolExecutor(1) as caller:
        run = caller.submit(session.run, {"prompt": texts("a", "b", "c")})
        assert asked.acquire(timeout=WAIT_S)
        assert asked.acquire(timeout=WAIT_S)
        assert session.terminate(longer_than_s=1000) == 0
        assert session.terminate() == 1
        with pytest.raises(ModelFailed) as caught:
            run.result(WAIT_S)
    assert caught.value.reason == "RUN_TERMINATED"
    assert closed.acquire(timeout=WAIT_S)
    assert closed.acquire(timeout=WAIT_S)
    assert len(stub.asked("/api/generate")) == 2, "the third row was not asked any more"
    assert session.terminate() == 0


def test_a_prediction_that_nobody_waits_for_is_ended(stub: StubOllama) -> None:
    asked, closed = lingering(stub)
    session = load(stub, "generate")
    engine = Engine(Versions(version("generate")), SessionCache(lambda version, resources: session))
    request = InferenceRequest("talker", "", {"prompt": texts("a", "b")})
    with ThreadPoolExecutor(1) as caller:
        answer = caller.submit(engine.infer, request)
        for _ in range(2):
            assert asked.acquire(timeout=WAIT_S)
        request.cancel()
        assert isinstance(answer.result(WAIT_S).error, Cancelled)
    for _ in range(2):
        assert closed.acquire(timeout=WAIT_S)
    assert request.on_cancel is None


def test_a_prediction_cancelled_before_it_begins_asks_nothing(stub: StubOllama) -> None:
    run = load(stub, "generate").prepare({"prompt": texts("a")})
    run.cancel()
    with pytest.raises(Cancelled):
        run()
    assert not stub.asked("/api/generate")


def test_the_first_row_that_fails_ends_the_others(stub: StubOllama) -> None:
    closed = threading.Event()

    def behave(exchange: Exchange) -> None:
        if exchange.document["prompt"] == "bad":
            wait_until(lambda: len(stub.asked("/api/generate")) == 2)
            exchange.whole({"error": "bad"}, 500)
            return
        exchange.until_closed()
        closed.set()

    stub.models[NAME] = behave
    with pytest.raises(Unavailable, match="answered 500: bad"):
        load(stub, "generate").run({"prompt": texts("good", "bad")})
    assert closed.wait(WAIT_S)


def test_the_watchdogs_limit_is_none_for_streams(stub: StubOllama) -> None:
    asked, _ = lingering(stub)
    session = load(stub, "generate")
    generation = session.stream({"prompt": texts("x")}, GenerationOptions())
    with ThreadPoolExecutor(1) as caller:
        run = caller.submit(lambda: list(generation))
        assert asked.acquire(timeout=WAIT_S)
        assert session.terminate(longer_than_s=1e-9) == 0
        assert session.terminate() == 1
        with pytest.raises(ModelFailed):
            run.result(WAIT_S)


def test_the_watchdog_ends_a_stream_whose_time_is_over(stub: StubOllama) -> None:
    """A byte now and then within what the socket reads as one keeps a reader waiting for longer than its time."""

    def drip_a_length(exchange: Exchange) -> None:
        exchange.begin()
        wait: Callable[[float], bool] = threading.Event().wait
        while True:
            exchange._handler.wfile.write(b"0")
            wait(0.01)

    stub.models[NAME] = drip_a_length
    session = load(stub, "generate", OllamaLimits(timeout_s=0.3))
    generation = session.stream({"prompt": texts("x")}, GenerationOptions())
    with ThreadPoolExecutor(1) as caller:
        run = caller.submit(lambda: list(generation))
        most = 0
        while not run.done():
            most = max(most, session.terminate(longer_than_s=1000))
            wait([run], 0.01)
        with pytest.raises(ModelFailed):
            run.result(WAIT_S)
    assert most == 0, "it was ended, and did not hang for so long after that"


def test_a_stream_that_hangs_after_its_time_is_seen_for_as_long_as_it_does(
    stub: StubOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, _ = lingering(stub)
    session = load(stub, "generate", OllamaLimits(timeout_s=1000))
    generation = session.stream({"prompt": texts("x")}, GenerationOptions())
    deaf: Callable[..., None] = lambda self, call: None  # noqa: E731
    with ThreadPoolExecutor(1) as caller, monkeypatch.context() as patch:
        patch.setattr(OwnedConnection, "shut", deaf)  # a connection that cannot be shut
        run = caller.submit(lambda: list(generation))
        assert asked.acquire(timeout=WAIT_S)
        now = time.monotonic()
        for later_s, expected in [(900, 0), (1050, 0), (1150, 0), (1201, 1), (1300, 1)]:
            patch.setattr(session_module, "time", SimpleNamespace(monotonic=lambda: now + later_s))  # noqa: B023
            assert session.terminate(longer_than_s=200) == expected, later_s
        patch.undo()
        assert session.terminate() == 1
        with pytest.raises(ModelFailed):
            run.result(WAIT_S)


def test_a_stream_whose_reader_is_slow_never_counts_as_hanging(
    stub: StubOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its generator is suspended between two pieces: the worker is well, and must not be replaced for that."""
    closed = threading.Event()

    def talk(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one")
        exchange.until_closed()
        closed.set()

    stub.models[NAME] = talk
    session = load(stub, "generate", OllamaLimits(timeout_s=1000))
    pieces = iter(session.stream({"prompt": texts("x")}, GenerationOptions()))
    assert next(pieces).text == "one"
    monkeypatch.setattr(session_module, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + 10_000))
    assert [session.terminate(longer_than_s=limit_s) for limit_s in (1.0, 2.0)] == [0, 0]
    assert closed.wait(WAIT_S), "its time is over, and the server need not go on"
    with pytest.raises(ModelFailed) as caught:
        next(pieces)
    assert caught.value.reason == "RUN_TERMINATED"
