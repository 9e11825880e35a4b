"""`penstock fetch schedule` against a scripted fetcher: what is asked, and what is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from rich.text import Text

from penstock.api.fetcher.v1 import fetch_jobs_pb2 as jobs
from penstock.api.fetcher.v1 import fetch_schedules_pb2 as pb
from penstock.cli.__main__ import run
from tests.sdk import ScriptedServer, answer, scripted_server

ID, OTHER, JOB = (f"01934a1e-7c0{number}-7000-8000-000000000001" for number in range(3))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        monkeypatch.setenv("PENSTOCK_FETCHER_ADDRESS", server.address)
        monkeypatch.delenv("PENSTOCK_TOKEN", raising=False)
        yield server


def a_schedule(schedule_id: str = ID, **more: Any) -> pb.FetchSchedule:
    schedule = pb.FetchSchedule(**{"id": schedule_id, "enabled": True, "created_by": "ops", **more})
    schedule.source.source, schedule.source.reference = "huggingface", "Xenova/all-MiniLM-L6-v2"
    schedule.target.model = "minilm"
    if not schedule.WhichOneof("when"):
        schedule.cron, schedule.time_zone = "0 3 * * *", "Europe/Berlin"
    schedule.create_time.FromDatetime(datetime(2026, 11, 1, tzinfo=UTC))
    if schedule.enabled and not schedule.HasField("at_time"):
        schedule.next_time.FromDatetime(datetime(2026, 12, 1, 2, tzinfo=UTC))
    return schedule


def failing() -> pb.FetchSchedule:
    error = pb.FetchScheduleError(reason="NETWORK_ERROR", message="huggingface.co could not be reached")
    done = jobs.FETCH_JOB_STATE_COMPLETED
    return a_schedule(last_error=error, last_job_id=JOB, last_job_state=done, auto_update=True, last_revision="7f3c")


def printed(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> tuple[str, str]:
    capsys.readouterr()
    assert run(["fetch", "schedule", *arguments]) == exit_code
    said = capsys.readouterr()
    return Text.from_ansi(said.out).plain, Text.from_ansi(said.err).plain


def test_all_that_is_said_of_a_schedule_is_asked_for(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIGN", "s" * 20)
    server.on("CreateFetchSchedule", answer(pb.CreateFetchScheduleResponse(schedule=a_schedule())))
    said = (
        "create huggingface Xenova/all-MiniLM-L6-v2 --time-zone Europe/Berlin --auto-update --name minilm "
        "--variant fp16 --revision main --framework onnx --label a=b --field pooling=cls --priority 2 --max-attempts 7 "
        "--request-id again --webhook https://example.org/hook --webhook-secret-env SIGN"
    )
    out, _ = printed(capsys, *said.split(), "--cron", "0 3 * * *")
    (asked,) = server.calls["CreateFetchSchedule"]
    assert (asked.cron, asked.time_zone, asked.auto_update) == ("0 3 * * *", "Europe/Berlin", True)
    assert (asked.source.variant, asked.source.revision, asked.target.model) == ("fp16", "main", "minilm")
    assert (asked.priority, asked.max_attempts, asked.request_id) == (2, 7, "again")
    assert dict(asked.target.metadata.fields) == {"pooling": "cls"}
    assert (asked.webhook.url, asked.webhook.secret) == ("https://example.org/hook", "s" * 20)
    assert dict(asked.target.labels) == {"a": "b"}
    assert re.search(r"when +0 3 \* \* \* Europe/Berlin", out)


def test_an_only_time_is_read_with_its_zone_or_as_in_so_long(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("CreateFetchSchedule", answer(pb.CreateFetchScheduleResponse(schedule=a_schedule())))
    printed(capsys, "create", "url", "https://x.org/m.onnx", "--at", "2026-12-01T03:00+01:00", "--version", "v9")
    before = datetime.now(UTC)
    printed(capsys, "create", "url", "https://x.org/m.onnx", "--at", "2h")
    exact, soon = server.calls["CreateFetchSchedule"]
    assert exact.at_time.ToDatetime(UTC) == datetime(2026, 12, 1, 2, tzinfo=UTC)
    assert exact.target.version == "v9"
    assert before + timedelta(hours=2) <= soon.at_time.ToDatetime(UTC) <= datetime.now(UTC) + timedelta(hours=2)


@pytest.mark.parametrize(
    "options",
    [(), ("--at", "2h", "--cron", "0 3 * * *"), ("--at", "whenever"), ("--cron", "0 3 * * *", "--priority", "10")],
)
def test_what_cannot_be_meant_is_refused_before_anybody_is_asked(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], options: tuple[str, ...]
) -> None:
    printed(capsys, "create", "url", "https://x.org/m.onnx", *options, exit_code=2)
    assert not server.calls["CreateFetchSchedule"]


def test_a_schedule_whose_fetch_takes_long_does_not_fail(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    error, state = pb.FetchScheduleError(reason="STILL_RUNNING", message="it runs"), jobs.FETCH_JOB_STATE_DOWNLOADING
    slow = a_schedule(last_error=error, last_job_id=JOB, last_job_state=state)
    server.on("ListFetchSchedules", answer(pb.ListFetchSchedulesResponse(schedules=[slow])))
    out, _ = printed(capsys, "list")
    assert re.search(r" on .* downloading ", out)


def test_times_name_their_zone_where_crons_may_be_another(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    zone = re.escape(datetime(2026, 12, 1, 2, tzinfo=UTC).astimezone().tzname() or "")
    server.on("GetFetchSchedule", answer(pb.GetFetchScheduleResponse(schedule=a_schedule())))
    server.on("ListFetchSchedules", answer(pb.ListFetchSchedulesResponse(schedules=[a_schedule()])))
    for arguments in (["get", ID], ["list"]):
        out, _ = printed(capsys, *arguments)
        assert re.search(rf"[\d-]+ [\d:]+ {zone}\b", out)


def test_a_schedule_that_fails_says_why_and_what_it_did_last(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("GetFetchSchedule", answer(pb.GetFetchScheduleResponse(schedule=failing())))
    out, err = printed(capsys, "get", ID)
    assert out.splitlines()[0].split() == [ID, "failing"]
    assert "huggingface.co could not be reached [NETWORK_ERROR]" in out
    assert re.search(rf"last fetch +{JOB} completed", out)
    assert re.search(r"for revision +7f3c", out)
    assert f"penstock fetch get {JOB}" in err


def test_an_only_time_that_was_given_up_shows_in_the_list(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    lost = a_schedule(last_error=pb.FetchScheduleError(reason="SOURCE_DISABLED", message="switched off"))
    lost.at_time.FromDatetime(datetime(2026, 11, 2, tzinfo=UTC))
    lost.ClearField("next_time")
    server.on("ListFetchSchedules", answer(pb.ListFetchSchedulesResponse(schedules=[lost])))
    out, _ = printed(capsys, "list")
    assert re.search(r" failed .*SOURCE_DISABLED", out)


@pytest.mark.parametrize("width", [80, 140])
def test_the_table_fits_a_terminal(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm-256color", "COLUMNS": str(width)}.items():
        monkeypatch.setenv(name, value)
    for name in ("NO_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    over = a_schedule(OTHER)
    over.at_time.FromDatetime(datetime(2026, 11, 2, tzinfo=UTC))
    over.ClearField("next_time")
    listed = [failing(), over, a_schedule(JOB, enabled=False)]
    server.on("ListFetchSchedules", answer(pb.ListFetchSchedulesResponse(schedules=listed)))
    out, _ = printed(capsys, "list", "--on", "--name", "minilm", "--source", "huggingface")
    (asked,) = server.calls["ListFetchSchedules"]
    assert (asked.enabled, asked.model, asked.source) == (True, "minilm", "huggingface")
    lines = out.splitlines()
    assert max(map(len, lines)) <= width
    for line, state in zip(lines[-3 if width == 140 else 2 :], ("failing", "over", "off"), strict=False):
        assert re.search(rf" {state} +", line), line
    assert "minilm" in out


def test_ids_may_be_short_and_answers_json(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    listed = pb.ListFetchSchedulesResponse(schedules=[a_schedule(), a_schedule(OTHER)])
    server.on("ListFetchSchedules", answer(listed))
    off = a_schedule(enabled=False)
    server.on("SetFetchScheduleEnabled", answer(pb.SetFetchScheduleEnabledResponse(schedule=off)))
    server.on("DeleteFetchSchedule", answer(pb.DeleteFetchScheduleResponse()))
    _, err = printed(capsys, "disable", "01934a1e-7c00")
    assert f"penstock fetch schedule enable {ID}" in err
    out, _ = printed(capsys, "enable", ID, "--json")
    assert json.loads(out)["id"] == ID
    out, _ = printed(capsys, "delete", "01934a1e-7c01", "--yes", "--json")
    assert json.loads(out) == {"id": OTHER, "deleted": True}
    assert [(each.id, each.enabled) for each in server.calls["SetFetchScheduleEnabled"]] == [(ID, False), (ID, True)]
    assert [each.id for each in server.calls["DeleteFetchSchedule"]] == [OTHER]
