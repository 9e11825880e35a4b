"""Rows in memory as the bytes of a file, for reference profiles: Parquet where pyarrow is there, else JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from tempfile import SpooledTemporaryFile
from typing import Any, BinaryIO, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from penstock.api.monitoring.v1 import profiles_pb2 as pb
from penstock.errors import FieldViolation, InvalidArgument

Table: TypeAlias = "Mapping[str, ArrayLike] | Iterable[Mapping[str, Any]] | NDArray[Any]"
"""Columns by name, each with a value a row (of vectors: [rows, dimensions]); or rows by name; or a structured array."""
IN_MEMORY_BYTES = 64 * 1024 * 1024
ROWS_AT_ONCE = 10_000


def spooled_rows(rows: Table) -> tuple[BinaryIO, pb.RowFormat.ValueType]:
    """Write rows to a temporary file, in memory as long as it is small; the caller closes it.

    Raises:
        InvalidArgument: it is no table, or its columns are of different lengths (MALFORMED_TABLE).
    """
    file = cast("BinaryIO", SpooledTemporaryFile(max_size=IN_MEMORY_BYTES))  # noqa: SIM115 - the caller's to close
    try:
        if isinstance(rows, np.ndarray) and rows.dtype.names:
            rows = {name: rows[name] for name in rows.dtype.names}
        if isinstance(rows, np.ndarray):
            raise _refused("an array without names is no table; give a mapping of names to columns")
        number = _write_columns(rows, file) if isinstance(rows, Mapping) else _write_rows(rows, file)
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return file, number


def _write_columns(table: Mapping[str, ArrayLike], file: BinaryIO) -> pb.RowFormat.ValueType:
    columns = {name: np.asarray(column) for name, column in table.items()}
    lengths = {name: len(column) if column.ndim else -1 for name, column in columns.items()}
    if len(set(lengths.values())) != 1 or -1 in lengths.values():
        said = ", ".join(f"{name} {length if length >= 0 else 'no'}" for name, length in lengths.items()) or "none"
        raise _refused(f"each column needs as many values as the others; their lengths are: {said}")
    if _write_parquet(columns, file):
        return pb.ROW_FORMAT_PARQUET
    count = next(iter(lengths.values()))
    for begin in range(0, count, ROWS_AT_ONCE):
        values = [column[begin : begin + ROWS_AT_ONCE].tolist() for column in columns.values()]
        _write_lines((dict(zip(columns, row, strict=True)) for row in zip(*values, strict=True)), file)
    return pb.ROW_FORMAT_JSONL


def _write_rows(rows: Iterable[Mapping[str, Any]], file: BinaryIO) -> pb.RowFormat.ValueType:
    _write_lines(rows, file)
    return pb.ROW_FORMAT_JSONL


def _write_lines(rows: Iterable[Mapping[str, Any]], file: BinaryIO) -> None:
    for row in rows:
        if not isinstance(row, Mapping):
            raise _refused(f"a row is a mapping of names to values; a {type(row).__name__} came")
        file.write(json.dumps(row, default=_plain, ensure_ascii=False).encode() + b"\n")


def _write_parquet(columns: Mapping[str, NDArray[Any]], file: BinaryIO) -> bool:
    """Write Parquet; say no where there is no pyarrow, or a column holds what has no single type."""
    try:
        import pyarrow as arrow
        from pyarrow import parquet
    except ImportError:
        return False
    try:
        table = arrow.table({name: arrow.array(_arrow_values(column)) for name, column in columns.items()})
    except (arrow.ArrowInvalid, arrow.ArrowTypeError):
        return False
    parquet.write_table(table, file)
    return True


def _arrow_values(column: NDArray[Any]) -> NDArray[Any] | Sequence[Any]:
    return list(column) if column.ndim > 1 else column


def _plain(value: object) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise _refused(f"a {type(value).__name__} can't be a value; give numbers, strings, booleans, None or lists of them")


def _refused(sentence: str) -> InvalidArgument:
    return InvalidArgument(f"rows: {sentence}", reason="MALFORMED_TABLE", violations=[FieldViolation("rows", sentence)])
