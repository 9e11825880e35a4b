"""Columns of features ↔ Arrow arrays, as expressions work on them. A point in time is an int64 of µs since 1970."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from services.registry.features.models import Column, FeatureType

if TYPE_CHECKING:
    import pyarrow


def arrow_type(kind: FeatureType) -> Any:
    """Give what a type is to Arrow."""
    import pyarrow

    return {
        FeatureType.FLOAT64: pyarrow.float64(),
        FeatureType.INT64: pyarrow.int64(),
        FeatureType.BOOL: pyarrow.bool_(),
        FeatureType.STRING: pyarrow.string(),
        FeatureType.FLOAT64_LIST: pyarrow.list_(pyarrow.float64()),
        FeatureType.TIMESTAMP: pyarrow.int64(),
    }[kind]


def to_array(kind: FeatureType, column: Column | None, row_count: int) -> pyarrow.Array:
    """Give a column as an array; without a column all rows are missing."""
    import pyarrow

    if column is None:
        return pyarrow.nulls(row_count, arrow_type(kind))
    if kind is FeatureType.FLOAT64_LIST:
        lists = [None if gone else list(value) for value, gone in zip(column.values, column.missing, strict=True)]
        return pyarrow.array(lists, arrow_type(kind))
    return pyarrow.array(column.values, arrow_type(kind), mask=column.missing)


def to_column(kind: FeatureType, array: pyarrow.Array) -> Column:
    """Give an array as a column."""
    missing = array.is_null().to_numpy(zero_copy_only=False)
    if kind is FeatureType.FLOAT64_LIST:
        values = np.empty(len(array), dtype=object)
        values[:] = [None if value is None else np.asarray(value, "<f8") for value in array.to_pylist()]
        return Column(values, missing)
    if kind is FeatureType.STRING:
        return Column(array.to_numpy(zero_copy_only=False), missing)
    return Column(numbers(array), missing)


def numbers(array: pyarrow.Array) -> NDArray[Any]:
    """Give the values of an array; what is missing is 0 or false in its place."""
    if array.null_count:
        array = array.fill_null(0 if str(array.type) != "bool" else False)
    found: NDArray[Any] = array.to_numpy(zero_copy_only=False)
    return found


def valid(array: pyarrow.Array) -> NDArray[np.bool_]:
    """Say which rows have a value."""
    found: NDArray[np.bool_] = array.is_valid().to_numpy(zero_copy_only=False)
    return found
