"""The Ollama runtime against a stand-in that speaks Ollama's documented API; see tests/ollama.py."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from services.common.errors import (
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    Unavailable,
)
from services.inference.runtimes.ollama.runtime import OllamaRuntime
from services.inference.runtimes.ollama.server import OllamaLimits, OllamaServer
from services.inference.runtimes.runtime import Artifact, Ending, FinishReason, GenerationOptions, Piece
from tests.ollama import WAIT_S, Exchange, StubOllama, well
from tests.ollama_sessions import NAME, chat, load, prompted, stub, texts, version

__all__ = ["stub"]


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
