"""`penstock quality`: findings, and what a script gets."""

from __future__ import annotations

import json

import pytest
from rich.text import Text

from penstock.api.monitoring.v1 import quality_pb2 as pb
from penstock.cli.__main__ import run
from tests.monitoring_answers import ID, quality_check, server, terminal
from tests.sdk import ScriptedServer, answer

__all__ = ["server", "terminal"]


@pytest.fixture
def violated(server: ScriptedServer) -> ScriptedServer:
    server.on("CheckQuality", answer(pb.CheckQualityResponse(check=quality_check())))
    server.on("GetQualityCheck", answer(pb.GetQualityCheckResponse(check=quality_check())))
    server.on("ListQualityChecks", answer(pb.ListQualityChecksResponse(checks=[quality_check()])))
    return server


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(["quality", *arguments]) == exit_code
    captured = capsys.readouterr()
    return Text.from_ansi(captured.out + captured.err).plain


def test_findings_are_shares_or_ages_beside_what_the_reference_has(
    violated: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "check", "iris").splitlines()
    assert lines[0] == "iris 2.0.0  violated"
    assert lines[1].startswith("2 findings")
    (missing,) = [line for line in lines if line.startswith("missing")]
    assert missing.split()[1:5] == ["sepal_width", "5.00%", "1.00%", "2.15%"]
    (stale,) = [line for line in lines if line.startswith("stale")]
    assert "3h 0m" in stale
    assert "1h 0m" in stale
    assert any("whole rows" in line for line in lines)


@pytest.mark.parametrize("width", [80, 140])
def test_findings_fit_the_terminal(
    violated: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    lines = said(capsys, "show", f"{ID}3").splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    assert any("sepal_width" in line for line in lines)


def test_a_script_learns_by_the_exit_code_where_it_asks(
    violated: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "[QUALITY_VIOLATED]" in said(capsys, "check", "iris", "--fail", exit_code=1)
    assert json.loads(said(capsys, "check", "iris", "--json"))["findings"][0]["issue"] == "missing"


def test_without_a_reference_it_is_said_how_to_get_one(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    check = pb.QualityCheck(model="iris", version="1", status=pb.QUALITY_STATUS_OK)
    server.on("CheckQuality", answer(pb.CheckQualityResponse(check=check)))
    text = said(capsys, "check", "iris")
    assert "no findings" in text
    assert "penstock profile create iris 1" in text


def test_checks_are_listed(violated: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "list", "iris", "--status", "violated")
    assert violated.calls["ListQualityChecks"][0].model == "iris"
    assert "schedule" in text
    assert f"penstock quality show {ID}3" in text
