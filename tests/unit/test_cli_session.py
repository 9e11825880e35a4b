"""`penstock session`: what it sends, and what it says of what is in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.inference.v1 import sessions_pb2 as pb
from penstock.cli.__main__ import run
from penstock.cli.exits import ExitCode
from services.common import errors
from tests.sdk import ScriptedServer, answer, fail, scripted_server

SESSION = pb.ModelSession(
    model="iris",
    version="1.0.0",
    framework="onnx",
    worker=1,
    size_bytes=3 * 2**20,
    in_flight_count=2,
    pinned=True,
    last_use_time=Timestamp(seconds=1_700_000_000),
    load_ms=12.5,
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        monkeypatch.setenv("PENSTOCK_INFERENCE_ADDRESS", server.address)
        yield server


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(["session", *arguments]) == exit_code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_list_shows_what_is_in_memory_and_how_much_may_be(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = pb.ListSessionsResponse(sessions=[SESSION], budget_bytes=2**30, used_bytes=3 * 2**20)
    server.on("ListSessions", answer(found))
    text = said(capsys, "list", "iris")
    for word in ("iris", "1.0.0", "onnx", "3.0 MiB", "yes", "12.50 ms", "2023-11-1", "3.0 MiB of 1.0 GiB used"):
        assert word in text
    document = json.loads(said(capsys, "list", "--json"))
    assert document["sessions"][0]["in_flight_count"] == 2
    assert document["budget_bytes"] == 2**30
    assert [request.model for request in server.calls["ListSessions"]] == ["iris", ""]


def test_an_empty_memory_is_said_in_words(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("ListSessions", answer(pb.ListSessionsResponse()))
    assert "nothing is in memory" in said(capsys, "list")


def test_load_sends_what_it_was_told_and_shows_the_sessions(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("LoadModel", answer(pb.LoadModelResponse(sessions=[SESSION])))
    assert "3.0 MiB" in said(capsys, "load", "iris", "--version", "staging", "--pin")
    (request,) = server.calls["LoadModel"]
    assert (request.model, request.version, request.pin) == ("iris", "staging", True)


def test_a_load_that_fails_says_why(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("LoadModel", fail(errors.FailedPrecondition("its graph is broken", reason="MODEL_LOAD_FAILED")))
    text = said(capsys, "load", "iris", exit_code=ExitCode.FAILED)
    assert "its graph is broken [MODEL_LOAD_FAILED]" in text


def test_a_version_without_its_option_is_refused_with_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["session", "load", "iris", "1.0.0"]) == ExitCode.USAGE
    assert "a version goes with --version" in " ".join(capsys.readouterr().err.split())
    assert run(["job", "workers", "now"]) == ExitCode.USAGE
    assert "--version" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("count", "words"), [(0, "it was not in memory"), (1, "1 session is on"), (4, "4 sessions are on")]
)
def test_unload_says_how_much_goes(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], count: int, words: str
) -> None:
    server.on("UnloadModel", answer(pb.UnloadModelResponse(session_count=count)))
    assert words in said(capsys, "unload", "iris", "-v", "1.0.0")
    assert json.loads(said(capsys, "unload", "iris", "--json")) == {"session_count": count}
    assert [request.version for request in server.calls["UnloadModel"]] == ["1.0.0", ""]
