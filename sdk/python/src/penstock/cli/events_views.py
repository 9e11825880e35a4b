"""Predictions as a table, and as lines that go on as they come."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from penstock.api.monitoring.v1 import monitoring_pb2 as pb
from penstock.cli.documents import document_of
from penstock.cli.formats import say_ms, say_number, say_share
from penstock.cli.model_views import time_of
from penstock.cli.output import Column, Output, no_room, printable

_COLUMNS = (
    Column("time"),
    Column("model", give="cut"),
    Column("version", give="cut", optional=True),
    Column("outcome", give="cut", least_width=16),
    Column("conf.", "right", optional=True),
    Column("latency", "right", optional=True),
    Column("feedback", optional=True),
    Column("user", give="cut", optional=True),
    Column("inference id"),
)
_TRACE = Column("trace", give="cut", optional=True)
_REJECTED = (
    Column("came"),
    Column("model", give="cut"),
    Column("version", give="cut", optional=True),
    Column("reason"),
    Column("message", give="wrap", least_width=24),
    Column("sent by", give="cut", optional=True),
    Column("inference id", give="cut", optional=True),
)
SHOWN_OUTCOMES = 5
POLL_S = 1.0
OVERLAP = timedelta(seconds=60)
"""So far back each look goes: events arrive a little after their time, and not in its order."""
AT_ONCE = 1_000
_LINE_TITLES = ("time", "model", "outcome", "feedback", "latency", "inference id")
_LINE_WIDTHS = (19, 24, 28, 8, 14, 36)
_NARROW_WIDTHS = (8, 16, 16, 8, 12, 36)
_NARROWEST_WIDTHS = (8, 14, 12, 0, 0, 36)
"""Of 0 is what there is no room for on 80 columns."""


def events_table(output: Output, found: Sequence[pb.Inference]) -> RenderableType:
    """Lay out predictions, one a row."""
    traced = any(inference.event.trace_id for inference in found)
    columns = (*_COLUMNS, _TRACE) if traced else _COLUMNS
    rows = [_row(output, inference, traced=traced) for inference in found]
    return output.table(columns, rows, empty="no predictions match")


def rejected_table(output: Output, found: Sequence[pb.QuarantinedEvent]) -> RenderableType:
    """Lay out refused events, one a row."""
    rows = [
        (
            output.time(time_of(each.received_time)),
            each.model,
            each.version,
            Text(each.reason, style="bold red"),
            each.message,
            each.sent_by,
            each.inference_id,
        )
        for each in found
    ]
    return output.table(_REJECTED, rows, empty="none was refused, or none is kept any more")


def new_ones(
    fetch: Callable[[datetime, int], Sequence[pb.Inference]], *, since: timedelta, shown_before: int
) -> Iterator[pb.Inference]:
    """Give the newest that are there, and from then on, without end, each that comes, once.

    Args:
        fetch: gives those from a time on, the newest first, so many at most.
        since: how far back the first look goes.
        shown_before: how many of those that are there already.
    """
    begin = datetime.now(UTC) - since
    found = fetch(begin, max(AT_ONCE, shown_before))
    yield from reversed(found[:shown_before])
    while True:
        # Only what the next look can meet again need be remembered.
        seen = {each.event.inference_id for each in found}
        # By the times of what came, as the clock here may differ; it bounds only what is dated ahead.
        last = [min(when, datetime.now(UTC)) for each in found[:1] if (when := time_of(each.time)) is not None]
        begin = max([begin, *(when - OVERLAP for when in last)])
        time.sleep(POLL_S)
        found = fetch(begin, AT_ONCE)
        yield from (each for each in reversed(found) if each.event.inference_id not in seen)


class EventLines:
    """Predictions as lines of the same columns, so that they can be printed one by one."""

    def __init__(self, output: Output) -> None:
        self._output = output
        room = output.stdout.width
        self._widths = next(
            (each for each in (_LINE_WIDTHS, _NARROW_WIDTHS) if sum(each) + 2 * (len(each) - 1) <= room),
            _NARROWEST_WIDTHS,
        )
        self._begun = False

    def of(self, inference: pb.Inference) -> Iterator[Text]:
        """Write one, below the titles where it is the first."""
        if not self._begun:
            self._begun = True
            hidden = [title for title, width in zip(_LINE_TITLES, self._widths, strict=True) if not width]
            if hidden:
                yield no_room(hidden)
            yield self._line(_LINE_TITLES, style="bold")
        event = inference.event
        outcome = Text(event.error_code, style="bold red") if event.error_code else Text(_outcomes(inference))
        name = f"{event.model} {event.version}".rstrip()
        when = self._output.time(time_of(inference.time))
        yield self._line((when, name, outcome, _verdict(inference), say_ms(event.latency_ms), event.inference_id))

    def _line(self, cells: Sequence[str | Text], style: str = "") -> Text:
        line = Text(style=style)
        for title, width, cell in zip(_LINE_TITLES, self._widths, cells, strict=True):
            if not width:
                continue
            text = Text(printable(cell)) if isinstance(cell, str) else cell.copy()
            if title == _LINE_TITLES[-1]:
                return line.append_text(text)
            text.truncate(width, overflow="ellipsis", pad=True)
            if title == "latency":
                text = Text(text.plain.strip().rjust(width))
            line.append_text(text).append("  ")
        return line


def _row(output: Output, inference: pb.Inference, *, traced: bool) -> tuple[str | Text, ...]:
    event = inference.event
    return (
        output.time(time_of(inference.time)),
        event.model,
        event.version,
        Text(event.error_code, style="bold red") if event.error_code else _outcomes(inference),
        say_share(event.confidence) if event.HasField("confidence") else "",
        say_ms(event.latency_ms),
        _verdict(inference),
        event.user_id,
        event.inference_id,
        *((event.trace_id,) if traced else ()),
    )


def _outcomes(inference: pb.Inference) -> str:
    outcomes: list[Any] = [document_of(outcome) for outcome in inference.outcomes[:SHOWN_OUTCOMES]]
    more = ", …" if len(inference.outcomes) > SHOWN_OUTCOMES else ""
    return ", ".join(map(say_number, outcomes)) + more


def _verdict(inference: pb.Inference) -> Text:
    judged = [feedback.correct for feedback in inference.feedback if feedback.HasField("correct")]
    if not judged:
        return Text("not judged" if inference.feedback else "", style="dim")
    if len(judged) == 1:
        return Text("right", style="green") if judged[0] else Text("wrong", style="red")
    right = sum(judged)
    return Text(f"{right} of {len(judged)} right", style="green" if right == len(judged) else "yellow")
