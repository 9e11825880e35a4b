"""`penstock metrics` and `penstock events`: series, live views, followed events and files."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from rich.text import Text

from penstock.api.monitoring.v1 import export_pb2, metrics_pb2
from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.cli import events_views
from penstock.cli.__main__ import run
from penstock.cli.charts import bar, sparkline
from services.common import errors
from tests.monitoring_answers import listed, live, server, terminal
from tests.sdk import ScriptedServer, answer, fail, stream

__all__ = ["server", "terminal"]
ID = "01934a1e-7c00-7000-8000-000000000001"
NOW = datetime.now(UTC)
END = errors.InvalidArgument("the test is over", reason="OVER")


def said(capsys: pytest.CaptureFixture[str], *arguments: str, exit_code: int = 0) -> str:
    assert run(arguments) == exit_code
    captured = capsys.readouterr()
    return captured.out + captured.err


def test_bars_and_lines_are_drawn_to_an_eighth() -> None:
    assert [bar(share, 4) for share in (0, 0.001, 0.5, 1, 2)] == ["", "▏", "██", "████", "████"]
    assert bar(0.53125, 4) == "██▏"
    assert sparkline([0, 1, None, 8, 16]) == "▁▁ ▅█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""


def test_a_series_shows_each_step_and_the_whole(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("ListMetrics", answer(listed()))
    text = said(capsys, "metrics", "iris", "--granularity", "1h", "--since", "2d")
    (request,) = server.calls["ListMetrics"]
    assert request.granularity == metrics_pb2.GRANULARITY_HOUR
    assert "by hour" in text
    assert "PREDICTIONS" in text
    assert text.count("9.75 ms") >= 1
    assert "40 (2.7%)" in text  # 40 of 1,500
    assert "WRONG_SHAPE 40" in text
    assert "1h 30m after its prediction" in text
    assert "complete up to" in text
    assert len([line for line in text.splitlines() if "93.75%" in line]) == 25
    document = json.loads(said(capsys, "metrics", "iris", "-g", "1h", "--json"))
    assert document["granularity"] == "hour"
    assert len(document["series"][0]["points"]) == 24


def test_by_version_compares_versions_in_one_table(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("ListMetrics", answer(listed("1.0.0", "2.0.0")))
    text = said(capsys, "metrics", "iris", "--by-version")
    assert [line.split()[0] for line in text.splitlines()[2:4]] == ["1.0.0", "2.0.0"]
    assert server.calls["ListMetrics"][0].by_version
    steps = said(capsys, "metrics", "iris", "--by-version", "-g", "5m")
    assert steps.count("by hour") == 2  # as the server answered
    server.on("ListMetrics", answer(metrics_pb2.ListMetricsResponse()))
    assert "no predictions" in said(capsys, "metrics", "iris", "-g", "1d")


def test_without_steps_the_old_answer_stays(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    server.on("GetMetrics", answer(pb.GetMetricsResponse(inference_count=3, judged_count=2, accuracy=0.5)))
    assert json.loads(said(capsys, "metrics", "iris", "--json"))["accuracy"] == 0.5
    server.on("GetMetrics", answer(pb.GetMetricsResponse()))
    text = said(capsys, "metrics", "iris")
    assert "not known: no feedback could be judged" in text
    assert "--since looks further back" in text
    assert "complete up to" not in text
    since = Timestamp(seconds=1)
    server.on("GetMetrics", answer(pb.GetMetricsResponse(complete_until=since, feedback_complete_until=since)))
    text = said(capsys, "metrics", "iris")
    assert "complete up to" in text
    assert "may wait to be counted" in text


def test_a_watch_that_is_piped_gives_a_line_or_a_document_each(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("WatchMetrics", stream(live(0), live(1), then=END))
    text = said(capsys, "metrics", "iris", "--watch", "--version", "2.0.0", exit_code=1)
    assert text.count("iris 2.0.0  ") == 2
    assert "2.5 per second  1 error  " in text
    assert server.calls["WatchMetrics"][0].interval_ms == 2_000
    assert run(["metrics", "iris", "--watch", "--json"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [len(json.loads(line)["points"]) for line in lines] == [30, 30]


def test_a_watch_on_a_terminal_draws_a_picture(
    server: ScriptedServer, terminal: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("WatchMetrics", stream(live(), then=END))
    text = Text.from_ansi(said(capsys, "metrics", "iris", "--watch", exit_code=1)).plain
    assert "the last 5 minutes" in text
    p95 = next(line for line in text.splitlines() if "p95 latency" in line)
    assert p95.rstrip().endswith(f"▇▇█ {'▇▇██' * 6}▇▇")  # a gap where it is not known
    assert max(len(line) for line in text.splitlines()) <= 80


def test_a_watch_takes_no_window(server: ScriptedServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "the last 5 minutes" in said(capsys, "metrics", "iris", "--watch", "--since", "1d", exit_code=2)


def test_metrics_and_events_are_written_to_files(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server.on("ExportMetrics", stream(export_pb2.ExportMetricsResponse(chunk=b"PAR1")))
    out = tmp_path / "iris.parquet"
    document = json.loads(said(capsys, "metrics", "iris", "-g", "1d", "--out", str(out), "--json"))
    assert document == {"file": str(out), "size_bytes": 4, "complete_until": None}
    assert "--force" in said(capsys, "metrics", "iris", "--out", str(out), exit_code=4)
    server.on("ExportEvents", stream(export_pb2.ExportEventsResponse(chunk=b"a,b\n")))
    said(capsys, "events", "export", "iris", "--out", str(tmp_path / "e.csv"), "--from", "7d", "--payloads")
    assert (tmp_path / "e.csv").read_bytes() == b"a,b\n"
    assert server.calls["ExportEvents"][0].payloads
    assert "e.txt does not say" in said(capsys, "events", "export", "iris", "--out", "e.txt", exit_code=1)


def inference(number: int, **more: Any) -> pb.Inference:
    event = pb.InferenceEvent(inference_id=f"id-{number}", model="iris", version="1", latency_ms=number, **more)
    time = Timestamp()
    time.FromDatetime(NOW - timedelta(seconds=100 - number))
    return pb.Inference(event=event, time=time)


def page(*numbers: int) -> Any:
    """The newest first, as the service lists them."""
    return answer(pb.ListInferencesResponse(inferences=[inference(number) for number in sorted(numbers, reverse=True)]))


def test_followed_events_come_once_each_the_oldest_first_also_those_that_came_late(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_views, "POLL_S", 0)
    looks = (page(*range(1, 15)), page(*range(1, 16)), page(*range(17)), page(*range(17)), fail(END))
    server.on("ListInferences", *looks)
    assert run(["events", "--follow", "--model", "iris", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    shown = [int(line["event"]["inference_id"].removeprefix("id-")) for line in lines]
    assert shown == [*range(5, 15), 15, 0, 16]  # the last ten, the next one, and two at once of which one was late
    requests = server.calls["ListInferences"]
    assert {request.model for request in requests} == {"iris"}
    # Each looks a minute back from the newest.
    assert NOW - requests[-1].from_time.ToDatetime(tzinfo=UTC) == timedelta(seconds=84 + 60)


def test_who_follows_says_how_many_of_what_was_there_to_show(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_views, "POLL_S", 0)
    server.on("ListInferences", page(*range(1, 15)), fail(END))
    assert run(["events", "--follow", "-n", "2", "--json"]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"]["inference_id"] for line in lines] == ["id-13", "id-14"]


def test_followed_events_are_lines_of_the_same_columns(
    server: ScriptedServer,
    terminal: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(events_views, "POLL_S", 0)
    terminal.setenv("COLUMNS", "140")
    failed = pb.ListInferencesResponse(inferences=[inference(3, error_code="WRONG_SHAPE"), inference(2)])
    server.on("ListInferences", page(2), answer(failed), fail(END))
    lines = Text.from_ansi(said(capsys, "events", "-f", exit_code=1)).plain.splitlines()
    head, first, second = lines[:3]
    assert head.index("inference id") == first.index("id-2") == second.index("id-3")
    assert "WRONG_SHAPE" in second
    assert max(map(len, lines[:3])) <= 140
    terminal.setenv("COLUMNS", "80")
    server.on("ListInferences", page(2), fail(END))
    without, head, line = Text.from_ansi(said(capsys, "events", "-f", exit_code=1)).plain.splitlines()[:3]
    assert without.startswith("no room here for: feedback, latency;")
    assert head.index("inference id") + len(ID) <= 80
    assert line[head.index("inference id") :] == "id-2"


def test_events_are_listed_without_a_word_before_their_options(
    server: ScriptedServer, capsys: pytest.CaptureFixture[str]
) -> None:
    server.on("ListInferences", page(1, 2))
    assert [each["event"]["latency_ms"] for each in json.loads(said(capsys, "events", "--errors", "--json"))] == [2, 1]
    assert server.calls["ListInferences"][0].errors_only
