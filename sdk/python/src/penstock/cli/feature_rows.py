"""Rows of features as people have them: JSON, JSON lines, CSV and Parquet, as columns of a view's types.

A text is read as the type says: true and false, numbers, times in ISO 8601 (without a zone: UTC) or µs since 1970,
lists of numbers as JSON. What is null, or empty in a CSV, is missing.
"""

from __future__ import annotations

import csv
import enum
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from penstock.cli.exits import CommandError, ExitCode

if TYPE_CHECKING:
    from penstock.api.features.v1 import feature_views_pb2 as views_pb

BLOCK_ROWS = 50_000
EVENT_TIME = "event_time"
_TRUTHS = {"true": True, "false": False, "t": True, "f": False, "1": True, "0": False}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Format(enum.StrEnum):
    """How rows are written."""

    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"
    PARQUET = "parquet"


SUFFIXES = {
    ".json": Format.JSON,
    ".jsonl": Format.JSONL,
    ".ndjson": Format.JSONL,
    ".csv": Format.CSV,
    ".parquet": Format.PARQUET,
}


class Unfit(ValueError):
    """A value is not of its column's type; the sentence says what it is."""


@dataclass(frozen=True, slots=True)
class ColumnNames:
    """Which columns are what; an empty name is the usual one: the view's entity, `event_time`, and no create times."""

    key: str = ""
    event_time: str = ""
    create_time: str = ""
    ignored: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows. `event_times`, `create_times`: in µs since 1970, one a row; None: there are none."""

    keys: list[str]
    columns: dict[str, list[Any]]
    event_times: list[int] | None
    create_times: list[int] | None


def format_of(file: Path, said: Format | None) -> Format:
    """Say how a file is written; raises CommandError (FORMAT_REQUIRED) where neither its suffix nor anybody says."""
    found = said or SUFFIXES.get(file.suffix.lower())
    if found is None:
        sentence = f"{file.name} does not say how it is written: give --format"
        raise CommandError(sentence, reason="FORMAT_REQUIRED", exit_code=ExitCode.USAGE)
    return found


def read_blocks(
    stream: IO[bytes], row_format: Format, view: views_pb.FeatureView, names: ColumnNames
) -> Iterator[Block]:
    """Read rows block by block; raises CommandError (MALFORMED_FILE, MISSING_COLUMN) that names the row."""
    first = 1
    for columns, count in read_tables(stream, row_format):
        yield _block(columns, view, names, first)
        first += count


def read_tables(stream: IO[bytes], row_format: Format) -> Iterator[tuple[Mapping[str, Sequence[Any]], int]]:
    """Read columns as they are written, with their number of rows, some rows at a time; raises CommandError."""
    return _TABLES[row_format](stream)


def missing_column(name: str, there: Iterable[str]) -> CommandError:
    """Make the error of a column that is not there."""
    return _refused(f"there is no column {name!r}; there are {', '.join(there)}", reason="MISSING_COLUMN")


def time_us(value: Any) -> int:
    """Read a time: µs since 1970, a datetime, or ISO 8601; without a zone it is UTC. Raises ValueError."""
    if isinstance(value, str):
        text = value.strip()
        if text.lstrip("-").isdigit():
            return int(text)
        value = datetime.fromisoformat(text)
    if isinstance(value, datetime):
        since = (value if value.tzinfo else value.replace(tzinfo=UTC)) - _EPOCH
        return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
    if isinstance(value, bool) or not isinstance(value, int):
        raise Unfit(f"{value!r} is no time")
    return value


def _block(columns: Mapping[str, Sequence[Any]], view: views_pb.FeatureView, names: ColumnNames, first: int) -> Block:
    key_name = names.key or view.entity
    if key_name not in columns:
        sentence = f"there is no column {key_name!r} that names the entities; name it by --key, there are"
        raise _refused(f"{sentence} {', '.join(columns)}", reason="MISSING_COLUMN")
    for named in (names.event_time, names.create_time):
        if named and named not in columns:
            raise missing_column(named, columns)
    event_name = names.event_time or (EVENT_TIME if EVENT_TIME in columns else "")
    special = {key_name, event_name, names.create_time, *names.ignored}

    def times(name: str) -> list[int] | None:
        return _converted(name, columns[name], _required(time_us), first) if name else None

    return Block(
        keys=_converted(key_name, columns[key_name], _required(_key), first),
        columns={
            name: _converted(name, values, _reader(view, name), first)
            for name, values in columns.items()
            if name not in special
        },
        event_times=times(event_name),
        create_times=times(names.create_time),
    )


def _converted(name: str, values: Sequence[Any], read: Callable[[Any], Any], first: int) -> list[Any]:
    found = []
    for row, value in enumerate(values, first):
        try:
            found.append(read(value))
        except (ValueError, OverflowError) as error:
            raise _refused(f"row {row}, column {name!r}: {error}") from error
    return found


def _reader(view: views_pb.FeatureView, name: str) -> Callable[[Any], Any]:
    """Give what reads a feature's values; of what the view does not have the service says so."""
    from penstock.api.features.v1 import feature_views_pb2 as pb

    kinds = {feature.name: pb.FeatureType.Name(feature.type).removeprefix("FEATURE_TYPE_") for feature in view.features}
    read = _READERS.get(kinds.get(name, ""), lambda value: value)
    text = kinds.get(name) == "STRING"
    return lambda value: None if value is None or (value == "" and not text) else read(value)


def _required(read: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def reading(value: Any) -> Any:
        if value is None or value == "":
            raise Unfit("it is missing; each row needs one")
        return read(value)

    return reading


def _key(value: Any) -> str:
    if isinstance(value, str | int) and not isinstance(value, bool):
        return str(value)
    raise Unfit(f"{value!r} names no entity; a text or a whole number does")


def _float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise Unfit(f"{value!r} is no number")
    return float(value)


def _int(value: Any) -> int:
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Unfit(f"{value!r} is no whole number")
    return int(value)


def _bool(value: Any) -> bool:
    known = value if isinstance(value, bool) else _TRUTHS.get(str(value).strip().lower())
    if known is None:
        raise Unfit(f"{value!r} is neither true nor false")
    return known


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise Unfit(f"{value!r} is no text")
    return value


def _numbers(value: Any) -> list[float]:
    read = json.loads(value) if isinstance(value, str) else value
    if not isinstance(read, list):
        raise Unfit(f"{value!r} is no list of numbers")
    return [_float(each) for each in read]


_READERS: dict[str, Callable[[Any], Any]] = {
    "FLOAT64": _float,
    "INT64": _int,
    "BOOL": _bool,
    "STRING": _text,
    "FLOAT64_LIST": _numbers,
    "TIMESTAMP": time_us,
}
_Tables = Iterator[tuple[Mapping[str, Sequence[Any]], int]]


def _json(stream: IO[bytes]) -> _Tables:
    try:
        document = json.load(io.TextIOWrapper(stream, encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _refused(f"it is no JSON: {error}") from error
    if isinstance(document, dict) and all(isinstance(values, list) for values in document.values()):
        lengths = {len(values) for values in document.values()}
        if len(lengths) != 1:
            raise _refused("its columns are of different lengths")
        yield document, lengths.pop()
        return
    rows = [document] if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise _refused('give a row such as {"customer": "ada", "amount": 12.5}, or a list of them')
    yield from _of_rows(iter(rows), 1)


def _json_lines(stream: IO[bytes]) -> _Tables:
    def rows() -> Iterator[Any]:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                yield json.loads(line)
            except (ValueError, RecursionError) as error:
                raise _refused(f"line {number} is no JSON: {error}") from error

    yield from _of_rows(rows(), 1)


def _of_rows(rows: Iterator[Any], first: int) -> _Tables:
    """Turn rows by name into columns; what a row does not name is missing in it."""
    block: list[dict[str, Any]] = []
    for number, row in enumerate(rows, first):
        if not isinstance(row, dict):
            raise _refused(f"row {number} is no object of names and values")
        block.append(row)
        if len(block) == BLOCK_ROWS:
            yield _columns(block), len(block)
            block = []
    if block:
        yield _columns(block), len(block)


def _columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _csv(stream: IO[bytes]) -> _Tables:
    lines = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""), strict=True)
    block: list[list[str]] = []
    try:
        names = next(lines, [])
        if len(set(names)) < len(names):
            raise _refused("two of its columns have the same name")
        for number, row in enumerate(lines, 1):
            if not row:
                continue
            if len(row) != len(names):
                raise _refused(f"row {number} has {len(row)} fields, and the first line names {len(names)}")
            block.append(row)
            if len(block) == BLOCK_ROWS:
                yield _of_fields(names, block), len(block)
                block = []
    except (csv.Error, UnicodeDecodeError) as error:
        raise _refused(f"it is no CSV in UTF-8: {error}") from error
    if block:
        yield _of_fields(names, block), len(block)


def _of_fields(names: Sequence[str], rows: Sequence[Sequence[str]]) -> dict[str, list[str | None]]:
    return {
        name: [value or None for value in values] for name, values in zip(names, zip(*rows, strict=True), strict=True)
    }


def _parquet(stream: IO[bytes]) -> _Tables:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        sentence = "Parquet needs pyarrow: pip install pyarrow, or give CSV or JSON lines"
        raise CommandError(sentence, reason="PYARROW_NOT_INSTALLED") from error
    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=BLOCK_ROWS):
            yield {name: batch.column(name).to_pylist() for name in batch.schema.names}, batch.num_rows
    except (ArrowException, OSError, ValueError) as error:
        raise _refused(f"it is no Parquet that can be read: {error}") from error


_TABLES: dict[Format, Callable[[IO[bytes]], _Tables]] = {
    Format.JSON: _json,
    Format.JSONL: _json_lines,
    Format.CSV: _csv,
    Format.PARQUET: _parquet,
}


def _refused(sentence: str, *, reason: str = "MALFORMED_FILE") -> CommandError:
    return CommandError(sentence, reason=reason)
