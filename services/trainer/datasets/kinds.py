"""What columns hold and how rows are written: what also the small process needs that reads strangers' files."""

from __future__ import annotations

import enum


class ColumnType(enum.StrEnum):
    """What a column's values are; each may be missing."""

    FLOAT64 = "FLOAT64"
    INT64 = "INT64"
    BOOL = "BOOL"
    STRING = "STRING"
    TIMESTAMP = "TIMESTAMP"
    FLOAT64_LIST = "FLOAT64_LIST"


class DatasetFormat(enum.StrEnum):
    """How rows are written."""

    PARQUET = "PARQUET"
    CSV = "CSV"
    JSON = "JSON"
