"""Exporting events: read in slices, written as they come, so that neither side ever holds them all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, time, timedelta
from uuid import UUID

from services.monitoring.export.files import file_chunks
from services.monitoring.export.models import DEFAULT_WINDOW, Column, EventsWanted, ExportedEvent, Row
from services.monitoring.export.payloads import payload_json, to_json
from services.monitoring.export.store import ExportStore
from services.monitoring.ids import first_id, time_of
from services.monitoring.models import FUTURE_TOLERANCE, Feedback, Retention, Window

Clock = Callable[[], datetime]
STEP = timedelta(hours=1)
"""One statement looks at so much of the window, however rare the version that it looks for."""
_EARLIEST = datetime.min.replace(tzinfo=UTC) + DEFAULT_WINDOW

COLUMNS = (
    Column("inference_id", "text"),
    Column("time", "time"),
    Column("model", "text"),
    Column("version", "text"),
    Column("framework", "text"),
    Column("request_id", "text"),
    Column("user_id", "text"),
    Column("session_id", "text"),
    Column("trace_id", "text"),
    Column("row_count", "whole"),
    Column("latency_ms", "number"),
    Column("confidence", "number"),
    Column("error_code", "text"),
    Column("outcomes", "text"),
    Column("feedback", "text"),
    Column("judged_count", "whole"),
    Column("correct_count", "whole"),
)
PAYLOAD_COLUMNS = (Column("features", "text"), Column("prediction", "text"))


class EventExports:
    """Writes events to files."""

    def __init__(self, store: ExportStore, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._retention = retention
        self._clock = clock

    def export(self, wanted: EventsWanted) -> Iterator[bytes]:
        """Give the bytes of a file of events, the oldest first; what is past its retention is not in it.

        Raises:
            InvalidArgument: the window ends before it begins (INVALID_WINDOW).
        """
        now = self._clock()
        end = max(wanted.to_time or now, _EARLIEST)  # there is no day before the first
        window = Window.of(wanted.from_time or end - DEFAULT_WINDOW, wanted.to_time, now)
        columns = (*COLUMNS, *PAYLOAD_COLUMNS) if wanted.payloads else COLUMNS
        slices = (
            [_row(one, payloads=wanted.payloads) for one in events] for events in self._slices(wanted, window, now)
        )
        return file_chunks(slices, columns, wanted.format)

    def _slices(self, wanted: EventsWanted, window: Window, now: datetime) -> Iterator[Sequence[ExportedEvent]]:
        kept_since = datetime.combine(self._retention.first_day(now), time(), UTC)
        begin = max(window.from_time, kept_since)
        end = min(window.to_time, now + FUTURE_TOLERANCE)
        while begin < end:
            step_end = min(begin + STEP, end)
            yield from self._of_step(wanted, begin, step_end)
            begin = step_end

    def _of_step(self, wanted: EventsWanted, begin: datetime, end: datetime) -> Iterator[Sequence[ExportedEvent]]:
        after, end_id = UUID(int=first_id(begin).int - 1), first_id(end)
        while events := self._store.read(
            wanted.model, wanted.version, after=after, end_id=end_id, payloads=wanted.payloads
        ):
            yield events
            after = events[-1].event.inference_id


def _row(one: ExportedEvent, *, payloads: bool) -> Row:
    event = one.event
    judged = [entry for entry in one.feedback if entry.correct is not None]
    cells = (
        str(event.inference_id),
        time_of(event.inference_id),
        event.model,
        event.version,
        event.framework,
        event.request_id,
        event.user_id,
        event.session_id,
        event.trace_id,
        event.row_count,
        event.latency_ms,
        event.confidence,
        event.error_code,
        None if event.outcomes is None else _outcomes(event.outcomes),
        to_json([_entry(entry) for entry in one.feedback]) if one.feedback else None,
        len(judged),
        sum(entry.correct is True for entry in judged),
    )
    if not payloads:
        return cells
    documents = (None if data is None else payload_json(data) for data in (event.features, event.prediction))
    return (*cells, *documents)


def _outcomes(outcomes: Sequence[str | None]) -> str:
    """Join what are JSON literals already."""
    return f"[{','.join('null' if literal is None else literal for literal in outcomes)}]"


def _entry(entry: Feedback) -> dict[str, object]:
    return {
        "row": entry.row,
        "actual_outcome": entry.actual_outcome,
        "correct": entry.correct,
        "feedback_time": entry.feedback_time.astimezone(UTC).isoformat(),
        "recorded_by": entry.recorded_by,
    }
