"""Ids at the command line: shown whole, or as much as is needed, and typed by their beginning."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from rich.text import Text

from penstock.api.inference.v1 import prediction_jobs_pb2 as jobs
from penstock.api.monitoring.v1 import monitoring_pb2 as monitoring
from penstock.api.monitoring.v1.alerts_pb2 import Alert
from penstock.api.monitoring.v1.drift_pb2 import DRIFT_STATUS_DRIFTED, TRIGGER_SCHEDULE, DriftCheck
from penstock.cli.drift_views import checks_table
from penstock.cli.events_views import events_table
from penstock.cli.exits import CommandError, ExitCode
from penstock.cli.ids import whole_id, whole_uuid
from penstock.cli.job_views import jobs_table
from penstock.cli.output import Output

ONE = "019a3f5e-7c00-7abc-8def-0123456789ab"
OTHER = "019a3f5e-7c00-7abc-8def-0123456789ac"
THIRD = "019b3f5e-7c00-7abc-8def-0123456789ab"


def newest() -> Iterable[Alert]:
    return [Alert(id=each) for each in (THIRD, OTHER, ONE)]


def test_the_beginning_that_only_one_has_is_enough() -> None:
    assert whole_id("019b", newest) == THIRD
    assert whole_id(ONE[:-1] + "b", newest) == ONE


def test_a_beginning_of_several_is_refused_with_all_that_it_may_mean() -> None:
    with pytest.raises(CommandError) as refused:
        whole_id("019a3f5e", newest)
    assert (refused.value.reason, refused.value.exit_code) == ("AMBIGUOUS_ID", ExitCode.USAGE)
    assert ONE in refused.value.message
    assert OTHER in refused.value.message


@pytest.mark.parametrize("said", [ONE, "019", "rule-of-mine", ""])
def test_nothing_is_looked_up_for_what_is_no_beginning(said: str) -> None:
    assert whole_id(said, lambda: pytest.fail("it was looked up")) == said


def test_of_many_that_begin_so_a_few_are_named_and_the_others_counted() -> None:
    with pytest.raises(CommandError) as refused:
        whole_id("019a", lambda: [Alert(id=f"019a{number:032}") for number in range(68)])
    assert refused.value.message.startswith("68 ids begin with 019a: ")
    assert refused.value.message.count("019a0") == 5
    assert refused.value.message.endswith(" and 63 more; give more of it")


@pytest.mark.parametrize("said", ["0", "01a"])
def test_a_beginning_that_is_too_short_is_no_id_that_there_is_none_of(said: str) -> None:
    with pytest.raises(CommandError, match="give at least 4 characters") as refused:
        whole_uuid(said, lambda: pytest.fail("it was looked up"))
    assert refused.value.exit_code == ExitCode.USAGE
    assert whole_uuid("zzz", newest) == "zzz", "which the service refuses"


def test_what_begins_none_is_left_to_the_service() -> None:
    assert whole_id("ffff", newest) == "ffff"


def terminal(monkeypatch: pytest.MonkeyPatch) -> Output:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    return Output(as_json=False, no_color=True)


def test_events_show_their_ids_whole_on_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = terminal(monkeypatch)
    event = monitoring.InferenceEvent(
        inference_id=ONE, model="a-model-with-a-long-name", version="1.0.0", error_code="NOT_AN_EMBEDDING_MODEL"
    )
    found = monitoring.Inference(event=event, feedback=[monitoring.Feedback(correct=True)] * 3)
    found.time.FromJsonString("2026-01-31T12:00:00Z")
    output.answer([], events_table(output, [found]))
    assert ONE in capsys.readouterr().out


def test_drift_checks_show_all_there_is_of_them_on_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = terminal(monkeypatch)
    check = DriftCheck(
        id=ONE, model="churn", version="1.0.0", status=DRIFT_STATUS_DRIFTED, effect=0.247, drifted_count=2,
        compared_count=5, live_count=1_200, trigger=TRIGGER_SCHEDULE,
    )  # fmt: skip
    output.answer([], checks_table(output, [check]))
    head, _, row, *more = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert head.split() == ["check", "model", "status", "effect", "drifted", "made", "rows", "by"]
    assert whole_id(row.split()[0], lambda: [Alert(id=ONE)]) == ONE
    assert more == []


def test_jobs_show_as_much_of_their_ids_as_commands_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = terminal(monkeypatch)
    progress = jobs.JobProgress(done_rows=1_234_567, total_rows=12_345_678, failed_rows=123_456)
    job = jobs.PredictionJob(id=ONE, model="a-long-model-name", state=jobs.JOB_STATE_CANCELLED, progress=progress)
    job.create_time.FromJsonString("2026-01-31T12:00:00Z")
    output.answer([], jobs_table(output, [job]))
    head, _, row, *_ = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert {"job", "state", "model", "rows", "failed", "created"} <= set(head.split())
    assert whole_id(row.split()[0], lambda: [Alert(id=ONE)]) == ONE
