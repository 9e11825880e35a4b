"""MetricsService over its socket, and GetMetrics where it is answered from rollups."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import export_pb2
from penstock.api.monitoring.v1 import metrics_pb2 as pb
from penstock.api.monitoring.v1.export_pb2_grpc import ExportServiceStub
from penstock.api.monitoring.v1.metrics_pb2_grpc import MetricsServiceStub
from penstock.ids import time_of
from services.monitoring import inferences
from services.monitoring.rollups import convert, plan
from services.monitoring.rollups import metrics as reader
from services.monitoring.rollups.models import FINEST_FIRST
from services.monitoring.rollups.store import metrics as store
from tests.monitoring import Monitoring, eventually, labels, new_event, reason, serve
from tests.rollups import Rollups, leave_to_the_test, rollups

INVALID = grpc.StatusCode.INVALID_ARGUMENT
TIMEOUT_S = 60


@pytest.fixture
def url(clone_database: Callable[[str], str]) -> str:
    found = clone_database("monitoring")
    leave_to_the_test(found)
    return found


@pytest.fixture
def monitoring(url: str) -> Iterator[Monitoring]:
    with serve(url) as running:
        yield running


@pytest.fixture
def rolled(url: str) -> Iterator[Rollups]:
    with rollups(url) as found:
        yield found


@pytest.fixture
def metrics(monitoring: Monitoring) -> Iterator[MetricsServiceStub]:
    with grpc.insecure_channel(monitoring.address) as channel:
        yield MetricsServiceStub(channel)


def ago(**span: float) -> Any:
    return datetime.now(UTC) - timedelta(**span)


def test_a_series_says_its_steps_its_window_and_what_it_cannot_tell(
    monitoring: Monitoring, metrics: MetricsServiceStub, rolled: Rollups
) -> None:
    good = [new_event(age_s=7_200, latency_ms=10, confidence=0.5, prediction=labels(1)) for _ in range(9)]
    failed = new_event(age_s=7_200 + 3 * 3_600, error_code="INTERNAL", version="")
    monitoring.record(*good, failed)
    monitoring.feedback(good[0].inference_id, actual=1)
    for _ in range(2):  # from events, then from rollups
        answer = metrics.ListMetrics(
            pb.ListMetricsRequest(model="iris", granularity=pb.GRANULARITY_HOUR, histograms=True), timeout=TIMEOUT_S
        )
        assert answer.granularity == pb.GRANULARITY_HOUR
        assert answer.to_time.seconds - answer.from_time.seconds in (24 * 3_600, 25 * 3_600)
        assert (answer.from_time.seconds % 3_600, answer.HasField("complete_until")) == (0, False)
        (series,) = answer.series
        assert [point.inference_count for point in series.points] == [1, 9]
        one, nine = series.points
        assert (one.error_rate, [(each.error_code, each.count) for each in one.errors]) == (1, [("INTERNAL", 1)])
        unset = ("average_latency_ms", "max_latency_ms", "p50_latency_ms", "average_confidence", "accuracy")
        assert not [name for name in unset if one.HasField(name)]  # type: ignore[arg-type] # names of the message
        assert (nine.average_latency_ms, nine.max_latency_ms, nine.average_confidence) == (10, 10, 0.5)
        assert nine.p99_latency_ms == pytest.approx(10, rel=0.0101)
        assert (nine.accuracy, nine.feedback_count, nine.row_count) == (1, 1, 9)
        assert nine.average_feedback_lag_s == pytest.approx(7_200, abs=60)
        assert nine.throughput_per_s == 9 / 3_600
        assert (series.total.inference_count, series.total.error_rate) == (10, 0.1)
        (latencies,) = series.latencies
        assert latencies.from_ms < 10 <= latencies.to_ms
        assert latencies.count == 9
        rolled.recount()


def test_the_granularity_that_nobody_chose_is_the_finest_with_a_few_hundred_points(
    monitoring: Monitoring, metrics: MetricsServiceStub
) -> None:
    for days, taken in ((1, pb.GRANULARITY_FIVE_MINUTES), (10, pb.GRANULARITY_HOUR), (100, pb.GRANULARITY_DAY)):
        request = pb.ListMetricsRequest(model="iris", from_time=ago(days=days))
        assert metrics.ListMetrics(request, timeout=TIMEOUT_S).granularity == taken


def test_series_by_version_are_one_a_version(monitoring: Monitoring, metrics: MetricsServiceStub) -> None:
    monitoring.record(new_event(version="2"), new_event(version="1"), new_event(version="1"), new_event(model="wine"))
    answer = metrics.ListMetrics(pb.ListMetricsRequest(model="iris", by_version=True), timeout=TIMEOUT_S)
    assert [(series.version, series.total.inference_count) for series in answer.series] == [("1", 2), ("2", 1)]
    request = pb.ListMetricsRequest(model="iris", version="2")
    (series,) = metrics.ListMetrics(request, timeout=TIMEOUT_S).series
    assert (series.version, series.total.inference_count) == ("2", 1)
    (series,) = metrics.ListMetrics(pb.ListMetricsRequest(model="none"), timeout=TIMEOUT_S).series
    assert (list(series.points), series.total.inference_count) == ([], 0)


def test_a_series_of_too_many_points_is_refused_whatever_makes_it_large(
    monitoring: Monitoring, metrics: MetricsServiceStub, rolled: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitoring.record(*(new_event(age_s=7_200 + 300 * step, version=str(v)) for step in range(3) for v in range(4)))
    rolled.recount()

    def asked(**fields: Any) -> int:
        request = pb.ListMetricsRequest(model="iris", granularity=pb.GRANULARITY_FIVE_MINUTES, **fields)
        return sum(len(series.points) for series in metrics.ListMetrics(request, timeout=TIMEOUT_S).series)

    few = {"from_time": ago(hours=2, minutes=20), "to_time": ago(hours=1, minutes=55)}
    assert (asked(**few), asked(by_version=True, **few)) == (3, 12)
    for module, name, limit in (
        (reader, "MAX_POINTS", 11),
        (store, "MAX_ROLLUPS", 11),
        (convert, "MAX_ANSWER_BYTES", 1_000),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(module, name, limit)
            assert reason(lambda: asked(by_version=True, **few)) == (INVALID, "TOO_MANY_POINTS")
            assert asked(version="1", **few) == 3


def test_an_export_is_read_some_steps_at_a_time_and_says_how_far_it_is_complete(
    monitoring: Monitoring, rolled: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [new_event(age_s=1_000 * step, version=str(step % 2)) for step in range(40)]
    monitoring.record(*events)
    request = export_pb2.ExportMetricsRequest(
        model="iris", granularity=pb.GRANULARITY_FIVE_MINUTES, format=export_pb2.EXPORT_FORMAT_CSV
    )
    monkeypatch.setattr(plan, "MAX_EVENT_BUCKETS", 0)
    first = FINEST_FIRST[0].floor(time_of(events[-1].inference_id))
    with grpc.insecure_channel(monitoring.address) as channel:
        exported = ExportServiceStub(channel).ExportMetrics
        *_, last = exported(request, timeout=TIMEOUT_S)
        assert (last.chunk, last.complete_until.ToDatetime(UTC)) == (b"", first)
        rolled.recount()
        answers = list(exported(request, timeout=TIMEOUT_S))
    assert not any(answer.HasField("complete_until") for answer in answers)
    _, *rows = b"".join(answer.chunk for answer in answers).decode().splitlines()
    cells = [row.split(",") for row in rows]
    assert [(row[1], row[5]) for row in cells] == [(event.version, "1") for event in reversed(events)]
    assert [row[3] for row in cells] == sorted(row[3] for row in cells)


def test_bad_questions_are_refused_by_field(metrics: MetricsServiceStub) -> None:
    def listed(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return reason(lambda: metrics.ListMetrics(pb.ListMetricsRequest(**{"model": "iris", **fields})))

    def live(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return reason(lambda: metrics.GetRealtimeMetrics(pb.GetRealtimeMetricsRequest(**fields)))

    for call in (listed, live):
        assert call(model="") == (INVALID, "MODEL_REQUIRED")
        assert call(model="a\0") == (INVALID, "INVALID_TEXT")
        assert call(model="a", version="x" * 129) == (INVALID, "INVALID_TEXT")

    assert listed(from_time=ago(days=1), to_time=ago(days=2)) == (INVALID, "INVALID_WINDOW")
    assert listed(to_time=Timestamp(seconds=1 << 60)) == (INVALID, "INVALID_TIME")
    assert listed(granularity=9) == (INVALID, "OUT_OF_BOUNDS")
    far = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    assert listed(from_time=ago(days=1), to_time=far, granularity=1) == (INVALID, "TOO_MANY_POINTS")

    def watched(**fields: Any) -> tuple[grpc.StatusCode, str]:
        return reason(lambda: next(metrics.WatchMetrics(pb.WatchMetricsRequest(**fields))))

    assert watched() == (INVALID, "MODEL_REQUIRED")
    assert watched(model="iris", interval_ms=999) == (INVALID, "OUT_OF_BOUNDS")
    assert watched(model="iris", interval_ms=60_001) == (INVALID, "OUT_OF_BOUNDS")
    assert watched(model="iris", interval_ms=-1) == (INVALID, "OUT_OF_BOUNDS")


def test_the_oldest_and_the_last_times_there_are_make_no_defect(metrics: MetricsServiceStub) -> None:
    first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    hour = timedelta(hours=1)
    for from_time, to_time in ((first, first + hour), (last - hour, last), (None, first + hour)):
        for granularity in (0, 1, 2, 3):
            request = pb.ListMetricsRequest(model="iris", from_time=from_time, to_time=to_time, granularity=granularity)  # type: ignore[arg-type]
            assert metrics.ListMetrics(request, timeout=TIMEOUT_S).series[0].total.inference_count == 0


def test_live_metrics_are_thirty_steps_of_what_has_arrived_on_any_replica(url: str) -> None:
    with serve(url) as one, serve(url) as other, grpc.insecure_channel(other.address) as channel:
        metrics = MetricsServiceStub(channel)
        events = [new_event(age_s=age, latency_ms=5, prediction=labels(1)) for age in (1, 100, 100, 200, 400)]
        one.record(*events, new_event(version="2", age_s=1))
        one.feedback(events[0].inference_id, actual=1)
        request = pb.GetRealtimeMetricsRequest(model="iris", version="1.0.0")
        live = metrics.GetRealtimeMetrics(request, timeout=TIMEOUT_S)
        assert len(live.points) == 30
        begins = [point.from_time.seconds for point in live.points]
        assert begins == list(range(begins[0], begins[0] + 300, 10))
        assert begins[0] % 10 == 0
        now = datetime.now(UTC).timestamp()
        assert begins[-1] <= now <= begins[-1] + 10 + TIMEOUT_S
        by_begin = {point.from_time.seconds: point.inference_count for point in live.points if point.inference_count}
        expected: dict[int, int] = {}
        for event in events[:4]:
            begin = int(time_of(event.inference_id).timestamp()) // 10 * 10
            expected[begin] = expected.get(begin, 0) + 1
        assert by_begin == expected
        assert (live.total.inference_count, live.total.correct_count) == (4, 1)
        everything = metrics.GetRealtimeMetrics(pb.GetRealtimeMetricsRequest(model="iris"), timeout=TIMEOUT_S)
        assert everything.total.inference_count == 5


@pytest.mark.slow  # answers come a second apart
def test_a_watch_goes_on_until_its_client_goes_or_the_server_drains(url: str) -> None:
    with serve(url) as monitoring:
        channel = grpc.insecure_channel(monitoring.address)
        metrics = MetricsServiceStub(channel)
        request = pb.WatchMetricsRequest(model="iris", interval_ms=1_000)
        watch, endless = metrics.WatchMetrics(request), metrics.WatchMetrics(request)
        assert next(watch).total.inference_count == 0
        monitoring.record(new_event())
        assert next(watch).total.inference_count == 1
        watch.cancel()
        next(endless)
    assert reason(lambda: [*endless]) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    channel.close()
    eventually(lambda: not [thread for thread in threading.enumerate() if thread.name.startswith("stream")])


def test_of_many_predictions_get_metrics_reads_rollups(
    monitoring: Monitoring, rolled: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [new_event(age_s=3_600 + 7 * n, latency_ms=n + 1, row_count=2) for n in range(500)]
    monitoring.record(*events)
    rolled.recount()
    exact = monitoring.metrics(from_time=ago(hours=9))
    monkeypatch.setattr(inferences, "MAX_EXACT", 100)
    merged = monitoring.metrics(from_time=ago(hours=9))
    same = ("inference_count", "error_count", "row_count", "average_latency_ms", "feedback_count")
    assert [getattr(merged, name) for name in same] == [getattr(exact, name) for name in same]
    assert (exact.p50_latency_ms, exact.p99_latency_ms) == (250, 495)
    assert merged.p50_latency_ms == pytest.approx(250, rel=0.0101)
    assert merged.p99_latency_ms == pytest.approx(495, rel=0.0101)


def test_get_metrics_says_up_to_when_its_counts_are_complete(
    monitoring: Monitoring, rolled: Rollups, monkeypatch: pytest.MonkeyPatch
) -> None:
    events = [new_event(age_s=10_000 + 300 * number) for number in range(40)]
    monitoring.record(*events)
    exact = monitoring.metrics(from_time=ago(hours=9))
    assert (exact.inference_count, exact.HasField("complete_until")) == (40, False)
    monkeypatch.setattr(inferences, "MAX_EXACT", 10)
    found = monitoring.metrics(from_time=ago(hours=9))
    assert found.inference_count < 40
    assert found.complete_until.ToDatetime(tzinfo=UTC) == FINEST_FIRST[0].floor(time_of(events[-1].inference_id))
    rolled.recount()
    monitoring.feedback(events[0].inference_id, correct=True)
    found = monitoring.metrics(from_time=ago(hours=9))
    assert (found.inference_count, found.HasField("complete_until")) == (40, False)
    label = time_of(events[0].inference_id)
    assert found.feedback_complete_until.ToDatetime(tzinfo=UTC) == FINEST_FIRST[0].floor(label)
