"""`penstock cache`: what it sends, and what it says of the answers that are kept."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from penstock.api.inference.v1 import response_cache_pb2 as pb
from penstock.cli.__main__ import run
from penstock.cli.exits import ExitCode
from services.common import errors
from tests.sdk import ScriptedServer, answer, fail, scripted_server

STATS = pb.GetCacheStatsResponse(
    backend="memory",
    reachable=True,
    entry_count=3,
    size_bytes=2048,
    max_bytes=1024 * 1024,
    versions=[
        pb.VersionCacheStats(model="iris", version="1", hit_count=3, miss_count=1, stored_count=1),
        pb.VersionCacheStats(model="iris", version="2", error_count=7),
    ],
)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        monkeypatch.setenv("PENSTOCK_INFERENCE_ADDRESS", server.address)
        yield server


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(arguments) == exit_code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_what_is_kept_and_how_often_it_helped_is_shown(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GetCacheStats", answer(STATS))
    told = said(capsys, "cache", "stats", "iris")
    assert "3 answers in memory: 2.0 KiB of 1.0 MiB" in told
    row = next(line.split() for line in told.splitlines() if line.startswith("iris") and "75" in line)
    assert row[:4] == ["iris", "1", "3", "1"]
    assert server.calls["GetCacheStats"][0].model == "iris"
    document = json.loads(said(capsys, "cache", "stats", "--json"))
    assert document["versions"][1]["error_count"] == 7
    server.on("GetCacheStats", answer(pb.GetCacheStatsResponse(backend="redis")))
    assert "redis, which does not answer" in said(capsys, "cache", "stats")


def test_counts_are_reset_and_answers_forgotten(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("ResetCacheStats", answer(pb.ResetCacheStatsResponse()))
    server.on("PurgeCache", answer(pb.PurgeCacheResponse(entry_count=1200)))
    said(capsys, "cache", "reset")
    assert len(server.calls["ResetCacheStats"]) == 1
    assert "forgot 1,200 answers of iris" in said(capsys, "cache", "purge", "iris")
    assert "give --yes" in said(capsys, "cache", "purge", exit_code=2)
    said(capsys, "cache", "purge", "--yes")
    assert [each.model for each in server.calls["PurgeCache"]] == ["iris", ""]


def test_a_shared_cache_that_does_not_answer_is_told(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = errors.Unavailable("the shared cache does not answer", reason="CACHE_UNREACHABLE")
    server.on("PurgeCache", fail(gone))
    assert "[CACHE_UNREACHABLE]" in said(capsys, "cache", "purge", "iris", exit_code=ExitCode.UNAVAILABLE)
