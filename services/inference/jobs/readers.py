"""Files of rows, read as a stream: one `Row` for each record, whatever is wrong with it.

JSONL and CSV are read by the standard library rather than by pyarrow, whose readers give up a whole file for one line
that is malformed or of another type than the first ones: here a bad row is a row that failed, and has its place in the
result. Parquet is pyarrow's.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from itertools import count, zip_longest
from pathlib import Path
from typing import IO, Any

from services.inference.jobs.models import FileFormat, RowError
from services.inference.jobs.parquet import parquet_row_count, parquet_rows
from services.inference.jobs.rows import MAX_COLUMNS, ReadLimits, Row, features_of, too_large, too_long, unreadable
from services.inference.models import Signature

_READ_BYTES = 1024 * 1024
_CHECK_ROWS = 256


def rows_of(path: Path, file_format: FileFormat, signature: Signature, limits: ReadLimits) -> Iterator[Row]:
    """Give the rows of a file in their order, in constant memory.

    Raises:
        FailedPrecondition: INPUT_UNREADABLE (it is not of this format), INPUT_TOO_LARGE (too many rows, or a row group
            that unpacks to too much).
    """
    readers: Mapping[FileFormat, Callable[[], Iterator[Row]]] = {
        FileFormat.JSONL: lambda: _jsonl(path, limits),
        FileFormat.CSV: lambda: _csv(path, limits, _datatypes(signature)),
        FileFormat.PARQUET: lambda: parquet_rows(path, limits),
    }
    for number, row in zip(count(1), readers[file_format](), strict=False):
        if number > limits.max_rows:
            raise too_large(f"the file has more than {limits.max_rows:,} rows")
        yield row


def count_rows(path: Path, file_format: FileFormat, limits: ReadLimits, check: Callable[[], None]) -> int:
    """Count the rows without reading what is in them; raises as `rows_of`, and as `check` does, called meanwhile."""
    if file_format is FileFormat.PARQUET:
        return parquet_row_count(path, limits)
    with path.open("rb") as file:
        lines = _checked(_lines(file, limits.max_row_bytes), check)
        if file_format is FileFormat.JSONL:
            return sum(1 for line in lines if line is None or line.strip())
        return max(0, sum(1 for _ in _records(lines, limits)) - 1)


def _checked(lines: Iterator[bytes | None], check: Callable[[], None]) -> Iterator[bytes | None]:
    """Pass lines on, and check now and then, by their number and by their bytes."""
    rows = size_bytes = 0
    for line in lines:
        rows, size_bytes = rows + 1, size_bytes + (_READ_BYTES if line is None else len(line))
        if rows >= _CHECK_ROWS or size_bytes >= _READ_BYTES:
            rows = size_bytes = 0
            check()
        yield line


def _jsonl(path: Path, limits: ReadLimits) -> Iterator[Row]:
    with path.open("rb") as file:
        for line in _lines(file, limits.max_row_bytes):
            if line is None:
                yield too_long(limits)
            elif line.strip():
                yield _json_row(line)


def _json_row(line: bytes) -> Row:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        return RowError("MALFORMED_ROW", f"the line is no JSON: {error}"[:200])
    if not isinstance(values, dict):
        return RowError("MALFORMED_ROW", f"a {type(values).__name__} came; a row is an object of features by name")
    try:
        return features_of(values)
    except UnicodeEncodeError:  # JSON may escape half a surrogate pair
        return RowError("MALFORMED_ROW", "a text is no Unicode: it has a surrogate on its own")


def _lines(file: IO[bytes], longest: int) -> Iterator[bytes | None]:
    """Give each line; None for one that is too long, which is read past without being kept."""
    while line := file.readline(longest + 1):
        if len(line) <= longest or line.endswith(b"\n"):
            yield line
            continue
        while (rest := file.readline(_READ_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield None


def _csv(path: Path, limits: ReadLimits, datatypes: Mapping[str, str]) -> Iterator[Row]:
    with path.open("rb") as file:
        records = _records(_lines(file, limits.max_row_bytes), limits)
        header = next(records, None)
        if not isinstance(header, list):
            raise unreadable("the file has no first line that names its columns")
        names = [name.strip() for name in header]
        if len({*names}) != len(names) or not all(names) or len(names) > MAX_COLUMNS:
            raise unreadable(f"the first line names the columns, each once, none by nothing, at most {MAX_COLUMNS:,}")
        for cells in records:
            yield cells if isinstance(cells, RowError) else _csv_row(names, cells, datatypes)


def _records(lines: Iterator[bytes | None], limits: ReadLimits) -> Iterator[list[str] | RowError]:
    """Give the cells of each record; empty lines are none."""
    csv.field_size_limit(limits.max_row_bytes)
    texts = _Record(_texts(lines), limits.max_row_bytes)
    reader = csv.reader(texts, strict=True)
    while True:
        texts.begin()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield RowError("MALFORMED_ROW", f"line {reader.line_num}: {error}")
            continue
        if cells:
            yield cells


class _Record:
    """The lines of a record, which may go over several in quotes: no more of them than a row may have."""

    def __init__(self, texts: Iterator[str], longest: int) -> None:
        self._texts = texts
        self._longest = longest
        self._length = 0

    def begin(self) -> None:
        """Begin the next record."""
        self._length = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        if self._length > self._longest:
            raise csv.Error(f"the record goes on beyond {self._longest:,} characters; is a quote left open?")
        text = next(self._texts)
        self._length += len(text)
        return text


def _texts(lines: Iterator[bytes | None]) -> Iterator[str]:
    for number, line in enumerate(lines):
        if line is None:
            # A NUL of our own is what the cells are known by; no text of a CSV file has one.
            yield "\0"
            continue
        text = line.decode("utf-8-sig" if number == 0 else "utf-8", errors="replace")
        yield text.replace("\0", "\ufffd")


def _csv_row(names: list[str], cells: list[str], datatypes: Mapping[str, str]) -> Row:
    if cells == ["\0"]:
        return RowError("ROW_TOO_LONG", "the line is longer than a row may be")
    if len(cells) != len(names):
        return RowError("MALFORMED_ROW", f"{len(cells)} cells came; the first line names {len(names)} columns")
    return features_of({name: _cell(cell, datatypes.get(name, "")) for name, cell in zip_longest(names, cells)})


def _cell(cell: str, datatype: str) -> Any:
    """Read a cell as its datatype wants it; what cannot be read stays a text, which the model's check then refuses."""
    if cell == "" and datatype != "BYTES":
        return None
    if datatype == "BYTES" and not cell.startswith("["):
        return cell
    if datatype == "BOOL" and cell.strip().lower() in ("true", "false"):
        return cell.strip().lower() == "true"
    try:
        return json.loads(cell) if cell.startswith("[") else _number(cell)
    except (ValueError, RecursionError):
        return cell


def _number(cell: str) -> int | float:
    if "_" in cell:  # Python reads 1_000 as a thousand; nobody else does
        raise ValueError(cell)
    try:
        return int(cell)
    except ValueError:
        return float(cell)


def _datatypes(signature: Signature) -> dict[str, str]:
    """Say what each column's datatype is: an input's own name, or the features along its last dimension."""
    found = {}
    for spec in signature.inputs:
        found.update(dict.fromkeys((spec.name, *spec.columns), spec.datatype))
    return found
