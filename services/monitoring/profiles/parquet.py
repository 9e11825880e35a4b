"""Parquet files of rows, read as frames within a bound, whatever a few bytes of them stand for.

A page of such a file may say one long value a million times in a handful of bytes. So what a row group unpacks to is
looked at before it is read, and texts are read as dictionaries, in which a value is held once. That is what an honest
file says of itself; one that lies is read in a process of its own, which has no more memory than that (parquet_child).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.monitoring.profiles.frames import MAX_DIMENSIONS, ColumnBuilder, Frame, Tag, shortened
from services.monitoring.profiles.reference import check_there, too_many_features

MAX_UNPACKED_BYTES = 512 * 1024 * 1024
MAX_FILE_ROWS = 100_000_000
_BATCH_ROWS = 65_536
_BATCH_BYTES = 16 * 1024 * 1024
_FOOTER_BYTES = 16 * 1024 * 1024
_VALUE_BYTES = 8


def parquet_frames(data: memoryview, ignored: Collection[str], most_columns: int) -> Iterator[Frame]:
    """Give the rows of a file in their order, without the ignored columns.

    Raises:
        InvalidArgument: MALFORMED_FILE, TOO_MANY_FEATURES, TOO_LARGE, UNKNOWN_COLUMN (an ignored one is not there).
        MemoryError: it unpacks to more than this process may have.
    """
    import pyarrow as pa

    try:
        file, names = _opened(data, ignored, most_columns)
        for number in range(file.metadata.num_row_groups):
            yield from _group_frames(file, number, names)
    except MemoryError:  # Arrow's own is an ArrowException as well
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        sentence = f"the file is no Parquet that can be read ({type(error).__name__})"
        raise InvalidArgument(sentence, reason="MALFORMED_FILE") from error


def _group_frames(file: Any, number: int, names: list[str]) -> Iterator[Frame]:
    group, rows = file.metadata.row_group(number), 0
    size = _batch_rows(file.metadata, group)
    for batch in file.iter_batches(batch_size=size, row_groups=[number], columns=names, use_threads=False):
        rows += batch.num_rows
        if rows > group.num_rows:
            raise _malformed(f"row group {number} has more rows than the {group.num_rows:,} that it says")
        built = {shortened(name): _column(batch.column(name)) for name in names}
        yield Frame(batch.num_rows, {name: builder.build() for name, builder in built.items()})


def _opened(data: memoryview, ignored: Collection[str], most_columns: int) -> tuple[Any, list[str]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    bounds = {"thrift_string_size_limit": _FOOTER_BYTES, "thrift_container_size_limit": 1_000_000}
    source = pa.py_buffer(data)
    metadata = pq.ParquetFile(source, **bounds).metadata
    _check_size(metadata)
    found = [metadata.schema.column(number) for number in range(metadata.num_columns)]
    texts = [column.path for column in found if column.physical_type == "BYTE_ARRAY"]
    file = pq.ParquetFile(
        source, read_dictionary=texts, page_checksum_verification=True, pre_buffer=False, metadata=metadata, **bounds
    )
    schema = file.schema_arrow
    check_there(frozenset(ignored), schema.names)
    names = [name for name in schema.names if name not in ignored]
    if len({*schema.names}) != len(schema.names):
        raise _malformed("two columns have the same name")
    if len(names) > most_columns:
        raise too_many_features()
    for name in names:
        _check_type(name, schema.field(name).type)
    return file, names


def _check_size(metadata: Any) -> None:
    """See that what the file says of itself is allowed."""
    row_count = sum(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))
    if row_count > MAX_FILE_ROWS:
        sentence = f"the file has {row_count:,} rows; {MAX_FILE_ROWS:,} are allowed"
        raise InvalidArgument(f"{sentence}: send a sample of them", reason="TOO_LARGE")
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        unpacked = max(group.total_byte_size, _listed_bytes(metadata, group))
        if unpacked > MAX_UNPACKED_BYTES:
            sentence = f"row group {number} unpacks to {unpacked:,} bytes; {MAX_UNPACKED_BYTES:,} are allowed"
            raise InvalidArgument(f"{sentence}: write smaller row groups", reason="TOO_LARGE")
        for column in range(metadata.num_columns):
            if "DELTA_BYTE_ARRAY" in group.column(column).encodings:
                raise _malformed(f"column {column + 1} is encoded as DELTA_BYTE_ARRAY; write it PLAIN or by dictionary")


def _listed_bytes(metadata: Any, group: Any) -> int:
    """Reckon what the lists of a row group take: a single row may hold all of their values."""
    found = 0
    for number in range(int(metadata.num_columns)):
        column = metadata.schema.column(number)
        if column.max_repetition_level:
            found += group.column(number).num_values * max(_VALUE_BYTES, column.length)
    return found


def _batch_rows(metadata: Any, group: Any) -> int:
    """Say how many rows of a group are read at once: as many as fit, by the mean of their lists."""
    listed = _listed_bytes(metadata, group) // max(1, int(group.num_rows))
    flat = _VALUE_BYTES * int(metadata.num_columns)
    return max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, flat + listed)))


def _check_type(name: str, kind: Any) -> None:
    import pyarrow as pa

    types = pa.types
    value = kind.value_type if types.is_dictionary(kind) or _is_list(kind) else kind
    plain = (types.is_boolean, types.is_integer, types.is_floating, types.is_decimal, types.is_null)
    texts = (types.is_string, types.is_large_string)
    if any(fits(value) for fits in (plain if _is_list(kind) else (*plain, *texts))):
        return
    word = str(kind).partition("<")[0].partition("[")[0]  # what follows has names of the file's own
    raise _malformed(
        f"column {name[:128]!r} is a {word}; a feature is a number, a text, a boolean or a list of numbers: "
        "write it as one of these, or name it in columns.ignored"
    )


def _is_list(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _column(array: Any) -> ColumnBuilder:
    import pyarrow as pa

    builder = ColumnBuilder(len(array))
    kind = array.type
    rows = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
    if not rows.size:
        return builder
    present = array.drop_null()
    if _is_list(kind):
        _put_lists(builder, rows, present)
    elif pa.types.is_dictionary(kind):
        used, codes = np.unique(present.indices.to_numpy(zero_copy_only=False), return_inverse=True)
        known = present.dictionary.take(pa.array(used))
        if pa.types.is_string(kind.value_type) or pa.types.is_large_string(kind.value_type):
            builder.put_coded(rows, codes, known.to_pylist())
        else:
            values = known.to_pylist()
            builder.put_values(rows, [values[code] for code in codes.tolist()])
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        builder.put_texts(rows, present.to_pylist())
    else:
        tag = Tag.BOOLEAN if pa.types.is_boolean(kind) else Tag.NUMBER
        builder.put_numbers(rows, _floats(present), tag)
    return builder


def _floats(array: Any) -> NDArray[np.float64]:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    values: NDArray[np.float64] = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return values


def _put_lists(builder: ColumnBuilder, rows: NDArray[np.intp], lists: Any) -> None:
    """Put vectors: those as long as the first at once, all others as nested."""
    import pyarrow.compute as pc

    lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
    dimensions = int(lengths[0])
    fits = lengths == dimensions if 0 < dimensions <= MAX_DIMENSIONS else np.zeros(lengths.size, np.bool_)
    builder.put_tag(rows[~fits], Tag.NESTED)
    if fits.any():
        values = _floats(lists.filter(fits).flatten())  # a null in a list is NaN, and the vector missing
        builder.put_vectors(rows[fits], values.reshape(-1, dimensions))


def _malformed(sentence: str) -> InvalidArgument:
    return InvalidArgument(sentence, reason="MALFORMED_FILE")
