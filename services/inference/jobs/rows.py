"""What a file's reader gives: one `Row` for each record, within limits; and why a whole file is refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.struct_pb2 import Struct

from penstock import errors as sdk
from penstock.values import to_struct
from services.common.errors import FailedPrecondition
from services.inference.jobs.models import RowError

Row = Struct | RowError
"""The features of one record, or why it has none."""
MAX_COLUMNS = 10_000
BATCH_BYTES = 8 * 1024 * 1024
"""What the rows that are held at once take when encoded; in memory it is some ten times as much."""


@dataclass(frozen=True, slots=True)
class ReadLimits:
    """What an untrusted file may take: the longest row, and the most that a row group unpacks to, in bytes."""

    max_row_bytes: int
    max_unpacked_bytes: int
    max_rows: int


def features_of(values: Mapping[str, Any]) -> Row:
    """Take named values as a row."""
    try:
        return to_struct(values)
    except sdk.InvalidArgument as error:
        return RowError(error.reason or "UNSUPPORTED_VALUE", error.message)


def batches_of(rows: Iterable[Row], max_rows: int, max_bytes: int = BATCH_BYTES) -> Iterator[list[Row]]:
    """Put rows together: up to a number of them and, save for a single one, a size."""
    batch: list[Row] = []
    total = 0
    for row in rows:
        size_bytes = 0 if isinstance(row, RowError) else row.ByteSize()
        if batch and (len(batch) >= max_rows or total + size_bytes > max_bytes):
            yield batch
            batch, total = [], 0
        batch.append(row)
        total += size_bytes
    if batch:
        yield batch


def too_long(limits: ReadLimits) -> RowError:
    """Say that a row is longer than it may be."""
    return RowError("ROW_TOO_LONG", f"the row has more than {limits.max_row_bytes:,} bytes")


def unreadable(sentence: str) -> FailedPrecondition:
    """Say that a file is not what it was said to be. The sentence quotes nothing that the file holds."""
    return FailedPrecondition(sentence, reason="INPUT_UNREADABLE")


def too_large(sentence: str) -> FailedPrecondition:
    """Say that a file needs more than is allowed."""
    return FailedPrecondition(sentence, reason="INPUT_TOO_LARGE")
