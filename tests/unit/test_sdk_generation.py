"""Texts that the SDK reads while they are written, from a server whose answers are scripted."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

import penstock
from penstock import Client
from penstock.api.inference.v1 import inference_pb2 as pb
from services.common import errors
from tests import sdk
from tests.sdk import ScriptedServer, client_of, scripted_server

END = pb.GenerateResponse(
    inference_id="7",
    completion=pb.Completion(
        finish_reason=pb.FINISH_REASON_LENGTH, prompt_token_count=2, output_token_count=3, first_token_ms=1.5,
        latency_ms=2.5, model="writer", version="1",
    ),
)  # fmt: skip
WAIT_S = 60.0


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as running:
        yield running


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server) as connected:
        yield connected


def piece(text: str) -> pb.GenerateResponse:
    return pb.GenerateResponse(inference_id="7", text=text)


def test_pieces_come_one_by_one_and_then_how_it_ended(server: ScriptedServer, client: Client) -> None:
    server.on("Generate", sdk.stream(piece("one "), piece("two"), END))
    generated = client.inference.generate("writer", "count", max_tokens=0, temperature=0.0, stop=["."], user_id="ada")
    assert (generated.inference_id, generated.completion) == ("", None)
    assert list(generated) == ["one ", "two"]
    assert generated.inference_id == "7"
    completion = generated.completion
    assert completion is not None
    assert (completion.finish_reason, completion.output_token_count, completion.version) == ("length", 3, "1")
    (request,) = server.calls["Generate"]
    assert (request.model, request.prompt, request.user_id) == ("writer", "count", "ada")
    assert request.options.HasField("temperature"), "0 is a choice, and not the default"
    assert not request.options.HasField("top_p")


def test_messages_are_sent_in_their_order(server: ScriptedServer, client: Client) -> None:
    server.on("Generate", sdk.stream(END))
    said = [{"role": "system", "content": "Echo."}, {"role": "user", "content": "hello"}]
    assert client.inference.generate("talker", messages=said).text() == ""
    (request,) = server.calls["Generate"]
    assert [(each.role, each.content) for each in request.messages] == [("system", "Echo."), ("user", "hello")]


@pytest.mark.parametrize(
    ("ask", "reason"),
    [
        ({}, "PROMPT_OR_MESSAGES"),
        ({"prompt": "x", "messages": []}, "PROMPT_OR_MESSAGES"),
        ({"messages": [{"role": "user"}]}, "INVALID_MESSAGES"),
        ({"messages": [{"role": "user", "content": "x", "name": "ada"}]}, "INVALID_MESSAGES"),
    ],
)
def test_what_cannot_be_sent_is_said_before_anything_is(client: Client, ask: dict[str, Any], reason: str) -> None:
    with pytest.raises(penstock.InvalidArgument) as caught:
        client.inference.generate("writer", **ask)
    assert caught.value.reason == reason


def test_a_generation_is_never_repeated(server: ScriptedServer, client: Client) -> None:
    server.on("Generate", sdk.stream(piece("one"), then=errors.Unavailable("gone", reason="OLLAMA_FAILED")))
    pieces = iter(client.inference.generate("writer", "x"))
    assert next(pieces) == "one"
    with pytest.raises(penstock.Unavailable) as caught:
        next(pieces)
    assert caught.value.reason == "OLLAMA_FAILED"
    assert len(server.calls["Generate"]) == 1


def test_a_text_that_breaks_off_is_no_text(server: ScriptedServer, client: Client) -> None:
    server.on("Generate", sdk.stream(piece("one")))
    with pytest.raises(penstock.Unavailable) as caught:
        client.inference.generate("writer", "x").text()
    assert caught.value.reason == "STREAM_ENDED_EARLY"


def test_leaving_the_block_cancels_the_call(server: ScriptedServer, client: Client) -> None:
    gone = threading.Event()

    def endless(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        context.add_callback(gone.set)
        yield piece("one")
        server.released.wait()

    server.on("Generate", endless)
    with client.inference.generate("writer", "x") as generated:
        next(iter(generated))
    assert gone.wait(WAIT_S)


def test_a_model_may_be_silent_for_longer_than_other_streams(server: ScriptedServer) -> None:
    def think(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        server.released.wait(0.5)
        yield END

    server.on("Generate", think)
    with client_of(server, idle_timeout_s=0.1) as client:
        assert client.inference.generate("writer", "x").text() == ""


def test_its_own_time_out_ends_it(server: ScriptedServer, client: Client) -> None:
    def think(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        server.released.wait()
        yield END

    server.on("Generate", think)
    with pytest.raises(penstock.DeadlineExceeded):
        client.inference.generate("writer", "x", timeout_s=0.2).text()
