"""Between the contract's messages and our dataclasses. Requests are checked here."""

from __future__ import annotations

from datetime import datetime

from google.protobuf.timestamp_pb2 import Timestamp

from penstock.api.monitoring.v1 import metrics_pb2 as pb
from services.common.errors import InvalidArgument
from services.monitoring import convert
from services.monitoring.models import Window
from services.monitoring.rollups.live import Live
from services.monitoring.rollups.models import Answer, Granularity, Question, Series, Totals
from services.monitoring.rollups.store.metrics import too_many_points

MIN_INTERVAL_MS = 1_000
MAX_INTERVAL_MS = 60_000
DEFAULT_INTERVAL_MS = 10_000
MAX_ANSWER_BYTES = 15 * 1024 * 1024
"""Clients take messages of 16 MiB."""
_GRANULARITIES = {
    Granularity.FIVE_MINUTES: pb.GRANULARITY_FIVE_MINUTES,
    Granularity.HOUR: pb.GRANULARITY_HOUR,
    Granularity.DAY: pb.GRANULARITY_DAY,
}


def question_from(request: pb.ListMetricsRequest) -> Question:
    """Read which series is asked for; raises InvalidArgument naming the field."""
    model, version, from_time, to_time = convert.question_from(request)
    return Question(model, version, from_time, to_time, _granularity(request.granularity), request.by_version)


def _granularity(number: int) -> Granularity | None:
    if number == pb.GRANULARITY_UNSPECIFIED:
        return None
    found = next((one for one, value in _GRANULARITIES.items() if value == number), None)
    if found is None:
        allowed = ", ".join(pb.Granularity.keys()[1:])
        message = f"got {number}; {allowed} are allowed, or none"
        raise InvalidArgument.field("granularity", message, reason="OUT_OF_BOUNDS")
    return found


def interval_s(request: pb.WatchMetricsRequest) -> float:
    """Read how often to answer; raises InvalidArgument (OUT_OF_BOUNDS)."""
    interval_ms = request.interval_ms or DEFAULT_INTERVAL_MS
    if not MIN_INTERVAL_MS <= interval_ms <= MAX_INTERVAL_MS:
        raise InvalidArgument.field(
            "interval_ms",
            f"got {interval_ms}; {MIN_INTERVAL_MS} to {MAX_INTERVAL_MS} are allowed, or 0 for {DEFAULT_INTERVAL_MS}",
            reason="OUT_OF_BOUNDS",
        )
    return interval_ms / 1000


def list_response(answer: Answer, *, histograms: bool) -> pb.ListMetricsResponse:
    """Encode series; raises InvalidArgument where they are too large to be sent (TOO_MANY_POINTS)."""
    response = pb.ListMetricsResponse(
        granularity=_GRANULARITIES[answer.granularity],
        from_time=_timestamp(answer.window.from_time),
        to_time=_timestamp(answer.window.to_time),
        series=[_series(one, histograms=histograms) for one in answer.series],
        complete_until=_optional(answer.complete_until),
        feedback_complete_until=_optional(answer.feedback_complete_until),
    )
    if response.ByteSize() > MAX_ANSWER_BYTES:
        raise too_many_points(f"{response.ByteSize()} bytes; at most {MAX_ANSWER_BYTES} are sent at once")
    return response


def realtime_response(live: Live) -> pb.GetRealtimeMetricsResponse:
    """Encode the last minutes."""
    points, total = live
    return pb.GetRealtimeMetricsResponse(points=map(_point, points), total=_point(total))


def watch_response(live: Live) -> pb.WatchMetricsResponse:
    """Encode the last minutes for a watcher."""
    points, total = live
    return pb.WatchMetricsResponse(points=map(_point, points), total=_point(total))


def _series(series: Series, *, histograms: bool) -> pb.MetricsSeries:
    bins = series.total.counts.latencies.bounds() if histograms else ()
    return pb.MetricsSeries(
        version=series.version,
        points=[_point(point) for point in series.points],
        total=_point(series.total),
        latencies=[pb.LatencyBin(from_ms=one.from_ms, to_ms=one.to_ms, count=one.count) for one in bins],
    )


def _point(totals: Totals) -> pb.MetricsPoint:
    counts = totals.counts
    p50_latency_ms, p95_latency_ms, p99_latency_ms = totals.percentiles_ms(50, 95, 99)
    return pb.MetricsPoint(
        **_bounds(totals.window),
        inference_count=counts.inference_count,
        error_count=counts.error_count,
        errors=[pb.ErrorCount(error_code=code, count=count) for code, count in counts.errors.items()],
        error_rate=totals.error_rate,
        average_latency_ms=totals.average_latency_ms,
        max_latency_ms=totals.max_latency_ms,
        p50_latency_ms=p50_latency_ms,
        p95_latency_ms=p95_latency_ms,
        p99_latency_ms=p99_latency_ms,
        average_confidence=totals.average_confidence,
        accuracy=totals.accuracy,
        feedback_count=counts.feedback_count,
        judged_count=counts.judged_count,
        correct_count=counts.correct_count,
        average_feedback_lag_s=totals.average_feedback_lag_s,
        throughput_per_s=totals.throughput_per_s,
        row_count=counts.row_count,
    )


def _bounds(window: Window) -> dict[str, Timestamp]:
    return {"from_time": _timestamp(window.from_time), "to_time": _timestamp(window.to_time)}


def _optional(time: datetime | None) -> Timestamp | None:
    return None if time is None else _timestamp(time)


def _timestamp(time: datetime) -> Timestamp:
    message = Timestamp()
    message.FromDatetime(time)
    return message
