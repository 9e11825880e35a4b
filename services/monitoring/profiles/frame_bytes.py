"""A frame as bytes, as a process that is not trusted hands it over; `sound_frames` reads them.

A header in JSON, its length before it; then of each column, in this order and filled up to eight bytes: numbers, the
lengths of its texts in letters and in bytes, vectors, codes of texts, tags, the texts in UTF-8.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from services.monitoring.profiles.frames import Column, Frame

LENGTH_BYTES = 8
COLUMN_BYTES = 2_048
"""What the header says of a column at most, its name of 256 letters in six bytes each, and what is filled up."""
KIND_BYTES = 8
FRAME, REFUSAL, OUT_OF_MEMORY, UNPROTECTED = b"frame   ", b"refusal ", b"memory  ", b"exposed "
"""What the first bytes of an answer say; what follows lies as it must for arrays."""
NO_SECCOMP = "this kernel gives no seccomp"
"""What is said beside an answer."""
_ALIGNMENT = 8


def frame_bytes(frame: Frame) -> Iterator[bytes]:
    """Write a frame, some bytes at a time."""
    outlines = [
        {
            "name": name,
            "numbers": column.numbers is not None,
            "texts": None if column.texts is None else len(column.texts.known),
            "vectors": None if column.vectors is None else column.vectors.shape,
        }
        for name, column in frame.columns.items()
    ]
    header = json.dumps({"row_count": frame.row_count, "columns": outlines}).encode()
    yield len(header).to_bytes(LENGTH_BYTES, "little")
    yield _filled(header)
    for column in frame.columns.values():
        for array in _arrays(column):
            yield _filled(array.tobytes())
        if column.texts is not None:
            yield _filled(b"".join(text.encode() for text in column.texts.known))


def _arrays(column: Column) -> Iterator[NDArray[Any]]:
    if column.numbers is not None:
        yield column.numbers
    if column.texts is not None:
        yield column.texts.lengths
        yield np.array([len(text.encode()) for text in column.texts.known], np.int64)
    if column.vectors is not None:
        yield column.vectors
    if column.texts is not None:
        yield column.texts.codes
    yield column.tags


def whole(size_bytes: int) -> int:
    """Fill a size up."""
    return -(-size_bytes // _ALIGNMENT) * _ALIGNMENT


def _filled(data: bytes) -> bytes:
    return data.ljust(whole(len(data)), b"\0")
