"""The Ollama runtime against a stand-in that speaks Ollama's documented API; see tests/ollama.py."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from services.common.errors import (
    Cancelled,
    DeadlineExceeded,
    DomainError,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from services.inference.engine.engine import Engine, InferenceRequest
from services.inference.models import (
    ModelFailed,
    OllamaReference,
    ResolvedVersion,
    ServingSettings,
    Signature,
    TensorSpec,
    WarmUp,
)
from services.inference.runtimes.ollama import call as calls
from services.inference.runtimes.ollama import session as session_module
from services.inference.runtimes.ollama.address import check_url
from services.inference.runtimes.ollama.connections import OwnedConnection
from services.inference.runtimes.ollama.runtime import OllamaRuntime
from services.inference.runtimes.ollama.server import OllamaLimits, OllamaServer
from services.inference.runtimes.ollama.session import OllamaSession
from services.inference.runtimes.runtime import Artifact, Ending, FinishReason, GenerationOptions, Piece
from services.inference.sessions.sessions import SessionCache
from services.inference.sessions.warm_up import warm_up
from services.inference.tensors import Tensor
from tests import ollama
from tests.certificates import certificate
from tests.ollama import WAIT_S, Exchange, StubOllama, well
from tests.serving import Versions, wait_until

NAME = "llama3.2:1b"
SIGNATURES = {
    "chat": Signature((TensorSpec("messages", "BYTES", (-1,)),), (TensorSpec("response", "BYTES", (-1,)),)),
    "generate": Signature((TensorSpec("prompt", "BYTES", (-1,)),), (TensorSpec("response", "BYTES", (-1,)),)),
    "embed": Signature((TensorSpec("text", "BYTES", (-1,)),), (TensorSpec("embedding", "FP32", (-1, -1)),)),
}
SHORT = OllamaLimits(stall_timeout_s=0.2, timeout_s=20)


@pytest.fixture
def stub() -> Iterator[StubOllama]:
    with ollama.running() as running:
        running.models[NAME] = well
        yield running


def version(mode: str, name: str = NAME) -> ResolvedVersion:
    reference = OllamaReference(name, mode)
    return ResolvedVersion("talker", "1", 1, "ollama", "production", SIGNATURES[mode], ollama=reference)


def load(stub: StubOllama, mode: str, limits: OllamaLimits | None = None, **more: Any) -> OllamaSession:
    server = OllamaServer(stub.url, limits, **more)
    return OllamaRuntime(server).load(Artifact(version(mode), Path()))


def texts(*rows: str | bytes) -> Tensor:
    tensor = np.empty(len(rows), dtype=object)
    tensor[:] = [row.encode() if isinstance(row, str) else row for row in rows]
    return tensor


def chat(*words: str) -> Tensor:
    return texts(*(json.dumps([{"role": "user", "content": word}]) for word in words))


def prompted(stub: StubOllama, behave: ollama.Behaviour, limits: OllamaLimits | None = None) -> list[Any]:
    """Ask for a text that a behaviour gives."""
    stub.models[NAME] = behave
    response: list[Any] = load(stub, "generate", limits).run({"prompt": texts("hello")})["response"].tolist()
    return response


def refusal(stub: StubOllama, behave: ollama.Behaviour, limits: OllamaLimits | None = None) -> DomainError:
    with pytest.raises(DomainError) as caught:
        prompted(stub, behave, limits)
    return caught.value


# What it answers


def test_a_conversation_is_answered_row_by_row(stub: StubOllama) -> None:
    answer = load(stub, "chat").run({"messages": chat("hello", "good bye")})
    assert answer["response"].tolist() == ["you said hello", "you said good bye"]
    asked = stub.asked("/api/chat")
    assert sorted(each["messages"][0]["content"] for each in asked) == ["good bye", "hello"]
    assert {each["model"] for each in asked} == {NAME}


def test_a_prompt_is_gone_on_from(stub: StubOllama) -> None:
    assert prompted(stub, well) == ["you said hello"]


def test_texts_become_vectors(stub: StubOllama) -> None:
    vectors = load(stub, "embed").run({"text": texts("one", "three")})["embedding"]
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[3.0, 1.0], [5.0, 1.0]]


@pytest.mark.parametrize(("mode", "name", "shape"), [("embed", "text", (0, 0)), ("generate", "prompt", (0,))])
def test_no_rows_ask_nothing(stub: StubOllama, mode: str, name: str, shape: tuple[int, ...]) -> None:
    (answer,) = load(stub, mode).run({name: texts()}).values()
    assert answer.shape == shape
    assert [each.path for each in stub.exchanges] == ["/api/show"]


def test_rows_are_asked_in_parallel_and_within_the_bound(stub: StubOllama) -> None:
    together = threading.Barrier(2)
    going = 0
    most = 0

    def meet(exchange: Exchange) -> None:
        nonlocal going, most
        with stub.lock:
            going += 1
            most = max(most, going)
        together.wait(WAIT_S)  # the first is answered only once there is a second
        with stub.lock:
            going -= 1
        well(exchange)

    stub.models[NAME] = meet
    session = load(stub, "generate", OllamaLimits(parallel_calls=2))
    assert session.max_parallel_runs == 2
    words = [f"word {number}" for number in range(6)]
    response = session.run({"prompt": texts(*words)})["response"].tolist()
    assert response == [f"you said {word}" for word in words]
    assert most == 2


def test_connections_are_used_again(stub: StubOllama) -> None:
    session = load(stub, "generate")
    for _ in range(5):
        session.run({"prompt": texts("hello")})
        list(session.stream({"prompt": texts("hello")}, GenerationOptions()))
    assert len(stub.connections) == 1


def test_a_call_that_is_over_cannot_end_the_next_one_on_its_connection(stub: StubOllama) -> None:
    server = OllamaServer(stub.url)
    document = {"model": NAME, "input": "three"}
    first, second = server.call("/api/embed", document), server.call("/api/embed", document)
    lines = first.lines()
    next(lines)  # all is read, and the connection is free, though the reader is not done
    second_lines = second.lines()
    assert next(second_lines)
    first.end(Cancelled("gone"))
    assert list(second_lines) == []
    assert len(stub.connections) == 1
    lines.close()
    assert b"".join(server.call("/api/embed", document).lines())
    assert len(stub.connections) == 1, "it was not shut"


def test_a_key_for_a_proxy_is_sent_and_read_again(stub: StubOllama, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("first\n")
    session = load(stub, "generate", token_file=key)
    key.write_text("second\n")
    session.run({"prompt": texts("hello")})
    assert [each.headers["Authorization"] for each in stub.exchanges] == ["Bearer first", "Bearer second"]
    key.unlink()
    with pytest.raises(FailedPrecondition, match="PENSTOCK_OLLAMA_TOKEN_FILE") as caught:
        session.run({"prompt": texts("hello")})
    assert caught.value.reason == "OLLAMA_TOKEN_UNREADABLE"
    assert str(key) not in caught.value.message


def test_a_base_path_is_kept(stub: StubOllama) -> None:
    with pytest.raises(Unavailable, match="answered 404: '404 page not found'"):
        OllamaRuntime(OllamaServer(stub.url + "/proxied/")).load(Artifact(version("chat"), Path()))
    assert [each.path for each in stub.exchanges] == ["/proxied/api/show"]


@pytest.mark.parametrize("rows", [b"\xff", b"{", b"{}", b"[]", b'[{"role": "user"}]', b'[{"role": 1, "content": ""}]'])
def test_what_is_no_conversation_is_refused_before_anyone_is_asked(stub: StubOllama, rows: bytes) -> None:
    session = load(stub, "chat")
    with pytest.raises(InvalidArgument, match="messages: element 0"):
        session.run({"messages": texts(rows)})
    assert not stub.asked("/api/chat")


# Streams


def test_a_stream_gives_pieces_as_they_come_and_how_it_ended(stub: StubOllama) -> None:
    more = threading.Event()

    def hesitate(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one ")
        assert more.wait(WAIT_S)
        exchange.say("two")
        exchange.finish("length", prompt=11, written=2)

    stub.models[NAME] = hesitate
    pieces = iter(load(stub, "chat").stream({"messages": chat("count")}, GenerationOptions()))
    assert next(pieces) == Piece("one ")
    more.set()
    assert list(pieces) == [Piece("two"), Piece("", Ending(FinishReason.LENGTH, 11, 2))]


def test_options_go_by_ollamas_names_and_the_unset_are_left_to_the_model(stub: StubOllama) -> None:
    session = load(stub, "generate")
    options = GenerationOptions(max_tokens=5, temperature=0.0, top_p=0.5, top_k=3, seed=0, stop=("\n",))
    for each in (options, GenerationOptions()):
        list(session.stream({"prompt": texts("x")}, each))
    full, empty = (document["options"] for document in stub.asked("/api/generate"))
    assert full == {"num_predict": 5, "temperature": 0.0, "top_p": 0.5, "top_k": 3, "seed": 0, "stop": ["\n"]}
    assert empty == {}


def test_a_model_that_thinks_is_silent_and_alive(stub: StubOllama) -> None:
    def think(exchange: Exchange) -> None:
        exchange.begin()
        exchange.line(message={"role": "assistant", "content": "", "thinking": "hm"}, done=False)
        exchange.say("42")
        exchange.finish()

    stub.models[NAME] = think
    pieces = list(load(stub, "chat").stream({"messages": chat("why?")}, GenerationOptions()))
    assert [piece.text for piece in pieces] == ["42", ""]


@pytest.mark.parametrize("begun", [False, True], ids=["before the first byte", "mid-stream"])
def test_a_cancelled_stream_closes_its_connection_at_once(stub: StubOllama, begun: bool) -> None:
    asked, closed = threading.Event(), threading.Event()

    def linger(exchange: Exchange) -> None:
        if begun:
            exchange.begin()
            exchange.say("one")
        asked.set()
        exchange.until_closed()
        closed.set()

    stub.models[NAME] = linger
    generation = load(stub, "generate").stream({"prompt": texts("x")}, GenerationOptions())
    with ThreadPoolExecutor(1) as reader:
        pieces = reader.submit(lambda: list(generation))
        assert asked.wait(WAIT_S)
        generation.cancel()
        with pytest.raises(Cancelled):
            pieces.result(WAIT_S)
    assert closed.wait(WAIT_S)


def test_a_stream_that_is_left_closes_its_connection(stub: StubOllama) -> None:
    closed = threading.Event()

    def linger(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one")
        exchange.until_closed()
        closed.set()

    stub.models[NAME] = linger
    pieces = iter(load(stub, "generate").stream({"prompt": texts("x")}, GenerationOptions()))
    next(pieces)
    pieces.close()
    assert closed.wait(WAIT_S)


def test_a_stream_cancelled_before_it_is_read_asks_nothing(stub: StubOllama) -> None:
    generation = load(stub, "generate").stream({"prompt": texts("x")}, GenerationOptions())
    generation.cancel()
    with pytest.raises(Cancelled):
        list(generation)
    assert not stub.asked("/api/generate")


# What goes wrong


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


# Ending runs


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


# Over TLS


def test_over_tls_it_is_the_same(stub: StubOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert_file, key_file = certificate(tmp_path)
    stub.secure(cert_file, key_file)
    monkeypatch.setenv("SSL_CERT_FILE", str(cert_file))
    session = load(stub, "generate")
    assert session.run({"prompt": texts("hello")})["response"].tolist() == ["you said hello"]
    begun, closed = threading.Event(), threading.Event()

    def linger(exchange: Exchange) -> None:
        exchange.begin()
        exchange.say("one")
        begun.set()
        exchange.until_closed()
        closed.set()

    stub.models[NAME] = linger
    generation = session.stream({"prompt": texts("x")}, GenerationOptions())
    with ThreadPoolExecutor(1) as reader:
        pieces = reader.submit(lambda: list(generation))
        assert begun.wait(WAIT_S)
        generation.cancel()
        with pytest.raises(Cancelled):
            pieces.result(WAIT_S)
    assert closed.wait(WAIT_S)


def test_a_certificate_that_nobody_vouches_for_is_not_trusted(stub: StubOllama, tmp_path: Path) -> None:
    stub.secure(*certificate(tmp_path))
    with pytest.raises(Unavailable, match="certificate verify failed") as caught:
        load(stub, "generate")
    assert caught.value.reason == "OLLAMA_UNREACHABLE"


# Where it is


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:11434", "ftp://host", "http://", "http://ada:secret@host", "http://host/?key=secret",
     "http://[::1", "http://host:x"],
)  # fmt: skip
def test_a_url_that_is_none_is_refused_and_not_quoted(url: str) -> None:
    with pytest.raises(ValueError, match="URL") as caught:
        check_url(url)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["http://127.0.0.1:11434", "https://ollama.example/base", "http://[::1]:11434/"])
def test_a_url_is_taken(url: str) -> None:
    assert check_url(url) == url
    assert str(OllamaServer(url).address) == url.rstrip("/")


def test_a_key_does_not_go_to_another_machine_in_plain_text(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="plain text") as caught:
        OllamaServer("http://ollama.example", token_file=tmp_path / "key")
    assert caught.value.reason == "TOKEN_OVER_INSECURE_CHANNEL"
    OllamaServer("https://ollama.example", token_file=tmp_path / "key")
    OllamaServer("http://ollama.example", token_file=tmp_path / "key", insecure_token=True)
