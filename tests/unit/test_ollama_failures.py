"""What an Ollama server may do wrong, and what a caller is told; the server is a stand-in."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.common.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Unavailable,
)
from services.inference.models import (
    ServingSettings,
    WarmUp,
)
from services.inference.runtimes.ollama import call as calls
from services.inference.runtimes.ollama import session as session_module
from services.inference.runtimes.ollama.runtime import OllamaRuntime
from services.inference.runtimes.ollama.server import OllamaLimits, OllamaServer
from services.inference.runtimes.runtime import Artifact
from services.inference.sessions.warm_up import warm_up
from tests import ollama
from tests.ollama import WAIT_S, Exchange, StubOllama
from tests.ollama_sessions import NAME, SHORT, load, refusal, stub, texts, version

__all__ = ["stub"]


def test_a_server_that_is_down_is_unavailable_with_the_reason_and_what_to_do(stub: StubOllama) -> None:
    session = load(stub, "generate")
    stub.stop()
    for attempt in (
        lambda: session.run({"prompt": texts("hello")}),
        lambda: OllamaRuntime(OllamaServer(stub.url)).load(Artifact(version("chat"), Path())),
    ):
        with pytest.raises(Unavailable, match=r"Connection refused.*ollama serve.*PENSTOCK_OLLAMA_URL") as caught:
            attempt()
        assert caught.value.reason == "OLLAMA_UNREACHABLE"
        assert caught.value.retryable


def test_a_model_that_is_not_pulled_says_how_to_bring_it(stub: StubOllama) -> None:
    session = load(stub, "generate")
    del stub.models[NAME]
    for attempt in (lambda: session.run({"prompt": texts("hello")}), lambda: load(stub, "chat")):
        with pytest.raises(FailedPrecondition, match=f"ollama pull {NAME}") as caught:
            attempt()
        assert caught.value.reason == "OLLAMA_MODEL_MISSING"


def cut_mid_line(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("one")
    exchange.raw(b'{"response": "tw')
    exchange.hang_up()


def ends_early(exchange: Exchange) -> None:
    exchange.whole(b'{"response": "one", "done": false}\n')


def fails_mid_stream(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("one")
    exchange.line(error="out of memory " + "x" * 5000)


def floods(exchange: Exchange) -> None:
    exchange.begin()
    while True:
        exchange.raw(b" " * 2**20 + b"x")


def speaks_no_http(exchange: Exchange) -> None:
    exchange._handler.wfile.write(b"hello, who is there?\r\n\r\n")
    exchange.hang_up()


def answering(document: Any, status: int = 200, **headers: str) -> ollama.Behaviour:
    return lambda exchange: exchange.whole(document, status, **headers)


@pytest.mark.parametrize(
    ("behave", "reason", "sentence", "retryable"),
    [
        (answering({"error": "no memory left"}, 500), "OLLAMA_FAILED", "answered 500: no memory left", True),
        (answering(b"<html>busy</html>", 503), "OLLAMA_FAILED", "answered 503: '<html>busy", True),
        (answering({"error": "x does not support chat"}, 400), "OLLAMA_FAILED", "does not support", False),
        (answering({"error": "no key"}, 401), "OLLAMA_FAILED", "PENSTOCK_OLLAMA_TOKEN_FILE", False),
        (answering(b"", 302, Location="http://127.0.0.1:1/"), "OLLAMA_FAILED", "answered 302", False),
        (answering(b"hello"), "OLLAMA_NONSENSE", "'hello' is no JSON", True),
        (answering(b"[1]"), "OLLAMA_NONSENSE", "is no object", True),
        (answering(b"[" * 100_000), "OLLAMA_NONSENSE", "is no JSON", True),
        (answering({"response": 1, "done": False}), "OLLAMA_NONSENSE", "no piece of a text", True),
        (answering({"response": "x", "done": True, "eval_count": -1}), "OLLAMA_NONSENSE", "eval_count", True),
        (cut_mid_line, "OLLAMA_FAILED", "broke the connection off", True),
        (ends_early, "OLLAMA_FAILED", "before it was complete", True),
        (fails_mid_stream, "OLLAMA_FAILED", "out of memory", True),
        (speaks_no_http, "OLLAMA_FAILED", "broke the connection off", True),
        (floods, "OLLAMA_NONSENSE", "a line of over", True),
    ],
)  # fmt: skip
def test_what_the_server_does_wrong_is_told(
    stub: StubOllama, behave: ollama.Behaviour, reason: str, sentence: str, retryable: bool
) -> None:
    error = refusal(stub, behave)
    assert isinstance(error, Unavailable)
    assert (error.reason, error.retryable) == (reason, retryable)
    assert sentence in error.message
    assert len(error.message) < 1_000


def test_an_answer_without_an_end_is_cut(stub: StubOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls, "MAX_ANSWER_BYTES", 100_000)

    def babble(exchange: Exchange) -> None:
        exchange.begin()
        while True:
            exchange.say("blah " * 1000)

    assert refusal(stub, babble).reason == "OLLAMA_NONSENSE"


def never(exchange: Exchange) -> None:
    exchange.until_closed()


def stalls(exchange: Exchange) -> None:
    exchange.begin()
    exchange.say("one")
    exchange.until_closed()


@pytest.mark.parametrize("behave", [never, stalls])
def test_a_silent_server_is_left(stub: StubOllama, behave: ollama.Behaviour) -> None:
    error = refusal(stub, behave, SHORT)
    assert isinstance(error, DeadlineExceeded)
    assert error.reason == "OLLAMA_TIMEOUT"
    assert "was silent for 0.2 s" in error.message


def drip(exchange: Exchange) -> None:
    exchange.begin()
    while True:
        exchange.say("drop")
        threading.Event().wait(0.01)  # a slow server, as the test wants it


def test_a_server_that_never_ends_is_left_after_the_whole_time(stub: StubOllama) -> None:
    error = refusal(stub, drip, OllamaLimits(stall_timeout_s=20, timeout_s=0.2))
    assert isinstance(error, DeadlineExceeded)
    assert "did not end within 0.2 s" in error.message


def test_a_silence_is_waited_for_no_longer_than_the_whole_time(stub: StubOllama) -> None:
    error = refusal(stub, stalls, OllamaLimits(stall_timeout_s=WAIT_S, timeout_s=0.2))
    assert isinstance(error, DeadlineExceeded)
    assert "did not end within 0.2 s" in error.message


@pytest.mark.parametrize(
    "embeddings",
    [
        [],
        [[]],
        [[1.0], [2.0]],
        "x",
        [["x"]],
        [[True]],
        [[float("nan")]],
        [[10**400]],
        [[1e39]],
        [[-float("inf")]],
        None,
    ],
)
def test_vectors_that_are_none_are_nonsense(stub: StubOllama, embeddings: object) -> None:
    stub.models[NAME] = answering({"embeddings": embeddings})
    with pytest.raises(Unavailable) as caught:
        load(stub, "embed").run({"text": texts("one")})
    assert caught.value.reason == "OLLAMA_NONSENSE"


def test_a_vector_of_an_answer_without_an_end_is_cut(stub: StubOllama, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines are joined, so that it is held to the bound of one."""
    monkeypatch.setattr(session_module, "MAX_LINE_BYTES", 1000)

    def spread(exchange: Exchange) -> None:
        exchange.begin()
        exchange.raw(b'{"embeddings": [[1.0')
        for _ in range(2000):
            exchange.raw(b"\n, 1.0")
        exchange.raw(b"]]}\n")
        exchange._handler.wfile.write(b"0\r\n\r\n")

    stub.models[NAME] = spread
    with pytest.raises(Unavailable, match="over 1000 bytes") as caught:
        load(stub, "embed").run({"text": texts("x")})
    assert caught.value.reason == "OLLAMA_NONSENSE"


def test_a_chat_is_warmed_up_by_a_conversation(stub: StubOllama) -> None:
    chat_version = replace(version("chat"), serving=ServingSettings(warm_up=(WarmUp(),)))
    warm_up(chat_version, load(stub, "chat"))
    assert [each["messages"] for each in stub.asked("/api/chat")] == [[{"role": "user", "content": "warm up"}]]


def test_vectors_of_unequal_length_are_nonsense(stub: StubOllama) -> None:
    stub.models[NAME] = lambda exchange: exchange.whole({"embeddings": [[1.0] * len(exchange.document["input"])]})
    with pytest.raises(Unavailable, match="unequal length, 3 and 5") as caught:
        load(stub, "embed").run({"text": texts("one", "three")})
    assert caught.value.reason == "OLLAMA_NONSENSE"


def test_half_a_character_is_replaced(stub: StubOllama) -> None:
    stub.models[NAME] = answering(b'{"response": "\\ud83d!", "done": true}')
    assert load(stub, "generate").run({"prompt": texts("x")})["response"].tolist() == ["?!"]
