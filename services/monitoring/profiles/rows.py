"""Files of rows from people nobody vouches for, read as frames within a bound. What is malformed is refused whole.

A profile is frozen and what live data is held to: a row that can't be read is no detail there, and its line is named.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count, zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np

from services.common.errors import InvalidArgument
from services.monitoring.profiles.frames import ColumnBuilder, Frame, shortened
from services.monitoring.profiles.parquet import parquet_frames
from services.monitoring.profiles.reference import MAX_FEATURES, Columns, too_many_features
from services.monitoring.profiles.sampling import RowSample
from services.monitoring.profiles.sources import RowFormat

MAX_LINE_BYTES = 1024 * 1024
MAX_COLUMNS = 10_000
_BATCH_ROWS = 4_096
_BATCH_BYTES = 8 * 1024 * 1024
Record = Mapping[str, object]


def read_rows(path: Path, row_format: RowFormat, columns: Columns) -> Frame:
    """Read a file's rows, or a uniform sample where they are too many.

    Raises:
        InvalidArgument: MALFORMED_FILE, TOO_MANY_FEATURES, TOO_LARGE.
    """
    readers: Mapping[RowFormat, Callable[[], Iterator[Frame]]] = {
        RowFormat.JSONL: lambda: _frames(_jsonl(path), columns),
        RowFormat.CSV: lambda: _frames(_csv(path), columns),
        RowFormat.PARQUET: lambda: parquet_frames(path, columns),
    }
    sample, names = RowSample(), set[str]()
    for frame in readers[row_format]():
        names.update(frame.columns)
        if len(names) > MAX_FEATURES + len(columns.named):
            raise too_many_features()
        sample.add(frame)
    return sample.frame()


def malformed(sentence: str) -> InvalidArgument:
    """Say why a file can't be read."""
    return InvalidArgument(sentence, reason="MALFORMED_FILE")


def _frames(records: Iterator[tuple[int, Record]], columns: Columns) -> Iterator[Frame]:
    """Put records together, up to a number of them and a size."""
    cells: dict[str, tuple[list[int], list[object]]] = {}
    rows = size_bytes = 0
    for size, record in records:
        for name, value in record.items():
            if name in columns.ignored:
                continue
            found = cells.get(name)
            if found is None:
                if len(cells) > MAX_COLUMNS:
                    raise too_many_features()
                found = cells[name] = ([], [])
            found[0].append(rows)
            found[1].append(value)
        rows, size_bytes = rows + 1, size_bytes + size
        if rows >= _BATCH_ROWS or size_bytes >= _BATCH_BYTES:
            yield _frame(cells, rows)
            cells, rows, size_bytes = {}, 0, 0
    if rows:
        yield _frame(cells, rows)


def _frame(cells: Mapping[str, tuple[list[int], list[object]]], row_count: int) -> Frame:
    built = {}
    for name, (rows, values) in cells.items():
        builder = ColumnBuilder(row_count)
        builder.put_values(np.array(rows, np.intp), values)
        built[shortened(name)] = builder.build()
    return Frame(row_count, built)


def _jsonl(path: Path) -> Iterator[tuple[int, Record]]:
    with path.open("rb") as file:
        for number, line in zip(count(1), _lines(file), strict=False):
            if line.strip():
                yield len(line), _object(number, line)


def _object(number: int, line: bytes) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise malformed(f"line {number} is no JSON; write a JSON object on each line") from error
    if not isinstance(record, dict):
        raise malformed(f"line {number} is a {type(record).__name__}; write a JSON object on each line")
    return record


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    for number in count(1):
        line = file.readline(MAX_LINE_BYTES + 1)
        if not line:
            return
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            raise malformed(f"line {number} is longer than the {MAX_LINE_BYTES:,} bytes that a row may have")
        yield line


def _csv(path: Path) -> Iterator[tuple[int, Record]]:
    """Read with the standard library: pyarrow's reader gives a column one type, and gives up at the first other."""
    with path.open("rb") as file:
        records = _records(file)
        header = [name.strip() for name in next(records, [])]
        if not header or not all(header) or len({*header}) != len(header) or len(header) > MAX_COLUMNS:
            sentence = "the first line does not name the columns, each once, none by nothing"
            raise malformed(f"{sentence}, at most {MAX_COLUMNS:,}")
        for number, cells in zip(count(2), records, strict=False):
            if len(cells) != len(header):
                raise malformed(f"record {number} has {len(cells)} cells; the first line names {len(header)} columns")
            values = {name: _cell(text) for name, text in zip_longest(header, cells)}
            yield sum(map(len, cells)) + 16 * len(cells), values


def _records(file: IO[bytes]) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    reader = csv.reader(_texts(file), strict=True)
    while True:
        begun = reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise malformed(f"line {begun + 1}: {error}") from error
        if cells:
            yield cells


def _texts(file: IO[bytes]) -> Iterator[str]:
    for number, line in zip(count(1), _lines(file), strict=False):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise malformed(f"line {number} is no UTF-8; write the file as UTF-8") from error


def _cell(text: str) -> object:
    """Read a cell: a number, true or false, a list of numbers in brackets; anything else is a text, nothing missing."""
    if not text:
        return None
    first = text[0]
    if first in "0123456789-+. \tnNiI" and "_" not in text:  # Python reads 1_000 as a thousand; nobody else does
        try:
            return float(text)
        except ValueError:
            pass
    if first in "tTfF" and text.lower() in ("true", "false"):
        return text[0] in "tT"
    return _listed(text) if first == "[" else text


def _listed(text: str) -> Any:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return value if isinstance(value, list) else text
