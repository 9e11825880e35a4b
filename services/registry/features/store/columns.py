"""Columns of numpy, of what the database gave: rows of psycopg, and CSV that Arrow reads."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from services.registry.features.models import Column, Feature, FeatureType

SQL_TYPES: Final = {
    FeatureType.FLOAT64: "double precision",
    FeatureType.INT64: "bigint",
    FeatureType.BOOL: "boolean",
    FeatureType.STRING: "text",
    FeatureType.FLOAT64_LIST: "double precision[]",
    FeatureType.TIMESTAMP: "bigint",
}
DTYPES: Final = {
    FeatureType.FLOAT64: np.dtype("<f8"),
    FeatureType.INT64: np.dtype("<i8"),
    FeatureType.BOOL: np.dtype("?"),
    FeatureType.STRING: np.dtype(object),
    FeatureType.FLOAT64_LIST: np.dtype(object),
    FeatureType.TIMESTAMP: np.dtype("<i8"),
}


def read_csv(
    text: bytes, features: Sequence[Feature]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_], list[Column]]:
    """Read rows of (number, event time or nothing, value of each feature).

    Gives the numbers, the event times (0 where there is none), which rows have one, and the features' columns.
    """
    import pyarrow
    from pyarrow import csv

    names = ["number", "event_time", *(feature.name for feature in features)]
    types = {"number": pyarrow.int64(), "event_time": pyarrow.int64()}
    types |= {feature.name: _arrow_type(feature.type) for feature in features}
    table = csv.read_csv(
        io.BytesIO(text),
        read_options=csv.ReadOptions(column_names=[str(place) for place in range(len(names))]),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types={str(place): types[name] for place, name in enumerate(names)},
            null_values=[""],
            true_values=["t"],
            false_values=["f"],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    numbers = table.column(0).to_numpy()
    times, known = table.column(1).fill_null(0).to_numpy(), table.column(1).is_valid().to_numpy()
    return numbers, times, known, [_column(each, table.column(2 + place)) for place, each in enumerate(features)]


def column_of(feature: Feature, values: Sequence[Any]) -> Column:
    """Make a column of what psycopg read; None is missing."""
    if None not in values and DTYPES[feature.type] != np.dtype(object):  # most are like this, and it is done at once
        return Column(np.array(values, DTYPES[feature.type]), np.zeros(len(values), np.bool_))
    missing = np.fromiter((value is None for value in values), np.bool_, len(values))
    dtype = DTYPES[feature.type]
    if dtype == np.dtype(object):
        held = np.empty(len(values), dtype=object)
        held[:] = [
            value if value is None or feature.type is FeatureType.STRING else np.asarray(value, "<f8")
            for value in values
        ]
        return Column(held, missing)
    zero: Any = False if feature.type is FeatureType.BOOL else 0
    return Column(np.fromiter((zero if value is None else value for value in values), dtype, len(values)), missing)


def _column(feature: Feature, chunked: Any) -> Column:
    missing = chunked.is_null().to_numpy()
    if feature.type is FeatureType.FLOAT64_LIST:
        texts = chunked.to_pylist()
        values = np.empty(len(texts), dtype=object)
        values[:] = [None if text is None else _list_of(text) for text in texts]
        return Column(values, missing)
    if feature.type is FeatureType.STRING:
        return Column(chunked.to_numpy(), missing)
    if chunked.null_count:
        chunked = chunked.fill_null(False if feature.type is FeatureType.BOOL else 0)
    return Column(chunked.to_numpy(), missing)


def _arrow_type(kind: FeatureType) -> Any:
    import pyarrow

    return {
        FeatureType.FLOAT64: pyarrow.float64(),
        FeatureType.INT64: pyarrow.int64(),
        FeatureType.BOOL: pyarrow.bool_(),
        FeatureType.STRING: pyarrow.string(),
        FeatureType.FLOAT64_LIST: pyarrow.string(),
        FeatureType.TIMESTAMP: pyarrow.int64(),
    }[kind]


def _list_of(text: str) -> NDArray[np.float64]:
    inner = text[1:-1]
    return np.array([float(each) for each in inner.split(",")] if inner else [], "<f8")


def as_mapping(features: Sequence[Feature], columns: Sequence[Column]) -> Mapping[str, Column]:
    """Name columns by their features, in order."""
    return {feature.name: column for feature, column in zip(features, columns, strict=True)}
