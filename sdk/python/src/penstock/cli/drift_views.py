"""Drift checks: the sentence on top, the worst features as two distributions side by side, the rest as a table."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.api.monitoring.v1 import drift_pb2 as pb
from penstock.api.monitoring.v1 import quality_pb2
from penstock.cli.charts import bar
from penstock.cli.documents import enum_word
from penstock.cli.formats import say_count, say_share, say_time
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, printable, styled
from penstock.cli.profile_views import kind_word

STATUS_STYLES = {"ok": "green", "drifted": "bold red", "insufficient data": "yellow"}
LARGE_PSI = 0.2
_BY_PSI = (pb.DRIFT_TYPE_INPUT, pb.DRIFT_TYPE_PREDICTION)
"""Whose effect is a PSI: others have no custom for what is large."""
MAX_BARS = 14
MAX_BAR_CELLS = 36
_LABEL_CELLS = 24
_SHARE_CELLS = 7
_COLUMNS = (
    Column("check", give="id"),
    Column("model", give="cut", least_width=10),
    Column("status", give="cut", least_width=12),
    Column("effect", "right"),
    Column("drifted", "right", optional=True),
    Column("made", "right", optional=True),
    Column("rows", "right", optional=True),
    Column("by", optional=True),
)
_RESULT_COLUMNS = (
    Column("compared", give="cut", least_width=16),
    Column("drift", give="cut", least_width=12),
    Column("status"),
    Column("effect", "right"),
    Column("adjusted p", "right"),
    Column("PSI", "right", optional=True),
    Column("KS", "right", optional=True),
    Column("chi²", "right", optional=True),
    Column("Wasserstein", "right", optional=True),
    Column("J-S", "right", optional=True),
    Column("rows", "right", optional=True),
)


def status_word(status: pb.DriftStatus.ValueType) -> str:
    """Say what a comparison came to."""
    return str(enum_word(pb.DriftStatus.DESCRIPTOR, status) or "").replace("_", " ")


def trigger_word(trigger: pb.Trigger.ValueType) -> str:
    """Say what brought a check about."""
    return str(enum_word(pb.Trigger.DESCRIPTOR, trigger) or "")


def checks_table(output: Output, checks: Sequence[pb.DriftCheck]) -> RenderableType:
    """Lay out checks, one a row."""
    rows = [
        (
            check.id,
            f"{check.model} {check.version}",
            styled(status_word(check.status), STATUS_STYLES),
            f"{check.effect:.3f}",
            f"{check.drifted_count:,} of {check.compared_count:,}",
            output.time(time_of(check.create_time)),
            f"{check.live_count:,}",
            trigger_word(check.trigger),
        )
        for check in checks
    ]
    return output.table(_COLUMNS, rows, empty="no drift check: `penstock drift check MODEL` makes one")


def check_facts(check: pb.DriftCheck) -> Text:
    """Say what came out, and of what, in a few lines."""
    status = status_word(check.status)
    begin, end = time_of(check.from_time), time_of(check.to_time)
    gate = str(enum_word(pb.DriftGate.DESCRIPTOR, check.gate) or "").replace("_", " ")
    alarms = f"false alarms in {'at most ' if check.gate == pb.DRIFT_GATE_PSI_CALIBRATED else 'about '}"
    lines = Text.assemble((f"{check.model} {check.version}  ", "bold"), styled(status, STATUS_STYLES), "\n")
    lines.append(f"{printable(check.summary)}\n")
    lines.append(
        f"{say_count(check.live_count, 'row')}, {say_time(begin)} to {say_time(end)}; by {gate}, α {check.alpha:.3g}: "
        f"{alarms}{100 * check.false_alarm_rate:.3g}% of such checks",
        style="dim",
    )
    return lines


def note_window(
    output: Output,
    check: pb.DriftCheck | quality_pb2.QualityCheck,
    *,
    since: datetime | None,
    until: datetime | None,
    length: timedelta | None,
) -> None:
    """Say beside a check what differs from what was asked for: a wider window, or rows that still wait."""
    begin, end = time_of(check.from_time), time_of(check.to_time)
    if length is not None:
        since = (until or datetime.now(UTC)) - length
    if begin and end and ((since and begin < since) or (until and end > until)):
        output.note(f"the window was widened to whole 5 minutes: {say_time(begin)} to {say_time(end)}")
    if check.uncounted_bucket_count:
        still = say_count(check.uncounted_bucket_count, "bucket")
        output.note(f"{still} of 5 minutes still to be counted: ask again in a minute for what came in them")


def comparison(output: Output, result: pb.DriftResult, *, said: str = "") -> RenderableType:
    """Draw both distributions of a feature side by side, below what happened to it, unless that was `said` above."""
    heading = Text.assemble((printable(result.feature), "bold"), (f"  {_what(result)}  ", "dim"))
    heading.append_text(styled(status_word(result.status), STATUS_STYLES))
    large = ", large" if result.type in _BY_PSI and result.effect >= LARGE_PSI else ""
    heading.append(f"  effect {result.effect:.3f}{large}", style="bold" if large else "")
    parts: list[RenderableType] = [heading]
    if result.summary and result.summary not in said:
        parts.append(Text(printable(result.summary)))
    counts = f"{say_count(result.reference_count, 'row')} against {result.live_count:,}"
    parts.append(Text(f"floor {result.effect_floor:g}{_p_words(result)}; {counts}", style="dim"))
    if result.bins:
        parts.append(_bars(output, result))
    if output.stdout.is_terminal:  # piped, a margin would pad every line to the longest
        return Group(parts[0], Padding(Group(*parts[1:]), (0, 0, 0, 2), expand=False))
    return Group(*parts)


def results_table(output: Output, results: Sequence[pb.DriftResult]) -> RenderableType:
    """Lay out comparisons, one a row, with every statistic that is known."""
    rows: Sequence[tuple[str | Text, ...]] = [
        (
            result.feature,
            _what(result),
            styled(status_word(result.status), STATUS_STYLES),
            f"{result.effect:.3f}",
            _p(result.adjusted_p_value) if result.HasField("adjusted_p_value") else "",
            *(_number(result, name) for name in ("psi", "ks_statistic", "chi_square", "wasserstein", "jensen_shannon")),
            f"{result.live_count:,}",
        )
        for result in results
    ]
    return output.table(_RESULT_COLUMNS, rows, empty="nothing could be compared")


def _what(result: pb.DriftResult) -> str:
    drift = str(enum_word(pb.DriftType.DESCRIPTOR, result.type) or "")
    kind = kind_word(result.kind)
    return f"{drift}, {kind}" if kind and kind != drift else drift


def _p_words(result: pb.DriftResult) -> str:
    if not result.HasField("p_value"):
        return ""
    adjusted = f", adjusted {_p(result.adjusted_p_value)}" if result.HasField("adjusted_p_value") else ""
    return f", p {_p(result.p_value)}{adjusted}"


def _p(value: float) -> str:
    return "< 0.0001" if value < 0.0001 else f"{value:.4f}"


def _number(result: pb.DriftResult, name: str) -> str:
    if not result.HasField(name):  # type: ignore[arg-type]  # the names above are its optional fields
        return ""
    return f"{getattr(result, name):.3g}"


def _bars(output: Output, result: pb.DriftResult) -> RenderableType:
    bins = [each for each in result.bins if each.reference_share or each.live_share]
    left = len(bins) - MAX_BARS
    if left > 1:  # the bins that moved most, in their own order
        moved = sorted(bins, key=lambda each: -abs(each.live_share - each.reference_share))[:MAX_BARS]
        bins = [each for each in bins if any(each is kept for kept in moved)]
    if not output.stdout.is_terminal:
        columns = (Column("bin"), Column("reference", "right"), Column("live", "right"), Column("live rows", "right"))
        rows = [
            (each.label, say_share(each.reference_share), say_share(each.live_share), f"{each.live_count:,}")
            for each in bins
        ]
        return output.table(columns, rows, empty="")
    most = max(max(each.reference_share, each.live_share) for each in bins) if bins else 1.0
    labels = min(_LABEL_CELLS, max((Text(each.label).cell_len for each in bins), default=1))
    cells = max(4, min(MAX_BAR_CELLS, (output.stdout.width - labels - 2 * _SHARE_CELLS - 12) // 2))
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True, width=labels, overflow="ellipsis", style="dim")
    for _ in range(2):
        grid.add_column(no_wrap=True, justify="right", width=_SHARE_CELLS)
        grid.add_column(no_wrap=True, width=cells)
    live_style = "magenta" if result.status == pb.DRIFT_STATUS_DRIFTED else "cyan"
    grid.add_row("", "", Text("reference", style="bold"), "", Text("live", style="bold"))
    for each in bins:
        grid.add_row(
            printable(each.label),
            f"{each.reference_share:.1%}",
            Text(bar(each.reference_share / most, cells), style="cyan"),
            f"{each.live_share:.1%}",
            Text(bar(each.live_share / most, cells), style=live_style),
        )
    if left > 1:
        grid.add_row(Text(f"and {left} more", style="dim"), "", "", "", "")
    return grid
