"""Metrics as facts, as tables over time, and as a picture of the last five minutes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.api.monitoring.v1 import metrics_pb2 as pb
from penstock.cli.charts import bar, sparkline
from penstock.cli.documents import enum_word
from penstock.cli.formats import say_count, say_duration, say_ms, say_share, say_time
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output

BAR_CELLS = 12
SHOWN_REASONS = 5
_NUMBERS = (
    Column("predictions", "right"),
    Column("errors", "right"),
    Column("p50", "right", optional=True),
    Column("p95", "right"),
    Column("p99", "right", optional=True),
    Column("conf.", "right", optional=True),
    Column("accuracy", "right"),
)
_TIME_FORMATS = {
    pb.GRANULARITY_FIVE_MINUTES: "%m-%d %H:%M",
    pb.GRANULARITY_HOUR: "%m-%d %H:%M",
    pb.GRANULARITY_DAY: "%Y-%m-%d",
}


def totals(point: Any) -> list[tuple[str, str | Text]]:
    """Lay out what is known of a window; `point` is a MetricsPoint, or what GetMetrics answers."""
    errors = f"{point.error_count:,}"
    if point.HasField("error_rate"):
        errors += f" ({say_share(point.error_rate)})"
    fields = (("average", "average_latency_ms"), *((f"p{each}", f"p{each}_latency_ms") for each in (50, 95, 99)))
    known = [f"{name} {say_ms(getattr(point, field))}" for name, field in fields if point.HasField(field)]
    if isinstance(point, pb.MetricsPoint) and point.HasField("max_latency_ms"):
        known.append(f"max {say_ms(point.max_latency_ms)}")
    return [
        ("predictions", f"{point.inference_count:,} ({say_count(point.row_count, 'row')})"),
        ("throughput", f"{point.throughput_per_s:.3g} per second"),
        ("errors", Text(errors, style="bold red" if point.error_count else "")),
        ("their reasons", _reasons(point)),
        ("latency", ", ".join(known)),
        ("confidence", say_share(point.average_confidence) if point.HasField("average_confidence") else ""),
        ("accuracy", _accuracy(point)),
        ("feedback came", _lag(point)),
    ]


def series_table(output: Output, series: pb.MetricsSeries, granularity: pb.Granularity.ValueType) -> RenderableType:
    """Lay out a series, a step a row, with bars for how much there was."""
    most = max((point.inference_count for point in series.points), default=0)
    form = _TIME_FORMATS.get(granularity, "%m-%d %H:%M")
    drawn = output.stdout.is_terminal
    columns = (Column("from"), *((Column("", optional=True),) if drawn else ()), *_NUMBERS)
    rows = []
    for point in series.points:
        begin = time_of(point.from_time)
        when = say_time(begin) if not drawn else begin.astimezone().strftime(form) if begin else ""
        picture = (_bar(point, most),) if drawn else ()
        rows.append((when, *picture, *_numbers(point)))
    return output.table(columns, rows, empty="no predictions in this window")


def versions_table(output: Output, found: Iterable[pb.MetricsSeries]) -> RenderableType:
    """Lay out the totals of versions beside each other, a version a row."""
    rows = [(series.version or "(none)", *_numbers(series.total)) for series in found]
    return output.table((Column("version", give="cut"), *_NUMBERS), rows, empty="no predictions in this window")


def step_words(granularity: pb.Granularity.ValueType) -> str:
    """Say how long a step is."""
    return {"five_minutes": "by 5 minutes", "hour": "by hour", "day": "by day"}.get(
        str(enum_word(pb.Granularity.DESCRIPTOR, granularity)), ""
    )


def live_view(title: str, points: Sequence[pb.MetricsPoint], total: pb.MetricsPoint) -> RenderableType:
    """Draw the last five minutes: what there was, how it went from ten seconds to ten seconds, and what is now."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(no_wrap=True, overflow="crop")
    counts = [float(point.inference_count) for point in points]
    errors = [float(point.error_count) for point in points]
    grid.add_row("predictions", f"{total.inference_count:,}", Text(sparkline(counts), style="cyan"))
    rate = f" ({say_share(total.error_rate)})" if total.HasField("error_rate") else ""
    style = "bold red" if total.error_count else ""
    grid.add_row("errors", Text(f"{total.error_count:,}{rate}", style=style), Text(sparkline(errors), style="red"))
    for name in ("p50", "p95", "p99"):
        field = f"{name}_latency_ms"
        values = [getattr(point, field) if point.HasField(field) else None for point in points]  # type: ignore[arg-type]
        now = say_ms(getattr(total, field)) if total.HasField(field) else "–"  # type: ignore[arg-type]  # noqa: RUF001
        grid.add_row(f"{name} latency", now, Text(sparkline(values), style="magenta"))
    if total.HasField("accuracy"):
        known = [point.accuracy if point.HasField("accuracy") else None for point in points]
        grid.add_row("accuracy", say_share(total.accuracy), Text(sparkline(known), style="green"))
    ends = [end for point in points if (end := time_of(point.to_time))]
    upto = f"  the last 5 minutes, up to {max(ends).astimezone().strftime('%H:%M:%S')}" if ends else ""
    per_s = f"  {total.throughput_per_s:.3g} per second"
    heading = Text.assemble((title, "bold"), (per_s, "bold cyan"), (upto, "dim"))
    return Group(heading, Padding(grid, (0, 0, 0, 2), expand=False))


def live_line(title: str, total: pb.MetricsPoint) -> Text:
    """Write the last five minutes on a line, where nobody sees a picture."""
    said = f"{title}  {say_count(total.inference_count, 'prediction')}  {total.throughput_per_s:.3g} per second"
    p95 = f"  p95 {say_ms(total.p95_latency_ms)}" if total.HasField("p95_latency_ms") else ""
    return Text(f"{say_time(time_of(total.to_time))}  {said}  {say_count(total.error_count, 'error')}{p95}".strip())


def _numbers(point: pb.MetricsPoint) -> tuple[str | Text, ...]:
    errors = f"{point.error_count:,}" if point.error_count else "0"
    if point.error_count and point.HasField("error_rate"):
        errors += f" ({point.error_rate:.1%})"
    return (
        f"{point.inference_count:,}",
        Text(errors, style="bold red" if point.error_count else "dim"),
        *(say_ms(_known(point, f"p{each}_latency_ms")) for each in (50, 95, 99)),
        say_share(_known(point, "average_confidence")),
        say_share(_known(point, "accuracy")),
    )


def _known(point: Any, field: str) -> float | None:
    return float(getattr(point, field)) if point.HasField(field) else None


def _bar(point: pb.MetricsPoint, most: int) -> Text:
    """Draw how much there was, the failed share of it in red."""
    if not most:
        return Text()
    whole = bar(point.inference_count / most, BAR_CELLS)
    failed = round(len(whole) * (point.error_count / point.inference_count)) if point.inference_count else 0
    failed = max(failed, 1) if point.error_count else 0
    return Text.assemble(
        (whole[: len(whole) - failed], "cyan"), (whole[len(whole) - failed :] if failed else "", "red")
    )


def _reasons(point: Any) -> str:
    errors: Sequence[pb.ErrorCount] = point.errors if isinstance(point, pb.MetricsPoint) else ()
    said = ", ".join(f"{each.error_code or 'unknown'} {each.count:,}" for each in errors[:SHOWN_REASONS])
    return said + (f" and {len(errors) - SHOWN_REASONS} more" if len(errors) > SHOWN_REASONS else "")


def _accuracy(point: Any) -> Text:
    if not point.HasField("accuracy"):
        return Text("not known: no feedback could be judged", style="dim")
    judged = f"  {point.correct_count:,} of {point.judged_count:,} judged right"
    return Text.assemble((say_share(point.accuracy), "bold"), (judged, "dim"))


def _lag(point: Any) -> str:
    if not isinstance(point, pb.MetricsPoint) or not point.HasField("average_feedback_lag_s"):
        return ""
    return f"{say_duration(point.average_feedback_lag_s)} after its prediction, on average"
