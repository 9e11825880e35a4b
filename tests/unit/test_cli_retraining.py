"""`penstock retraining`: requests, and who decides."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from rich.text import Text

from penstock.api.monitoring.v1 import retraining_pb2 as pb
from penstock.cli.__main__ import run
from penstock.cli.formats import say_time
from services.common import errors
from tests.alert_answers import retraining
from tests.monitoring_answers import ID, server, terminal
from tests.sdk import ScriptedServer, answer, fail

__all__ = ["server", "terminal"]


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(["retraining", *arguments]) == exit_code
    captured = capsys.readouterr()
    return Text.from_ansi(captured.out + captured.err).plain


def test_requests_are_listed_and_lead_to_a_decision(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("ListRetrainingRequests", answer(pb.ListRetrainingRequestsResponse(retraining_requests=[retraining()])))
    text = said(capsys, "list", "--model", "iris", "--state", "pending", "--state", "approved")
    assert "drift detected" in text
    assert f"penstock retraining show {ID}6" in text
    (request,) = server.calls["ListRetrainingRequests"]
    assert list(request.states) == [pb.RETRAINING_STATE_PENDING, pb.RETRAINING_STATE_APPROVED]
    server.on("ListRetrainingRequests", answer(pb.ListRetrainingRequestsResponse()))
    assert "no retraining was asked for" in said(capsys, "list")


@pytest.mark.parametrize("width", [80, 120])
def test_a_list_says_on_a_narrow_terminal_what_matters(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    message = "it waits for a trainer: none is configured"
    long = retraining(model="churn-of-the-north", reason=pb.RETRAINING_REASON_ERROR_RATE_THRESHOLD, message=message)
    found = pb.ListRetrainingRequestsResponse(retraining_requests=[long])
    server.on("ListRetrainingRequests", answer(found))
    text = said(capsys, "list")
    lines = text.splitlines()
    assert f"{ID}6".startswith(lines[2].split()[0])
    assert max(len(line.rstrip()) for line in lines if not line.startswith("  penstock ")) <= width
    for words in ("pending", "churn-of-the-north", "error rate threshold"):
        assert words in text
    assert ("no room here for:" in text) == (width == 80)


def test_a_request_says_what_was_found_a_line_each(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GetRetrainingRequest", answer(pb.GetRetrainingRequestResponse(retraining_request=retraining())))
    text = said(capsys, "show", f"{ID}6")
    assert [line.strip() for line in text.splitlines() if "petal_length" in line or "value:" in line] == [
        "what was found  features: petal_length",
        "value: 0.31",
    ]
    assert "812 rows since the last training" in text
    assert f"penstock retraining approve {ID}6" in text


def test_what_was_found_is_said_whole_and_as_people_say_it(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    found = retraining()
    summary = f"{'petal_length, ' * 20}and 1 more drifted"
    found.details.update({"feature_count": 21, "from_time": "2026-01-31T12:00:00+00:00", "summary": summary})
    server.on("GetRetrainingRequest", answer(pb.GetRetrainingRequestResponse(retraining_request=found)))
    text = " ".join(said(capsys, "show", f"{ID}6").split())
    assert "features drifted: 21" in text
    assert f"from: {say_time(datetime(2026, 1, 31, 12, tzinfo=UTC))}" in text
    assert summary in text


def test_a_decision_is_sent_with_its_reason(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    approved = retraining(
        state=pb.RETRAINING_STATE_APPROVED, decided_by="ada", decision_note="yes", message="it waits for the trainer"
    )
    approved.decide_time.CopyFrom(approved.create_time)
    server.on("ApproveRetrainingRequest", answer(pb.ApproveRetrainingRequestResponse(retraining_request=approved)))
    text = said(capsys, "approve", f"{ID}6", "--note", "yes")
    assert "by ada: yes" in text
    assert "it waits for the trainer" in text
    assert server.calls["ApproveRetrainingRequest"][0].note == "yes"
    assert "say why" in said(capsys, "reject", f"{ID}6", exit_code=2)
    assert "Why; required" in said(capsys, "reject", "--help")
    rejected = retraining(state=pb.RETRAINING_STATE_REJECTED)
    server.on("RejectRetrainingRequest", answer(pb.RejectRetrainingRequestResponse(retraining_request=rejected)))
    assert json.loads(said(capsys, "reject", f"{ID}6", "--note", "no", "--json"))["state"] == "rejected"
    server.on("ApproveRetrainingRequest", fail(errors.FailedPrecondition("it is REJECTED", reason="WRONG_STATE")))
    assert "[WRONG_STATE]" in said(capsys, "approve", f"{ID}6", exit_code=1)


def test_a_wish_that_comes_too_soon_says_what_forces_it(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    soon = errors.FailedPrecondition("the last training began 2 days ago", reason="RETRAINING_TOO_SOON")
    server.on("CreateRetrainingRequest", fail(soon))
    assert "--force asks all the same [RETRAINING_TOO_SOON]" in said(capsys, "request", "iris", exit_code=1)
    soon = errors.FailedPrecondition("wait until then, or ask with force", reason="RETRAINING_TOO_SOON")
    server.on("CreateRetrainingRequest", fail(soon))
    text = said(capsys, "request", "iris", exit_code=1)
    assert "wait until then, or ask with --force [RETRAINING_TOO_SOON]" in text, "it is said once"
    made = pb.CreateRetrainingRequestResponse(retraining_request=retraining())
    server.on("CreateRetrainingRequest", answer(made))
    said(capsys, "request", "iris", "--version", "2.0.0", "--note", "a new season", "--force")
    request = server.calls["CreateRetrainingRequest"][-1]
    assert (request.version, request.note, request.force) == ("2.0.0", "a new season", True)


def test_a_completed_request_leads_to_its_version(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    done = retraining(state=pb.RETRAINING_STATE_COMPLETED, new_version="3.0.0")
    server.on("GetRetrainingRequest", answer(pb.GetRetrainingRequestResponse(retraining_request=done)))
    assert "penstock model get iris 3.0.0" in said(capsys, "show", f"{ID}6")
