"""Rows as COPY takes them in its binary format, put together by Arrow: no value passes through Python, or is a text."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from services.registry.features.models import Column, Feature, FeatureType

if TYPE_CHECKING:
    import pyarrow

BEGINNING: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
END: Final = b"\xff\xff"
_FLOAT8_OID: Final = 701
_SIZE_BYTES: Final = 4
_MISSING: Final = -1
"""What stands for a field's size where there is no value."""


def joined(parts: Sequence[pyarrow.Array]) -> pyarrow.BinaryArray:
    """Join bytes row by row; a null is none."""
    import pyarrow
    from pyarrow import compute

    none = pyarrow.scalar(b"", pyarrow.binary())
    return compute.binary_join_element_wise(*parts, none, null_handling="replace", null_replacement="")


def field_count(count: int, row_count: int) -> pyarrow.BinaryArray:
    """Write what each row begins with: of how many fields it is."""
    return _fixed(np.full(row_count, count, ">i2"))


def text_field(texts: pyarrow.StringArray) -> list[pyarrow.Array]:
    """Write a text a row."""
    import pyarrow

    return _sized(texts.cast(pyarrow.binary()))


def number_field(values: NDArray[Any], missing: NDArray[np.bool_] | None = None) -> pyarrow.BinaryArray:
    """Write a number or a truth a row."""
    size_bytes = values.dtype.itemsize
    fields = np.empty(len(values), [("size", ">i4"), ("value", values.dtype.newbyteorder(">"))])
    fields["size"], fields["value"] = size_bytes, values
    if missing is None or not missing.any():
        return _fixed(fields)
    fields["size"][missing] = _MISSING
    kept = np.ones((len(values), _SIZE_BYTES + size_bytes), np.bool_)
    kept[missing, _SIZE_BYTES:] = False
    return _binary(fields.view(np.uint8).reshape(kept.shape)[kept], kept.sum(axis=1))


def feature_field(feature: Feature, column: Column | None, row_count: int) -> list[pyarrow.Array]:
    """Write a feature's values; of a feature without a column, that all are missing."""
    import pyarrow

    if column is None:
        return [_fixed(np.full(row_count, _MISSING, ">i4"))]
    if feature.type is FeatureType.STRING:
        return text_field(pyarrow.array(column.values, pyarrow.string(), mask=column.missing))
    if feature.type is FeatureType.FLOAT64_LIST:
        lists = zip(column.values, column.missing, strict=True)
        return _sized(pyarrow.array([None if gone else _list(each) for each, gone in lists], pyarrow.binary()))
    values = column.values
    if feature.type is FeatureType.FLOAT64:  # NaN has many bits, of which who computes chooses; it is one value
        values = np.where(np.isnan(values), np.nan, values)
    return [number_field(values, column.missing)]


def _list(values: NDArray[Any]) -> bytes:
    """Write a one-dimensional array as PostgreSQL sends it; an empty one has no dimension."""
    if not len(values):
        return struct.pack(">iii", 0, 0, _FLOAT8_OID)
    elements = np.empty(len(values), [("size", ">i4"), ("value", ">f8")])
    elements["size"], elements["value"] = 8, np.where(np.isnan(values), np.nan, values)
    return struct.pack(">iiiii", 1, 0, _FLOAT8_OID, len(values), 1) + elements.tobytes()


def _sized(values: pyarrow.BinaryArray) -> list[pyarrow.Array]:
    from pyarrow import compute

    sizes = compute.binary_length(values).fill_null(_MISSING).to_numpy()
    return [_fixed(sizes.astype(">i4")), values]


def _fixed(values: NDArray[Any]) -> pyarrow.BinaryArray:
    """Take the bytes of each value."""
    return _binary(values, np.full(len(values), values.dtype.itemsize))


def _binary(data: NDArray[Any], sizes_bytes: NDArray[Any]) -> pyarrow.BinaryArray:
    """Divide bytes into values, of these sizes."""
    import pyarrow

    offsets = np.concatenate([[0], np.cumsum(sizes_bytes)]).astype(np.int32)
    buffers = [None, pyarrow.py_buffer(offsets), pyarrow.py_buffer(np.ascontiguousarray(data))]
    return pyarrow.Array.from_buffers(pyarrow.binary(), len(sizes_bytes), buffers)
