"""Rows of CSV and JSON with types: read twice, since only all values together say what a column is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from services.trainer.datasets.kinds import ColumnType, DatasetFormat
from services.trainer.datasets.rows.arrow import ARROW, schema_of
from services.trainer.datasets.rows.kinds import Kind, Seen, check_declared, kinds_of_json, kinds_of_texts, values_of
from services.trainer.datasets.rows.limits import (
    BATCH_BYTES,
    BATCH_ROWS,
    RowLimits,
    checked_names,
    too_many_columns,
    too_many_rows,
)
from services.trainer.datasets.rows.texts import csv_rows, json_rows

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Reading:
    """A way of reading the file from its beginning."""

    names: Sequence[str]
    rows: Callable[[], Iterator[Row]]
    kinds_of: Callable[[Sequence[Any]], Sequence[Kind | None]]
    texts: bool


def text_batches(
    data: memoryview,
    form: DatasetFormat,
    declared: Mapping[str, ColumnType],
    limits: RowLimits,
    delimiter: str = "",
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Give the columns of a file of CSV or JSON, and its rows in their order.

    Raises:
        InvalidArgument: MALFORMED_ROWS, TOO_MANY, UNKNOWN_COLUMN (a declared one is not there).
        TooLarge: too many rows.
    """
    reading = _csv(data, limits, delimiter) if form is DatasetFormat.CSV else _json(data)
    seen: dict[str, Seen] = {name: Seen() for name in reading.names}
    first_row = 1
    for block in _blocks(reading.rows(), limits):
        for row in block:
            if not row.keys() <= seen.keys():
                seen |= {name: Seen() for name in row if name not in seen}
                if len(seen) > limits.max_columns:
                    raise too_many_columns(len(seen), limits)
        for name, column in seen.items():
            values = [row.get(name) for row in block]
            column.add(reading.kinds_of(values), values, first_row)
        first_row += len(block)
    names = checked_names(list(seen), limits)
    check_declared(declared, names)
    types = {name: seen[name].type_of(name, declared.get(name), texts=reading.texts) for name in names}
    return schema_of(types), _typed(reading, types, limits)


def _typed(reading: _Reading, types: Mapping[str, ColumnType], limits: RowLimits) -> Iterator[pa.RecordBatch]:
    for block in _blocks(reading.rows(), limits):
        columns = [
            pa.array(values_of([row.get(name) for row in block], kind), ARROW[kind]) for name, kind in types.items()
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema_of(types))


def _csv(data: memoryview, limits: RowLimits, delimiter: str) -> _Reading:
    names, _ = csv_rows(data, limits, delimiter)

    def rows() -> Iterator[Row]:
        for cells in csv_rows(data, limits, delimiter)[1]:
            yield dict(zip(names, cells, strict=True))

    return _Reading(names, rows, kinds_of_texts, texts=True)


def _json(data: memoryview) -> _Reading:
    return _Reading((), lambda: json_rows(data), kinds_of_json, texts=False)


def _blocks(rows: Iterable[Row], limits: RowLimits) -> Iterator[list[Row]]:
    """Put rows together, up to a number of them and of the bytes of their texts."""
    block: list[Row] = []
    size_bytes = 0
    for number, row in enumerate(rows, 1):
        block.append(row)
        if number > limits.max_rows:
            raise too_many_rows(limits)
        size_bytes += sum(len(value) for value in row.values() if isinstance(value, str | list))
        if len(block) >= BATCH_ROWS or size_bytes >= BATCH_BYTES:
            yield block
            block, size_bytes = [], 0
    if block:
        yield block
