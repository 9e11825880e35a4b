"""Rows on their way into Parquet of our own, counted and hashed as they go by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.models import Rows
from services.trainer.datasets.rows.arrow import types_of
from services.trainer.datasets.rows.digest import RowsDigest
from services.trainer.datasets.rows.statistics import ColumnStatistics

GROUP_ROWS: Final = 65_536
GROUP_BYTES: Final = 64 * 1024 * 1024


def write_rows(batches: Iterable[pa.RecordBatch], path: Path, check: Callable[[], None] = lambda: None) -> Rows:
    """Write rows, of which the first batch says the columns and may have none; gives what they are.

    `check` is called between batches, and may raise.
    """
    coming = iter(batches)
    first = next(coming)
    types = types_of(first.schema)
    digest = RowsDigest(types)
    columns = [ColumnStatistics(name, kind) for name, kind in types.items()]
    with open_writer(path, first.schema) as writer:
        for group in _groups(chain((first,), coming)):
            check()
            for batch in group:
                digest.add(batch)
                for number, column in enumerate(columns):
                    column.add(batch.column(number))
            writer.write_table(pa.Table.from_batches(group, first.schema), row_group_size=GROUP_ROWS)
    return Rows(digest.row_count, tuple(column.column() for column in columns), digest.hexdigest())


def open_writer(path: Path, schema: pa.Schema) -> Any:
    """Open a file of rows to be written."""
    return pq.ParquetWriter(path, schema, compression="zstd")


def read_batches(
    path: Path, columns: Sequence[str] | None = None, batch_rows: int = GROUP_ROWS
) -> Iterator[pa.RecordBatch]:
    """Give the rows of a file that `write_rows` wrote, in their order.

    No batch goes beyond its row group: what is in memory at once is bounded, however wide the rows are.
    """
    wanted = None if columns is None else list(columns)
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from file.iter_batches(batch_size=batch_rows, row_groups=[group], columns=wanted)


def _groups(batches: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Put batches together until they are worth a row group."""
    group: list[pa.RecordBatch] = []
    rows = size_bytes = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        group.append(_canonical(batch))
        rows, size_bytes = rows + batch.num_rows, size_bytes + batch.nbytes
        if rows >= GROUP_ROWS or size_bytes >= GROUP_BYTES:
            yield group
            group, rows, size_bytes = [], 0, 0
    if group:
        yield group


def _canonical(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Have what is not a number be missing."""
    types = types_of(batch.schema)
    columns = [
        pc.if_else(pc.is_nan(column), pa.scalar(None, pa.float64()), column)
        if types[name] is ColumnType.FLOAT64
        else column
        for name, column in zip(batch.schema.names, batch.columns, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=batch.schema)
