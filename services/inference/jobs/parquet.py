"""Parquet files of rows, read within a bound whatever a few bytes of them stand for.

A page of such a file may say one long value a million times, in a handful of bytes. So texts are read as dictionaries,
in which a value is held once however often it is said; how much a row takes is reckoned before any is written out; and
what would repeat without a dictionary is refused or read in batches that fit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from services.inference.jobs.models import RowError
from services.inference.jobs.rows import MAX_COLUMNS, ReadLimits, Row, features_of, too_large, too_long, unreadable

BATCH_ROWS = 1_000
BATCH_BYTES = 8 * 1024 * 1024
VALUE_BYTES = 8
"""What a value of a fixed size takes at most, or the place of a text in its dictionary."""
_FOOTER_BYTES = 16 * 1024 * 1024


def parquet_rows(path: Path, limits: ReadLimits) -> Iterator[Row]:
    """Give the rows of a file in their order; raises as `rows_of`. A row that is longer than it may be is an error."""
    import pyarrow as pa

    file = _opened(path, limits)
    try:
        for batch in file.iter_batches(batch_size=_batch_rows(file), use_threads=False):
            yield from _rows(batch, limits)
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise unreadable(f"the file is no Parquet that can be read ({type(error).__name__})") from error
    finally:
        file.close()


def parquet_row_count(path: Path, limits: ReadLimits) -> int:
    """Say how many rows a file has; raises as `rows_of`."""
    file = _opened(path, limits)
    try:
        return int(file.metadata.num_rows)
    finally:
        file.close()


def _opened(path: Path, limits: ReadLimits) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bounds = {"thrift_string_size_limit": _FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
    try:
        with pq.ParquetFile(path, memory_map=False, **bounds) as file:
            metadata = file.metadata
        _check_size(metadata, limits)
        columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
        texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
        file = pq.ParquetFile(
            path, memory_map=False, read_dictionary=texts, page_checksum_verification=True, metadata=metadata, **bounds
        )
        _check_columns(file.schema_arrow)
    except (pa.ArrowException, OSError) as error:
        raise unreadable(f"the file is no Parquet ({type(error).__name__})") from error
    return file


def _check_size(metadata: Any, limits: ReadLimits) -> None:
    """See that what the file says of itself is allowed."""
    if metadata.num_rows > limits.max_rows:
        raise too_large(f"the file has {metadata.num_rows:,} rows; {limits.max_rows:,} are allowed")
    if metadata.num_columns > MAX_COLUMNS:
        raise too_large(f"the file has {metadata.num_columns:,} columns; {MAX_COLUMNS:,} are allowed")
    for number in range(metadata.num_columns):
        if metadata.schema.column(number).length > limits.max_row_bytes:
            raise too_large(f"a value of column {number + 1} has more bytes than the {limits.max_row_bytes:,} of a row")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        unpacked = max(group.total_byte_size, _listed_bytes(metadata, group))
        if unpacked > limits.max_unpacked_bytes:
            raise too_large(
                f"row group {number} unpacks to {unpacked:,} bytes, and {limits.max_unpacked_bytes:,} are allowed; "
                "write smaller row groups"
            )
        for column in range(metadata.num_columns):
            if "DELTA_BYTE_ARRAY" in group.column(column).encodings:
                raise unreadable(f"column {column + 1} is encoded as DELTA_BYTE_ARRAY; write it PLAIN or by dictionary")


def _listed_bytes(metadata: Any, group: Any) -> int:
    """Reckon what the lists of a row group take: a single row may hold all of their values."""
    found = 0
    for number in range(metadata.num_columns):
        column = metadata.schema.column(number)
        if column.max_repetition_level:
            found += group.column(number).num_values * max(VALUE_BYTES, column.length)
    return found


def _batch_rows(file: Any) -> int:
    """Say how many rows are read at once: as many as fit, by the size of their values or the mean of their lists."""
    metadata = file.metadata
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    flat = sum(max(VALUE_BYTES, column.length) for column in columns if not column.max_repetition_level)
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    listed = max((_listed_bytes(metadata, group) // max(1, group.num_rows) for group in groups), default=0)
    return max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, int(flat) + listed)))


def _check_columns(schema: Any) -> None:
    names = schema.names
    if len({*names}) != len(names):
        raise unreadable("two columns have the same name")
    for number, field in enumerate(schema):
        if not _is_readable(field.type):
            kind = str(field.type).partition("<")[0].partition("[")[0]  # what follows has names of the file's own
            raise unreadable(
                f"column {number + 1} is a {kind}; a feature is a number, a text, a boolean, or lists of them: "
                "write it as one of these"
            )


def _is_readable(kind: Any) -> bool:
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return _is_readable(kind.value_type)
    if types.is_nested(kind):
        parts = [kind.field(number).type for number in range(kind.num_fields)]
        return not types.is_union(kind) and not types.is_map(kind) and all(map(_is_readable, parts))
    plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_null, types.is_string, types.is_binary)
    return any(fits(kind) for fits in plain)


def _rows(batch: Any, limits: ReadLimits) -> Iterator[Row]:
    """Write rows out, in halves until what is written out is no more than one row may take."""
    if sum(map(_size_bytes, batch.columns)) <= limits.max_row_bytes:
        yield from (_row(values) for values in batch.to_pylist())
    elif batch.num_rows == 1:
        yield too_long(limits)
    else:
        middle = batch.num_rows // 2
        yield from _rows(batch.slice(0, middle), limits)
        yield from _rows(batch.slice(middle), limits)


def _size_bytes(array: Any) -> int:
    """Say what an array takes once each value stands for itself."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
        return int(pc.sum(lengths).as_py() or 0) + VALUE_BYTES * len(array)
    if pa.types.is_struct(kind):
        return sum(map(_size_bytes, array.flatten()))
    if pa.types.is_nested(kind):
        return VALUE_BYTES * len(array) + _size_bytes(array.flatten())
    return int(array.nbytes)


def _row(values: Mapping[str, Any]) -> Row:
    try:
        return features_of({name: _text(value) for name, value in values.items()})
    except UnicodeDecodeError:
        return RowError("MALFORMED_ROW", "a binary value is no UTF-8; write it as a text")


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value
