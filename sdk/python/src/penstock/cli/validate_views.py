"""Validations as tables, facts and a bar that lives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack

from rich import progress as bars
from rich.console import RenderableType
from rich.text import Text

from penstock.api.trainer.v1 import validations_pb2 as pb
from penstock.cli.formats import say_bytes, say_count, say_duration, say_number, say_time
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, lines, printable, styled
from penstock.cli.wording import at_the_command_line

_METRICS = (
    Column("metric", give="cut", least_width=16),
    Column("candidate", "right"),
    Column("live", "right"),
    Column("difference", "right"),
    Column("95 % interval", "right", optional=True),
    Column("criterion", give="cut"),
    Column("met?"),
)
_HISTORY = (
    Column("validation", give="id"),
    Column("version", give="cut"),
    Column("verdict"),
    Column("against", give="cut", optional=True),
    Column("rows", "right", optional=True),
    Column("dataset", give="cut", optional=True),
    Column("when"),
    Column("by", give="cut", optional=True),
)
_STYLES = {
    "passed": "green",
    "not passed": "bold red",
    "failed": "bold red",
    "queued": "yellow",
    "running": "cyan",
    "cancelled": "dim",
}
_OF_ONE_CLASS = re.compile(r"(?:precision|recall|f1)\[.*\]")
_DERIVED = re.compile(r"(?P<metric>.+)_vs_live(?P<end>_low|_high|)")
_ENDS = {"": "difference", "_low": "low end", "_high": "high end"}


def verdict_of(validation: pb.Validation) -> str:
    """Say how a validation stands, and of one that is done whether the version passed."""
    if validation.state == pb.VALIDATION_STATE_COMPLETED:
        return "passed" if validation.passed else "not passed"
    return pb.ValidationState.Name(validation.state).removeprefix("VALIDATION_STATE_").lower()


def metrics_table(output: Output, validation: pb.Validation) -> RenderableType:
    """Lay out what was measured beside the live version's and the criteria.

    Of a classifier's single classes only what a criterion bounds is shown; `--json` has all.
    """
    bounds: dict[str, list[pb.ValidationCriterion]] = {}
    measured = {metric.name: metric for metric in validation.metrics}
    for criterion in validation.criteria:
        bounds.setdefault(_row_of(criterion.metric, measured), []).append(criterion)
    names = sorted({*measured, *bounds}, key=lambda name: (name not in bounds, name))
    rows = [
        row
        for name in names
        if name in bounds or not _OF_ONE_CLASS.fullmatch(name)
        for row in _rows(name, measured.get(name), bounds.get(name, []))
    ]
    return output.table(_METRICS, rows, empty="nothing was measured")


def validation_facts(output: Output, validation: pb.Validation) -> RenderableType:
    """Lay out what there is to know of a validation, save what was measured."""
    title = Text.assemble(
        (printable(f"{validation.model} {validation.version}"), "bold"), "  ", styled(verdict_of(validation), _STYLES)
    )
    failed = validation.state == pb.VALIDATION_STATE_FAILED
    why = f"{at_the_command_line(validation.message, validation.reason)} [{validation.reason}]" if failed else ""
    took = validation.end_time.ToNanoseconds() - validation.start_time.ToNanoseconds()
    facts = [
        ("validation", validation.id),
        ("against", validation.live_version or "nothing"),
        ("dataset", f"{validation.dataset or validation.data_source}, {_rows_word(validation)}"),
        ("error", why),
        ("evaluation", str(validation.evaluation_id or "")),
        ("training run", validation.training_run_id),
        ("note", validation.note),
        ("took", say_duration(took / 1e9) if validation.HasField("end_time") and took > 0 else ""),
        ("created", f"{say_time(time_of(validation.create_time))} by {validation.created_by}"),
    ]
    return output.facts(title, facts)


def sentences(validation: pb.Validation) -> Iterator[RenderableType]:
    """Say what is missing, and what was left out."""
    if validation.shortfalls:
        yield Text("It falls short:", style="bold red")
        yield lines(f"  {at_the_command_line(each, '')}" for each in validation.shortfalls)
    if validation.notes:
        yield lines(f"note: {at_the_command_line(each, '')}" for each in validation.notes)


def history_table(output: Output, validations: Sequence[pb.Validation]) -> RenderableType:
    """Lay out validations, one a row."""
    rows = [
        (
            each.id,
            each.version,
            styled(verdict_of(each), _STYLES),
            each.live_version,
            f"{each.row_count:,}" if each.row_count else "",
            each.dataset or each.data_source,
            output.time(time_of(each.create_time)),
            f"run {each.training_run_id[:8]}" if each.training_run_id else each.created_by,
        )
        for each in validations
    ]
    return output.table(_HISTORY, rows, empty="no validation yet: `penstock validate MODEL VERSION --dataset NAME`")


def follow(output: Output, watched: Iterable[pb.Validation]) -> pb.Validation:
    """Show a validation while it goes on, by a bar of rows, or by lines; gives how it ended."""
    validation = pb.Validation()
    bar = bars.Progress(
        bars.TextColumn("{task.description}", markup=False),
        bars.BarColumn(bar_width=None),
        bars.MofNCompleteColumn(),
        console=output.stderr,
        disable=output.as_json or not output.stderr.is_terminal,
        expand=True,
    )
    with ExitStack() as stack:
        if not bar.disable:
            stack.enter_context(bar)
        task = bar.add_task("", total=None)
        said = ""
        for validation in watched:
            words = validation.message or verdict_of(validation)
            if bar.disable and words != said:
                said = words
                output.note(printable(words))
            bar.update(
                task,
                description=printable(words),
                completed=validation.done_rows,
                total=validation.total_rows or None,
            )
    return validation


def _rows(
    name: str, metric: pb.ValidationMetric | None, criteria: Sequence[pb.ValidationCriterion]
) -> Iterator[tuple[str | Text, ...]]:
    interval = ""
    if metric is not None and metric.HasField("difference_low"):
        interval = f"{_signed(metric.difference_low)} … {_signed(metric.difference_high)}"
    measured: tuple[str, ...] = (
        _number(name, metric.value) if metric is not None else "not measured",
        _number(name, metric.live_value) if metric is not None and metric.HasField("live_value") else "",
        _signed(metric.difference) if metric is not None and metric.HasField("difference") else "",
        interval,
    )
    yield (name, *measured, *_bound(name, criteria[0] if criteria else None))
    for criterion in criteria[1:]:
        yield ("", "", "", "", "", *_bound(name, criterion))


def _bound(name: str, criterion: pb.ValidationCriterion | None) -> tuple[str, str | Text]:
    if criterion is None:
        return "", ""
    derived = _DERIVED.fullmatch(criterion.metric)
    what = f"{_ENDS[derived['end']]} " if derived and criterion.metric != name else ""
    at_most = criterion.WhichOneof("bound") == "at_most"
    threshold = criterion.at_most if at_most else criterion.at_least
    word = f"{what}{'≤' if at_most else '≥'} {_number(name, threshold)}"
    return word, Text("yes", style="green") if criterion.met else Text("no", style="bold red")


def _row_of(metric: str, measured: Iterable[str]) -> str:
    """Name the row of a criterion's metric: a difference stands in the row of what differs."""
    derived = _DERIVED.fullmatch(metric)
    return derived["metric"] if derived and metric not in measured else metric


def _rows_word(validation: pb.Validation) -> str:
    which = "all rows" if validation.rows == pb.VALIDATION_ROWS_ALL else "held-out rows"
    return f"{say_count(validation.row_count, 'row')} ({which})" if validation.row_count else which


def _number(name: str, value: float) -> str:
    if name == "size_bytes":
        return say_bytes(int(value))
    return f"{say_number(round(value, 4))} ms" if name.endswith("_ms") else say_number(round(value, 4))


def _signed(value: float) -> str:
    return f"{round(value, 4):+g}"
