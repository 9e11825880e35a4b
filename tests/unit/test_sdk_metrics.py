"""Series, the live view and files of metrics and events, against a server that does what a test says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from penstock import Client, RetryPolicy
from penstock import errors as sdk
from penstock.api.monitoring.v1 import export_pb2, metrics_pb2
from penstock.metrics import granularity_number
from services.common import errors
from tests.sdk import ScriptedServer, answer, client_of, scripted_server, stream

QUICK = RetryPolicy(attempts=3, base_delay_s=0.001, max_delay_s=0.002)
AT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with scripted_server() as server:
        yield server


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[Client]:
    with client_of(server, retry=QUICK) as client:
        yield client


@pytest.mark.parametrize(
    ("said", "number"),
    [
        (None, metrics_pb2.GRANULARITY_UNSPECIFIED),
        ("5m", metrics_pb2.GRANULARITY_FIVE_MINUTES),
        ("60m", metrics_pb2.GRANULARITY_HOUR),
        (timedelta(days=1), metrics_pb2.GRANULARITY_DAY),
        ("hour", metrics_pb2.GRANULARITY_HOUR),
        (metrics_pb2.GRANULARITY_DAY, metrics_pb2.GRANULARITY_DAY),
    ],
)
def test_a_step_is_a_duration_or_a_name(said: Any, number: int) -> None:
    assert granularity_number(said) == number


@pytest.mark.parametrize("said", ["7m", "fortnight", timedelta(minutes=7)])
def test_no_other_step_is_taken(said: Any) -> None:
    with pytest.raises(sdk.InvalidArgument) as caught:
        granularity_number(said)
    assert caught.value.reason == "UNKNOWN_NAME"
    assert "five_minutes, hour, day" in caught.value.message


def test_a_window_is_its_ends_or_its_length(server: ScriptedServer, client: Client) -> None:
    server.on("ListMetrics", answer(metrics_pb2.ListMetricsResponse(granularity=metrics_pb2.GRANULARITY_HOUR)))
    metrics = client.monitoring.metrics
    metrics.list("iris", "1", to_time=AT, window=timedelta(days=7), granularity="1h", by_version=True, histograms=True)
    metrics.list("iris", from_time=AT)
    first, second = server.calls["ListMetrics"]
    assert first.from_time.ToDatetime(tzinfo=UTC) == AT - timedelta(days=7)
    assert first.to_time.ToDatetime(tzinfo=UTC) == AT
    assert (first.granularity, first.by_version, first.histograms) == (metrics_pb2.GRANULARITY_HOUR, True, True)
    assert not second.HasField("to_time")
    with pytest.raises(sdk.InvalidArgument, match="not both"):
        metrics.list("iris", from_time=AT, window=timedelta(hours=1))
    with pytest.raises(sdk.InvalidArgument, match="time zone"):
        metrics.list("iris", from_time=datetime(2026, 1, 1))  # noqa: DTZ001 - naive is what is refused


def test_a_watch_goes_on_where_the_server_ended_it_until_it_is_left(server: ScriptedServer, client: Client) -> None:
    looks = [metrics_pb2.WatchMetricsResponse(total=metrics_pb2.MetricsPoint(inference_count=each)) for each in (1, 2)]
    gone = errors.Unavailable("draining", reason="DRAINING")
    server.on("WatchMetrics", stream(looks[0], then=gone), stream(looks[1]))
    with closing(client.monitoring.metrics.watch("iris", "1", interval=timedelta(seconds=2))) as answers:
        seen = [each.total.inference_count for each in islice(answers, 3)]
    assert seen == [1, 2, 2]
    assert {request.interval_ms for request in server.calls["WatchMetrics"]} == {2_000}


def test_a_watch_that_is_refused_says_so(server: ScriptedServer, client: Client) -> None:
    server.on("WatchMetrics", stream(then=errors.InvalidArgument("no model", reason="MODEL_REQUIRED")))
    with pytest.raises(sdk.InvalidArgument):
        list(client.monitoring.metrics.watch(""))
    assert len(server.calls["WatchMetrics"]) == 1


def test_realtime_metrics_come_as_they_are(server: ScriptedServer, client: Client) -> None:
    answered = metrics_pb2.GetRealtimeMetricsResponse(points=[metrics_pb2.MetricsPoint(error_count=3)])
    server.on("GetRealtimeMetrics", answer(answered))
    assert client.monitoring.metrics.realtime("iris") == answered


def test_events_are_written_to_a_file_in_one_move(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    chunks = [export_pb2.ExportEventsResponse(chunk=each) for each in (b"inference_id\n", b"1\n")]
    server.on("ExportEvents", stream(*chunks))
    told: list[int] = []
    target = client.monitoring.exports.events(
        "iris", tmp_path / "iris.csv", window=timedelta(days=7), payloads=True, progress=told.append
    )
    assert target.read_bytes() == b"inference_id\n1\n"
    assert told == [13, 15]
    (request,) = server.calls["ExportEvents"]
    assert (request.format, request.payloads) == (export_pb2.EXPORT_FORMAT_CSV, True)
    assert [path.name for path in tmp_path.iterdir()] == ["iris.csv"]


def test_an_export_that_broke_half_way_begins_anew(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    half, whole = export_pb2.ExportMetricsResponse(chunk=b"PAR1-half"), export_pb2.ExportMetricsResponse(chunk=b"PAR1")
    server.on("ExportMetrics", stream(half, then=errors.Unavailable("the database is gone")), stream(whole))
    told = client.monitoring.exports.metrics("iris", tmp_path / "iris.parquet", granularity="1d")
    assert (told.path.read_bytes(), told.complete_until) == (b"PAR1", None)
    assert server.calls["ExportMetrics"][0].granularity == metrics_pb2.GRANULARITY_DAY


def test_an_export_says_up_to_when_its_counts_are_complete(
    server: ScriptedServer, client: Client, tmp_path: Path
) -> None:
    last = export_pb2.ExportMetricsResponse()
    last.complete_until.FromJsonString("2026-01-31T12:00:00Z")
    server.on("ExportMetrics", stream(export_pb2.ExportMetricsResponse(chunk=b"PAR1"), last))
    told = client.monitoring.exports.metrics("iris", tmp_path / "iris.parquet")
    assert (told.path.read_bytes(), told.complete_until) == (b"PAR1", datetime(2026, 1, 31, 12, tzinfo=UTC))


def test_an_export_that_fails_leaves_what_was_there(server: ScriptedServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "iris.csv").write_text("old")
    server.on("ExportEvents", stream(then=errors.InvalidArgument("no", reason="INVALID_WINDOW")))
    with pytest.raises(sdk.InvalidArgument):
        client.monitoring.exports.events("iris", tmp_path / "iris.csv")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("iris.csv", "old")]
    with pytest.raises(sdk.InvalidArgument) as caught:
        client.monitoring.exports.events("iris", tmp_path / "iris.xlsx")
    assert caught.value.reason == "FORMAT_REQUIRED"
