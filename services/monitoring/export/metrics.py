"""Exporting metrics: the points of a series, a row each."""

from __future__ import annotations

from collections.abc import Iterator

from services.monitoring.export.files import file_chunks
from services.monitoring.export.models import Column, MetricsWanted, Row
from services.monitoring.export.payloads import to_json
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import Granularity, Question, Totals

COLUMNS = (
    Column("model", "text"),
    Column("version", "text"),
    Column("granularity", "text"),
    Column("from_time", "time"),
    Column("to_time", "time"),
    Column("inference_count", "whole"),
    Column("error_count", "whole"),
    Column("errors", "text"),
    Column("error_rate", "number"),
    Column("throughput_per_s", "number"),
    Column("average_latency_ms", "number"),
    Column("max_latency_ms", "number"),
    Column("p50_latency_ms", "number"),
    Column("p95_latency_ms", "number"),
    Column("p99_latency_ms", "number"),
    Column("average_confidence", "number"),
    Column("row_count", "whole"),
    Column("feedback_count", "whole"),
    Column("judged_count", "whole"),
    Column("correct_count", "whole"),
    Column("accuracy", "number"),
    Column("average_feedback_lag_s", "number"),
)
_NAMES = {Granularity.FIVE_MINUTES: "5m", Granularity.HOUR: "1h", Granularity.DAY: "1d"}


class MetricsExports:
    """Writes metrics to files."""

    def __init__(self, metrics: MetricsReader) -> None:
        self._metrics = metrics

    def export(self, wanted: MetricsWanted) -> Iterator[bytes]:
        """Give the bytes of a file of points, by version, the oldest first.

        Raises:
            InvalidArgument: the window (INVALID_WINDOW), or too many steps (TOO_MANY_POINTS).
        """
        question = Question(
            wanted.model,
            wanted.version,
            wanted.from_time,
            wanted.to_time,
            wanted.granularity,
            by_version=not wanted.version,
        )
        answer = self._metrics.series(question)
        slices = (
            [_row(wanted.model, series.version, answer.granularity, point) for point in series.points]
            for series in answer.series
        )
        return file_chunks(slices, COLUMNS, wanted.format)


def _row(model: str, version: str, granularity: Granularity, point: Totals) -> Row:
    counts = point.counts
    return (
        model,
        version,
        _NAMES[granularity],
        point.window.from_time,
        point.window.to_time,
        counts.inference_count,
        counts.error_count,
        to_json(dict(counts.errors)) if counts.errors else None,
        point.error_rate,
        point.throughput_per_s,
        point.average_latency_ms,
        point.max_latency_ms,
        point.p50_latency_ms,
        point.p95_latency_ms,
        point.p99_latency_ms,
        point.average_confidence,
        counts.row_count,
        counts.feedback_count,
        counts.judged_count,
        counts.correct_count,
        point.accuracy,
        point.average_feedback_lag_s,
    )
