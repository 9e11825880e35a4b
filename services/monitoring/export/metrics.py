"""Exporting metrics: the points of a series, a row each."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from services.monitoring.export.files import file_chunks
from services.monitoring.export.models import Column, MetricsWanted, Row
from services.monitoring.export.payloads import to_json
from services.monitoring.rollups.metrics import MetricsReader
from services.monitoring.rollups.models import Answer, Granularity, Question, Totals

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


class MetricsFile:
    """The bytes of a file of points, the oldest first and of each step by version; read and made as they are taken.

    When all are taken, `complete_until` says up to when the counts are complete; None: they all are.
    """

    def __init__(self, wanted: MetricsWanted, answers: Iterator[Answer]) -> None:
        self._wanted = wanted
        self._answers = answers
        self.complete_until: datetime | None = None

    def chunks(self) -> Iterator[bytes]:
        """Give the bytes.

        Raises:
            InvalidArgument: the window (INVALID_WINDOW), or too many steps (TOO_MANY_POINTS).
        """
        return file_chunks(self._slices(), COLUMNS, self._wanted.format)

    def _slices(self) -> Iterator[list[Row]]:
        for answer in self._answers:
            if self.complete_until is None:
                self.complete_until = answer.complete_until
            found = [
                (point.window.from_time, series.version, point) for series in answer.series for point in series.points
            ]
            found.sort(key=lambda one: one[:2])
            yield [_row(self._wanted.model, version, answer.granularity, point) for _, version, point in found]


class MetricsExports:
    """Writes metrics to files."""

    def __init__(self, metrics: MetricsReader) -> None:
        self._metrics = metrics

    def export(self, wanted: MetricsWanted) -> MetricsFile:
        """Give a file; nothing is read yet."""
        question = Question(
            wanted.model,
            wanted.version,
            wanted.from_time,
            wanted.to_time,
            wanted.granularity,
            by_version=not wanted.version,
        )
        return MetricsFile(wanted, self._metrics.stretches(question))


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
