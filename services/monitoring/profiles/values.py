"""Payloads of many events as columns: what was captured of live traffic, decoded together.

Tensors of one name and shape are joined and read as one array, so that an event costs little more than its parsing.
Nothing that a payload may hold raises: what can't be read is nested, what has no name that is wanted is only counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from uuid import UUID

import numpy as np
from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Struct, Value

from penstock.api.monitoring.v1.monitoring_pb2 import Payload
from services.monitoring.outcomes import value_of
from services.monitoring.profiles.frames import MAX_DIMENSIONS, Column, ColumnBuilder, Frame, Rows, shortened
from services.monitoring.profiles.layouts import Layout
from services.monitoring.profiles.tensors import MAX_EVENT_ROWS, Collected, collect, put_tensors

MAX_UNKNOWN = 100
"""Unknown names that are counted by name; an attacker may send any number of them."""
MAX_EVENT_CELLS = 200_000
"""Rows times names of one event's named values: a payload of 1 MiB has room for half as many of its own."""
NESTED = object()
"""A value that is neither a number, a boolean, a text nor a list of numbers."""


class LiveRow(NamedTuple):
    """What is read of an event to count it."""

    inference_id: UUID
    user_id: str
    error_code: str
    row_count: int
    features: bytes
    prediction: bytes | None
    outcomes: Sequence[str | None] | None


@dataclass(frozen=True, slots=True)
class Decoded:
    """Rows of several events: `events` [N] says which event each row is of. `unknown`: rows by unknown name."""

    frame: Frame
    events: Rows
    unknown: Counter[str]


class _Sheet:
    """Columns in the making, by name; those that are not wanted are counted."""

    def __init__(self, row_count: int, layout: Layout, *, predictions: bool) -> None:
        self.row_count = row_count
        self.unknown: Counter[str] = Counter()
        self._layout = layout
        self._predictions = predictions
        self._builders: dict[str, ColumnBuilder] = {}

    def find(self, name: str, rows: int) -> ColumnBuilder | None:
        """Give the column of a name; None, and `rows` counted, where nobody wants it."""
        builder = self._builders.get(name)
        if builder is None:
            if not self._layout.wants(name, len(self._builders), prediction=self._predictions):
                self._count(shortened(name), rows)
                return None
            dimensions = self._layout.embeddings.get(name, 0)
            builder = self._builders[name] = ColumnBuilder(self.row_count, dimensions=dimensions)
        return builder

    def build(self) -> Frame:
        columns: dict[str, Column] = {name: builder.build() for name, builder in self._builders.items()}
        return Frame(self.row_count, columns)

    def _count(self, name: str, rows: int) -> None:
        if not self._predictions and (name in self.unknown or len(self.unknown) < MAX_UNKNOWN):
            self.unknown[name] += rows


def decode_features(events: Sequence[LiveRow], layout: Layout) -> Decoded:
    """Decode what went into the model."""
    return _decode([(event.features, event.row_count) for event in events], layout, predictions=False)


def decode_predictions(events: Sequence[LiveRow], layout: Layout) -> Decoded:
    """Decode what came out of it. Rows of events that failed, or whose prediction was not captured, are left out."""
    numbers = [n for n, event in enumerate(events) if event.prediction is not None and not event.error_code]
    some = [events[number] for number in numbers]
    payloads = [(event.prediction or b"", event.row_count) for event in some]
    decoded = _decode(payloads, layout, predictions=True, outcomes=[event.outcomes for event in some])
    return Decoded(decoded.frame, np.array(numbers, np.intp)[decoded.events], decoded.unknown)


def _decode(
    payloads: Sequence[tuple[bytes, int]],
    layout: Layout,
    *,
    predictions: bool,
    outcomes: Sequence[Sequence[str | None] | None] = (),
) -> Decoded:
    messages = [_parsed(payload) for payload, _ in payloads]
    counts = [_rows_of(message, said) for message, (_, said) in zip(messages, payloads, strict=True)]
    starts = np.concatenate(([0], np.cumsum(counts, dtype=np.intp)))
    sheet = _Sheet(int(starts[-1]), layout, predictions=predictions)
    cells: dict[str, tuple[list[int], list[object]]] = {}
    tensors: Collected = {}
    for number, (message, count, start) in enumerate(zip(messages, counts, starts.tolist(), strict=False)):
        if outcomes and layout.by_outcome(message) and (said := outcomes[number]) is not None:
            _add_outcomes(cells, start, said[:count])
        elif message.WhichOneof("kind") == "fields":
            _add_fields(cells, message.fields, start, count, _prefix(message, predictions=predictions))
        else:
            collect(tensors, message.tensors.tensors, start, count, predictions=predictions)
    for name, (rows, values) in sorted(cells.items()):  # a map has no order of its own
        builder = sheet.find(name, len(rows))
        if builder is not None:
            builder.put_values(np.array(rows, np.intp), values)
    put_tensors(tensors, layout, sheet.find)
    events = np.repeat(np.arange(len(messages), dtype=np.intp), counts)
    return Decoded(sheet.build(), events, sheet.unknown)


def _parsed(payload: bytes) -> Payload:
    try:
        return Payload.FromString(payload)
    except DecodeError:  # written by nobody we know; its rows have nothing
        return Payload()


def _rows_of(message: Payload, said: int) -> int:
    """Say how many rows a payload has: as many as its event says, if anything in it has as many; else one.

    One also where single values would be repeated more often than MAX_EVENT_CELLS allows.
    """
    if said <= 1:
        return 1
    if message.WhichOneof("kind") == "fields":
        values = message.fields.fields.values()
        if len(values) * min(said, MAX_EVENT_ROWS) > MAX_EVENT_CELLS:
            return 1
        carried = any(len(value.list_value.values) == said for value in values if value.HasField("list_value"))
    else:
        carried = any(tensor.shape and tensor.shape[0] == said for tensor in message.tensors.tensors)
    return min(said, MAX_EVENT_ROWS) if carried else 1


def _prefix(message: Payload, *, predictions: bool) -> str | None:
    """Say what goes before the names of outputs; "" names one that is alone."""
    if not predictions:
        return None
    return "" if len(message.fields.fields) == 1 else "prediction."


def _add_fields(
    cells: dict[str, tuple[list[int], list[object]]], fields: Struct, start: int, count: int, prefix: str | None
) -> None:
    for name, value in fields.fields.items():
        if prefix is not None:
            name = "prediction" if prefix == "" else prefix + name
        kind = value.WhichOneof("kind")
        if kind == "null_value" or kind is None:
            continue
        found = cells.get(name)
        if found is None:
            found = cells[name] = ([], [])
        rows, values = found
        if count == 1:
            rows.append(start)
            values.append(getattr(value, kind) if kind not in _DEEP else _one(value))
        else:
            rows.extend(range(start, start + count))
            values.extend(_many(value, count))


_DEEP = frozenset({"list_value", "struct_value"})
_NUMBERS = frozenset({"number_value", "null_value"})


def _one(value: Value) -> object:
    """Read a list or an object that one row has; a list of one value is that value."""
    if value.HasField("struct_value"):
        return NESTED
    items = value.list_value.values
    if len(items) == 1:
        return _scalar(items[0])
    return _vector(items)


def _many(value: Value, count: int) -> Iterator[object]:
    """Read a value for each row: of a list its own, of anything else the same."""
    if not value.HasField("list_value"):
        yield from [_scalar(value)] * count
        return
    items = value.list_value.values
    if len(items) < count:
        yield from [NESTED] * count
        return
    for item in items[:count]:
        yield _vector(item.list_value.values) if item.HasField("list_value") else _scalar(item)


def _scalar(value: Value) -> object:
    kind = value.WhichOneof("kind")
    if kind is None or kind == "null_value":
        return None
    return NESTED if kind in _DEEP else getattr(value, kind)


def _vector(items: Sequence[Value]) -> object:
    if not 0 < len(items) <= MAX_DIMENSIONS:
        return NESTED
    if any(item.WhichOneof("kind") not in _NUMBERS for item in items):
        return NESTED
    return [item.number_value if item.HasField("number_value") else None for item in items]


def _add_outcomes(cells: dict[str, tuple[list[int], list[object]]], start: int, outcomes: Iterable[str | None]) -> None:
    rows, values = cells.setdefault("prediction", ([], []))
    for row, literal in enumerate(outcomes, start):
        rows.append(row)
        values.append(None if literal is None else value_of(literal))
