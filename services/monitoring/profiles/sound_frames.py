"""Frames from the bytes of a process that is not trusted: whatever comes, only a sound one is made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from services.monitoring.profiles.frame_bytes import LENGTH_BYTES, whole
from services.monitoring.profiles.frames import MAX_DIMENSIONS, Column, Frame, Tag, Texts, shortened


class Unsound(Exception):
    """The bytes are no frame."""


@dataclass(frozen=True, slots=True)
class _Outline:
    """What a column has: the shape of its vectors, and its texts as far as they are kept."""

    name: str
    numbers: bool
    texts: Sequence[str] | None
    vectors: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Header:
    row_count: int
    columns: Sequence[_Outline]


_HEADER = TypeAdapter(_Header)


def frame_from(data: bytearray) -> Frame:
    """Read a frame; its arrays are views of the bytes. Raises Unsound."""
    try:
        length = int.from_bytes(data[:LENGTH_BYTES], "little")
        header = _HEADER.validate_json(data[LENGTH_BYTES : LENGTH_BYTES + length])
        reader = _Reader(data, LENGTH_BYTES + whole(length))
        columns = {shortened(one.name): reader.column(one, header.row_count) for one in header.columns}
    except (ValidationError, ValueError, OverflowError) as error:
        raise Unsound from error
    return Frame(header.row_count, columns)


class _Reader:
    def __init__(self, data: bytearray, position: int) -> None:
        self._data = data
        self._position = position

    def column(self, outline: _Outline, row_count: int) -> Column:
        numbers = self._array(np.float64, row_count) if outline.numbers else None
        known = outline.texts or ()
        lengths = self._array(np.int64, len(known)) if outline.texts is not None else None
        vectors = None
        if outline.vectors is not None:
            count, dimensions = outline.vectors
            _see(0 < dimensions <= MAX_DIMENSIONS)
            vectors = self._array(np.float32, count * dimensions).reshape(count, dimensions)
        codes = None if lengths is None else self._array(np.int32, row_count)
        tags = self._array(np.uint8, row_count)
        _check(tags, {Tag.NUMBER: numbers, Tag.BOOLEAN: numbers, Tag.TEXT: codes, Tag.VECTOR: vectors})
        _see(vectors is None or int(np.count_nonzero(tags == Tag.VECTOR)) == len(vectors))
        texts = None
        if codes is not None and lengths is not None:
            _see(row_count == 0 or (int(codes.min()) >= -1 and int(codes.max()) < len(known)))
            texts = Texts(codes, [shortened(text) for text in known], lengths)
        return Column(tags, numbers, texts, vectors)

    def _array(self, dtype: type[np.generic], count: int) -> NDArray[Any]:
        _see(count >= 0)
        found: NDArray[Any] = np.frombuffer(self._data, dtype, count, self._position) if count else np.empty(0, dtype)
        self._position += whole(found.nbytes)
        return found


def _check(tags: NDArray[np.uint8], carried: Mapping[Tag, NDArray[Any] | None]) -> None:
    """See that every tag is one, and that what it says is there."""
    _see(int(tags.max(initial=0)) <= max(Tag))
    counts = np.bincount(tags, minlength=len(Tag))
    _see(all(values is not None or not counts[tag] for tag, values in carried.items()))


def _see(sound: bool) -> None:
    if not sound:
        raise Unsound
