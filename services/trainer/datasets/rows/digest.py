"""The digest of rows: of their values in their order, whatever file they came in and however it was written.

    column  = SHA-256(presence) ‖ SHA-256(lengths) ‖ SHA-256(values)
    digest  = SHA-256("penstock-rows-1\\n" ‖ names and types as JSON ‖ "\\n" ‖ rows in decimal ‖ "\\n" ‖ column ‖ …)

presence: a byte a row, 1 where there is a value. lengths: of texts (bytes) and lists (numbers), of each row that has a
value, 64 bits. values: of those rows; whole numbers and times (µs since 1970) in 64 bits, numbers as IEEE 754 doubles,
booleans as a byte, texts as UTF-8, the numbers of lists one after the other. All of it little-endian. NaN is missing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.trainer.datasets.kinds import ColumnType

PREFIX = b"penstock-rows-1\n"


class RowsDigest:
    """The digest of rows in the making."""

    def __init__(self, types: Mapping[str, ColumnType]) -> None:
        self._types = dict(types)
        self._hashes = {name: (hashlib.sha256(), hashlib.sha256(), hashlib.sha256()) for name in types}
        self.row_count = 0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take more rows."""
        self.row_count += batch.num_rows
        for name, kind in self._types.items():
            presence, lengths, values = self._hashes[name]
            column = batch.column(name)
            presence.update(column.is_valid().to_numpy(zero_copy_only=False).astype(np.uint8).tobytes())
            there = column.drop_null()
            if kind is ColumnType.STRING:
                lengths.update(pc.binary_length(there).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
                values.update(_text_bytes(there))
            elif kind is ColumnType.FLOAT64_LIST:
                lengths.update(pc.list_value_length(there).to_numpy(zero_copy_only=False).astype("<i8").tobytes())
                values.update(there.flatten().to_numpy(zero_copy_only=False).astype("<f8").tobytes())
            else:
                values.update(_numbers(there, kind).tobytes())

    def hexdigest(self) -> str:
        """Give the digest of all rows so far: 64 lowercase hex digits."""
        columns = json.dumps([[name, kind.value] for name, kind in self._types.items()], ensure_ascii=False)
        digest = hashlib.sha256(PREFIX)
        digest.update(columns.encode() + b"\n" + str(self.row_count).encode() + b"\n")
        for parts in self._hashes.values():
            for part in parts:
                digest.update(part.digest())
        return digest.hexdigest()


def _text_bytes(texts: Any) -> bytes:
    """Give the texts one after the other; without a copy where they lie so."""
    _, _, data = texts.buffers()
    if data is None or not len(texts):
        return b""
    offsets = np.frombuffer(texts.buffers()[1], np.int32, len(texts) + 1, texts.offset * 4)
    return bytes(memoryview(data)[int(offsets[0]) : int(offsets[-1])])


def _numbers(array: Any, kind: ColumnType) -> np.ndarray[Any, Any]:
    if kind is ColumnType.BOOL:
        return np.asarray(array.to_numpy(zero_copy_only=False)).astype(np.uint8)
    if kind is ColumnType.TIMESTAMP:
        array = array.cast(pa.int64())
    return np.asarray(array.to_numpy(zero_copy_only=False)).astype("<f8" if kind is ColumnType.FLOAT64 else "<i8")
