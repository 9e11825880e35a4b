"""Rows as the bytes of one file, piece by piece: what was given away is held no longer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from services.common.pieces import CsvPieces, Pieces
from services.monitoring.export.models import Column, ExportFormat, Row

MAX_CHUNK_BYTES = 1024 * 1024
GROUP_ROWS = 10_000
"""Rows of a Parquet row group: it is held in memory until it is written."""
GROUP_BYTES = 16 * 1024 * 1024
"""The texts of one row group."""


def file_chunks(slices: Iterable[Sequence[Row]], columns: Sequence[Column], form: ExportFormat) -> Iterator[bytes]:
    """Write rows as a file, in chunks of at most 1 MiB."""
    write = _csv if form is ExportFormat.CSV else _parquet
    for piece in write(slices, columns):
        for start in range(0, len(piece), MAX_CHUNK_BYTES):
            yield piece[start : start + MAX_CHUNK_BYTES]


def _csv(slices: Iterable[Sequence[Row]], columns: Sequence[Column]) -> Iterator[bytes]:
    pieces = CsvPieces()
    pieces.write_rows([[column.name for column in columns]])
    times = [place for place, column in enumerate(columns) if column.kind == "time"]
    for rows in slices:
        pieces.write_rows(_with_texts(row, times) for row in rows)
        yield pieces.taken()
    yield pieces.taken()


def _with_texts(row: Row, times: Sequence[int]) -> list[Any]:
    cells = list(row)
    for place in times:
        if cells[place] is not None:
            cells[place] = _written(cells[place])
    return cells


def _written(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _parquet(slices: Iterable[Sequence[Row]], columns: Sequence[Column]) -> Iterator[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"text": pa.string(), "whole": pa.int64(), "number": pa.float64(), "time": pa.timestamp("us", tz="UTC")}
    schema = pa.schema([(column.name, types[column.kind]) for column in columns])
    pieces = Pieces()
    with pq.ParquetWriter(pa.PythonFile(pieces, mode="w"), schema, compression="zstd") as writer:
        for group in _groups(slices):
            cells = zip(*group, strict=True)
            arrays = [pa.array(column, type=field.type) for column, field in zip(cells, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            yield pieces.taken()
    yield pieces.taken()


def _groups(slices: Iterable[Sequence[Row]]) -> Iterator[list[Row]]:
    """Gather slices: a reader pays for each row group."""
    group: list[Row] = []
    size_bytes = 0
    for rows in slices:
        group.extend(rows)
        size_bytes += sum(len(cell) for row in rows for cell in row if isinstance(cell, str))
        if len(group) >= GROUP_ROWS or size_bytes >= GROUP_BYTES:
            yield group
            group, size_bytes = [], 0
    if group:
        yield group
