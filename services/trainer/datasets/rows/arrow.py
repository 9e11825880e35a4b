"""Columns as Arrow has them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import pyarrow as pa

from services.trainer.datasets.kinds import ColumnType

ARROW: Final[Mapping[ColumnType, pa.DataType]] = {
    ColumnType.FLOAT64: pa.float64(),
    ColumnType.INT64: pa.int64(),
    ColumnType.BOOL: pa.bool_(),
    ColumnType.STRING: pa.string(),
    ColumnType.TIMESTAMP: pa.timestamp("us", tz="UTC"),
    ColumnType.FLOAT64_LIST: pa.list_(pa.float64()),
}


def schema_of(types: Mapping[str, ColumnType]) -> pa.Schema:
    """Make the schema of columns, by name and in their order."""
    return pa.schema([pa.field(name, ARROW[kind]) for name, kind in types.items()])


def types_of(schema: pa.Schema) -> dict[str, ColumnType]:
    """Read the columns of a schema that `schema_of` made; raises ValueError of any other."""
    found = {}
    for field in schema:
        kind = next((kind for kind, arrow in ARROW.items() if field.type.equals(arrow)), None)
        if kind is None or field.name in found:
            raise ValueError(f"column {field.name[:128]!r} is a {str(field.type)[:80]}")
        found[field.name] = kind
    return found
