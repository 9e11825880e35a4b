"""Files of rows from people nobody vouches for, read as frames within a bound. What is malformed is refused whole.

A profile is frozen and what live data is held to: a row that can't be read is no detail there, and its line is named.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from itertools import count, zip_longest
from pathlib import Path
from typing import IO, Any

import numpy as np

from services.common.errors import InvalidArgument
from services.monitoring.profiles.frames import ColumnBuilder, Frame, shortened
from services.monitoring.profiles.parquet_reader import read_parquet
from services.monitoring.profiles.reference import MAX_FEATURES, Columns, check_there, too_many_features
from services.monitoring.profiles.sampling import RowSample
from services.monitoring.profiles.sources import RowFormat

MAX_LINE_BYTES = 1024 * 1024
_TOO_LONG = f"is longer than the {MAX_LINE_BYTES:,} bytes that a row may have"
MAX_COLUMNS = 10_000
_BATCH_ROWS = 4_096
_BATCH_BYTES = 8 * 1024 * 1024
Record = Mapping[str, object]


def read_rows(path: Path, row_format: RowFormat, columns: Columns, *, require_sandbox: bool = False) -> Frame:
    """Read a file's rows, or a uniform sample where they are too many.

    With `require_sandbox` Parquet is read with all the protection that there is, or not at all.

    Raises:
        InvalidArgument: MALFORMED_FILE, TOO_MANY_FEATURES, TOO_LARGE, UNKNOWN_COLUMN (an ignored one is not there).
        FailedPrecondition: SANDBOX_UNAVAILABLE.
    """
    if row_format is RowFormat.PARQUET:
        return read_parquet(path, columns, require_sandbox=require_sandbox)
    records = _jsonl(path) if row_format is RowFormat.JSONL else _csv(path)
    sample, names, left_out = RowSample(), dict[str, None](), dict[str, None]()
    for frame in _frames(records, columns, left_out):
        names.update(dict.fromkeys(frame.columns))
        if len(names) > MAX_FEATURES + len(columns.named):
            raise too_many_features()
        sample.add(frame)
    if names or left_out:  # of a file without rows that is said instead
        check_there(columns.ignored, [*names, *left_out])
    return sample.frame()


def malformed(sentence: str) -> InvalidArgument:
    """Say why a file can't be read."""
    return InvalidArgument(sentence, reason="MALFORMED_FILE")


def _frames(records: Iterator[tuple[int, Record]], columns: Columns, left_out: dict[str, None]) -> Iterator[Frame]:
    """Put records together, up to a number of them and a size; `left_out` gets the names that are ignored."""
    cells: dict[str, tuple[list[int], list[object]]] = {}
    rows = size_bytes = 0
    for size, record in records:
        for name, value in record.items():
            if name in columns.ignored:
                left_out[name] = None
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
            raise malformed(f"line {number} {_TOO_LONG}")
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
                raise malformed(f"record {number} is of length {len(cells)}; the first line names {len(header)}")
            values = {name: _cell(text) for name, text in zip_longest(header, cells)}
            yield sum(map(len, cells)) + 16 * len(cells), values


def _records(file: IO[bytes]) -> Iterator[list[str]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines = _Lines(file)
    reader = csv.reader(lines, strict=True)
    while True:
        lines.record_bytes = 0
        begun = reader.line_num
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise malformed(f"line {begun + 1}: {error}") from error
        if cells:
            yield cells


class _Lines:
    """Lines as texts. A record may span many of them, by quotes that are open at their ends: together they are a row.

    `record_bytes`: those that were given since whoever reads set it to 0.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._lines = zip(count(1), _lines(file), strict=False)
        self.record_bytes = 0

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        number, line = next(self._lines)
        self.record_bytes += len(line)
        if self.record_bytes > MAX_LINE_BYTES + 1:
            raise malformed(f"the row that ends in line {number} or later {_TOO_LONG}; a quote may be left open")
        try:
            return line.decode("utf-8-sig" if number == 1 else "utf-8")
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
