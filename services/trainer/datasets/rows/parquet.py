"""Parquet files of strangers as rows of our types, within a bound whatever a few bytes of them stand for.

A page may say one long text a million times in a handful of bytes. So what a row group unpacks to is looked at before
it is read, texts are read as dictionaries, and how much a batch takes is reckoned before it is written out. A file that
lies about itself meets the limits of the process that this runs in.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from services.common.errors import InvalidArgument
from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.rows.arrow import ARROW, schema_of
from services.trainer.datasets.rows.kinds import check_declared
from services.trainer.datasets.rows.limits import (
    BATCH_BYTES,
    BATCH_ROWS,
    MAX_CELL_BYTES,
    MAX_ROW_BYTES,
    RowLimits,
    TooLarge,
    checked_names,
    malformed,
    shown,
    too_many_columns,
    too_many_rows,
    unreadable,
)

_FOOTER_BYTES: Final = 16 * 1024 * 1024
_VALUE_BYTES: Final = 8
_GROUP_BYTES: Final = 512 * 1024 * 1024


def parquet_batches(
    data: memoryview, declared: Mapping[str, ColumnType], limits: RowLimits
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """Give the columns of a file, and its rows in their order.

    Raises:
        InvalidArgument: MALFORMED_ROWS, TOO_MANY, UNKNOWN_COLUMN (a declared one is not there).
        TooLarge: too many rows, or too much in a row group.
        MemoryError: it unpacks to more than this process may have.
    """
    file = _opened(data, limits)
    names = checked_names(file.schema_arrow.names, limits)
    check_declared(declared, names)
    types = {field.name: declared.get(field.name) or _type_of(field) for field in file.schema_arrow}
    return schema_of(types), _batches(file, types, limits)


def guarded(error: BaseException) -> InvalidArgument:
    """Say of Arrow's own error that the file is no Parquet; the sentence quotes nothing of it."""
    return unreadable(f"the file is no Parquet that can be read ({type(error).__name__}); write it anew")


def _opened(data: memoryview, limits: RowLimits) -> Any:
    bounds = {"thrift_string_size_limit": _FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
    source = pa.py_buffer(data)
    metadata = pq.ParquetFile(source, **bounds).metadata
    if metadata.num_columns > limits.max_columns:
        raise too_many_columns(metadata.num_columns, limits)
    if metadata.num_rows > limits.max_rows:
        raise too_many_rows(limits)
    columns = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        if max(group.total_byte_size, _listed_bytes(metadata, group)) > _GROUP_BYTES:
            raise TooLarge(f"row group {number} unpacks to more than 512 MiB; write smaller row groups")
        for place in range(metadata.num_columns):
            if "DELTA_BYTE_ARRAY" in group.column(place).encodings:
                sentence = f"column {place + 1} is encoded as DELTA_BYTE_ARRAY; write it PLAIN or by dictionary"
                raise unreadable(sentence)
    texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
    return pq.ParquetFile(
        source, read_dictionary=texts, page_checksum_verification=True, pre_buffer=False, metadata=metadata, **bounds
    )


def _listed_bytes(metadata: Any, group: Any) -> int:
    """Reckon what the lists of a row group take: a single row may hold all of their values."""
    listed = [number for number in range(metadata.num_columns) if metadata.schema.column(number).max_repetition_level]
    return sum(int(group.column(number).num_values) * _VALUE_BYTES for number in listed)


def _type_of(field: Any) -> ColumnType:
    types = pa.types
    kind = field.type.value_type if types.is_dictionary(field.type) else field.type
    plain = (
        (types.is_boolean, ColumnType.BOOL),
        (types.is_integer, ColumnType.INT64),
        (types.is_floating, ColumnType.FLOAT64),
        (types.is_decimal, ColumnType.FLOAT64),
        (types.is_null, ColumnType.FLOAT64),
        (types.is_string, ColumnType.STRING),
        (types.is_large_string, ColumnType.STRING),
        (types.is_timestamp, ColumnType.TIMESTAMP),
        (types.is_date, ColumnType.TIMESTAMP),
    )
    for fits, found in plain:
        if fits(kind):
            return found
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if is_list and any(fits(kind.value_type) for fits in (types.is_integer, types.is_floating, types.is_null)):
        return ColumnType.FLOAT64_LIST
    word = str(kind).partition("<")[0].partition("[")[0]  # what follows has names of the file's own
    raise unreadable(
        f"column {shown(field.name)} is a {word}; a column has numbers, texts, booleans, times or lists of numbers"
    )


def _batches(file: Any, types: Mapping[str, ColumnType], limits: RowLimits) -> Iterator[pa.RecordBatch]:
    row = 1
    for number in range(file.metadata.num_row_groups):
        group = file.metadata.row_group(number)
        listed = _listed_bytes(file.metadata, group) // max(1, int(group.num_rows))
        flat = _VALUE_BYTES * int(file.metadata.num_columns)
        size = max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, flat + listed)))
        for batch in file.iter_batches(batch_size=size, row_groups=[number], use_threads=False):
            for part in _parts(batch, row):
                row += part.num_rows
                if row - 1 > limits.max_rows:
                    raise too_many_rows(limits)
                yield _converted(part, types, row - part.num_rows)


def _parts(batch: Any, row: int) -> Iterator[Any]:
    """Give a batch in parts, each of which can be written out."""
    size = sum(map(_size_bytes, batch.columns))
    if size <= BATCH_BYTES or (batch.num_rows <= 1 and size <= MAX_ROW_BYTES):
        yield batch
    elif batch.num_rows <= 1:
        raise malformed(row, f"it has more than the {MAX_ROW_BYTES:,} bytes that a row may have")
    else:
        middle = batch.num_rows // 2
        yield from _parts(batch.slice(0, middle), row)
        yield from _parts(batch.slice(middle), row + middle)


def _size_bytes(array: Any) -> int:
    """Say what an array takes once each value stands for itself."""
    if pa.types.is_dictionary(array.type):
        if not hasattr(array.dictionary, "buffers") or not _is_text(array.type.value_type):
            return _VALUE_BYTES * len(array)
        lengths = pc.take(pc.binary_length(array.dictionary), array.indices)
        return int(pc.sum(lengths).as_py() or 0) + _VALUE_BYTES * len(array)
    return int(array.nbytes)


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _converted(batch: Any, types: Mapping[str, ColumnType], first_row: int) -> pa.RecordBatch:
    columns = [_column(batch.column(name), name, kind, first_row) for name, kind in types.items()]
    return pa.RecordBatch.from_arrays(columns, schema=schema_of(types))


def _column(array: Any, name: str, kind: ColumnType, first_row: int) -> Any:
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    try:
        found = _cast(array, kind)
    except pa.ArrowException:
        place, value = _first_wrong(array, kind)
        sentence = f"{shown(value)} is not of the column's type, {kind}; correct it, or declare another"
        raise malformed(first_row + place, sentence, column=name) from None
    if kind is ColumnType.STRING:
        lengths = pc.binary_length(found)
        if (pc.max(lengths).as_py() or 0) > MAX_CELL_BYTES:
            place = pc.index(pc.greater(lengths, MAX_CELL_BYTES), True).as_py()
            raise malformed(first_row + place, "a text of more than 1 MiB", column=name)
    if kind is ColumnType.FLOAT64_LIST and found.flatten().null_count:
        place = next(place for place, value in enumerate(found.to_pylist()) if value and None in value)
        raise malformed(first_row + place, "a number of the list is missing; leave out the whole list", column=name)
    return found


def _cast(array: Any, kind: ColumnType) -> Any:
    if kind is ColumnType.TIMESTAMP and pa.types.is_timestamp(array.type):
        return pc.cast(array, pa.timestamp("us", tz=array.type.tz), safe=False).cast(ARROW[kind])
    if kind is ColumnType.TIMESTAMP and pa.types.is_date(array.type):
        return array.cast(pa.timestamp("us")).cast(ARROW[kind])
    # Whole numbers beyond 2^53 lose their last digits as numbers, as they do everywhere.
    safe = kind is not ColumnType.FLOAT64 or pa.types.is_string(array.type)
    return pc.cast(array, ARROW[kind], safe=safe)


def _first_wrong(array: Any, kind: ColumnType) -> tuple[int, Any]:
    for place in range(len(array)):
        try:
            _cast(array.slice(place, 1), kind)
        except pa.ArrowException:
            return place, array[place].as_py()
    return 0, ""
