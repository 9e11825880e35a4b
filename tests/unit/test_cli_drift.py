"""`penstock drift`: the sentence, the distributions side by side, and what a script gets."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from rich.text import Text

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.cli.__main__ import run
from services.common import errors
from tests.monitoring_answers import ID, drift_check, drift_result, server, terminal
from tests.sdk import ScriptedServer, answer, fail

__all__ = ["server", "terminal"]


@pytest.fixture
def drifted(server: ScriptedServer) -> ScriptedServer:
    server.on("CheckDrift", answer(pb.CheckDriftResponse(check=drift_check())))
    server.on("GetDriftCheck", answer(pb.GetDriftCheckResponse(check=drift_check())))
    server.on("ListDriftChecks", answer(pb.ListDriftChecksResponse(checks=[drift_check()])))
    return server


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(["drift", *arguments]) == exit_code
    captured = capsys.readouterr()
    return Text.from_ansi(captured.out + captured.err).plain


def test_a_check_says_what_happened_before_anything_else(
    drifted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = said(capsys, "check", "iris", "--window", "6h").splitlines()
    assert lines[0] == "iris 2.0.0  drifted"
    assert lines[1].startswith("1 of 3 features has drifted: petal_length")
    assert "by psi calibrated, α 0.05: false alarms in at most 5% of such checks" in lines[2]
    (request,) = drifted.calls["CheckDrift"]
    assert request.HasField("from_time")


def test_what_drifted_is_drawn_and_the_rest_is_counted(
    drifted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(capsys, "check", "iris")
    assert "petal_length  input, numeric  drifted  effect 0.310, large\n" in text
    assert "floor 0.02, p < 0.0001, adjusted < 0.0001; 10,000 rows against 2,000" in text
    assert "REFERENCE" in text
    assert "below -1.28" in text
    assert text.count("sepal_width") == 1  # in the table alone
    assert "0.6200" in text
    assert "blue" not in text
    assert "blue" in said(capsys, "show", f"{ID}1", "--feature", "colour")
    whole = said(capsys, "show", f"{ID}1", "--all")
    assert "blue" in whole
    assert "other   " not in whole.split("below -1.28")[1].split("sepal_width")[0]  # empty on both sides
    refused = said(capsys, "show", f"{ID}1", "--feature", "none", exit_code=2)
    assert "these were: petal_length" in " ".join(refused.replace("│", " ").split())


@pytest.mark.parametrize("kind", [pb.DRIFT_TYPE_EMBEDDING, pb.DRIFT_TYPE_CONCEPT], ids=["vectors", "accuracy"])
def test_what_is_no_psi_is_not_called_large_by_that_of_psi(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], kind: pb.DriftType.ValueType
) -> None:
    result = drift_result("scent", 0.2, 0.31)
    result.type = kind
    check = drift_check()
    check.results.insert(0, result)
    server.on("GetDriftCheck", answer(pb.GetDriftCheckResponse(check=check)))
    text = said(capsys, "show", f"{ID}1", "--feature", "scent")
    assert "effect 0.310\n" in text


def test_what_the_sentence_on_top_says_of_the_worst_feature_is_not_said_again_below(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    check = drift_check(alpha=0.00274725, false_alarm_rate=0.00274725)
    check.summary = f"Drift of input: petal_length. {check.results[0].summary}"
    server.on("CheckDrift", answer(pb.CheckDriftResponse(check=check)))
    text = said(capsys, "check", "iris")
    assert text.count(check.results[0].summary) == 1
    assert "α 0.00275: false alarms in at most 0.275% of such checks" in text


def test_what_is_piped_is_not_padded(drifted: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["drift", "check", "iris"]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line != line.rstrip()] == []


@pytest.mark.parametrize("width", [80, 140])
def test_two_distributions_stand_side_by_side_and_fit(
    drifted: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], width: int
) -> None:
    terminal.setenv("COLUMNS", str(width))
    lines = said(capsys, "check", "iris").splitlines()
    (last,) = [line for line in lines if line.strip().startswith("1.28 on")]
    assert last.split("%")[0].split()[-1] == "9.9"
    reference, live = last.split("%")[1:]
    assert 0 < reference.count("█") < live.count("█")
    bars = [line for line in lines if "█" in line]
    assert len({line.index("%") for line in bars}) == 1
    assert max(len(line.rstrip()) for line in lines) <= width


def test_a_feature_of_many_categories_shows_those_that_moved(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    result = drift_result("city", 0, 0.3)
    del result.bins[:]
    for number in range(50):
        result.bins.add(label=f"c{number:02}", reference_share=0.02, live_share=0.06 if number in (7, 31) else 0.018)
    check = drift_check()
    check.results.insert(0, result)
    server.on("GetDriftCheck", answer(pb.GetDriftCheckResponse(check=check)))
    text = said(capsys, "show", f"{ID}1")
    assert text.index("c07") < text.index("c31")
    assert sum(f"c{number:02}" in text for number in range(50)) == 14


def test_a_model_of_many_features_shows_the_worst_unless_all_are_asked_for(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    check = drift_check()
    check.results.extend(drift_result(f"f{number:03}", 0, 0.001) for number in range(97))
    server.on("GetDriftCheck", answer(pb.GetDriftCheckResponse(check=check)))
    text = said(capsys, "show", f"{ID}1")
    assert "the first 50 of 100 comparisons" in text
    assert "f046" in text
    assert "f047" not in text
    assert "f096" in said(capsys, "show", f"{ID}1", "--all")
    assert len(json.loads(said(capsys, "show", f"{ID}1", "--json"))["results"]) == 100


def test_a_script_learns_by_the_exit_code_where_it_asks(
    drifted: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "[DRIFTED]" in said(capsys, "check", "iris", "--fail", exit_code=1)
    assert json.loads(said(capsys, "check", "iris", "--json"))["results"][0]["effect"] == 0.31
    server = drifted
    server.on("CheckDrift", answer(pb.CheckDriftResponse(check=pb.DriftCheck(status=pb.DRIFT_STATUS_OK))))
    said(capsys, "check", "iris", "--fail")


def test_too_little_data_is_not_all_well(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    few = pb.DriftCheck(model="iris", status=pb.DRIFT_STATUS_INSUFFICIENT_DATA, summary="12 rows; 50 are needed")
    server.on("CheckDrift", answer(pb.CheckDriftResponse(check=few)))
    text = said(capsys, "check", "iris")
    assert "insufficient data" in text
    assert "12 rows; 50 are needed" in text
    assert "a longer --window" in text


def test_checks_are_listed_and_lead_to_one(drifted: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    text = said(capsys, "list", "--model", "iris", "--status", "drifted")
    assert "1 of 3" in text
    assert f"penstock drift show {ID}1" in text
    assert drifted.calls["ListDriftChecks"][0].status == pb.DRIFT_STATUS_DRIFTED
    said(capsys, "list", "iris")
    assert [request.model for request in drifted.calls["ListDriftChecks"]] == ["iris", "iris"]
    assert "name one" in said(capsys, "list", "iris", "--model", "churn", exit_code=2)


def test_a_window_that_was_widened_and_rows_that_wait_are_said_beside_the_check(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    check = drift_check()
    check.from_time.FromDatetime(datetime(2026, 3, 1, 11, 0, tzinfo=UTC))
    check.to_time.FromDatetime(datetime(2026, 3, 1, 12, 5, tzinfo=UTC))
    server.on("CheckDrift", answer(pb.CheckDriftResponse(check=check)))
    wide = ("--from", "2026-03-01T11:03:00+00:00", "--until", "2026-03-01T12:05:00+00:00")
    assert "whole 5 minutes" in said(capsys, "check", "iris", *wide)
    exact = ("--from", "2026-03-01T11:00:00+00:00", "--until", "2026-03-01T12:05:00+00:00")
    assert "whole 5 minutes" not in said(capsys, "check", "iris", *exact)
    assert "whole 5 minutes" not in said(capsys, "check", "iris"), "nobody asked for another"
    assert "ask again" not in said(capsys, "check", "iris")
    check.uncounted_bucket_count = 1
    server.on("CheckDrift", answer(pb.CheckDriftResponse(check=check)))
    assert "1 bucket of 5 minutes still to be counted: ask again in a minute" in said(capsys, "check", "iris")


def test_what_a_service_advises_is_not_advised_twice(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "iris 2.0.0 has no reference profile; `penstock profile create iris 2.0.0` makes one"
    server.on("CheckDrift", fail(errors.FailedPrecondition(sentence, reason="NO_REFERENCE")))
    text = said(capsys, "check", "iris", exit_code=1)
    assert "[NO_REFERENCE]" in text
    assert text.count("penstock profile create") == 1


def test_an_option_is_named_as_it_was_given(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = "it has not come yet; give an earlier one"
    server.on("CheckDrift", fail(errors.InvalidArgument.field("to_time", sentence, reason="INVALID_WINDOW")))
    assert "penstock: --until: it has not come yet" in said(capsys, "check", "iris", exit_code=1)
