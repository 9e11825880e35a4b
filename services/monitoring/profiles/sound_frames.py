"""Frames from the bytes of a process that is not trusted: whatever comes, only a sound one is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from services.monitoring.profiles.frame_bytes import COLUMN_BYTES, LENGTH_BYTES, whole
from services.monitoring.profiles.frames import MAX_DIMENSIONS, TEXT_BYTES, Column, Frame, Tag, Texts, shortened
from services.monitoring.profiles.sampling import MAX_BYTES, MAX_ROWS


class Unsound(Exception):
    """The bytes are no frame."""


@dataclass(frozen=True, slots=True)
class _Outline:
    """What a column has: the shape of its vectors, and how many texts."""

    name: str
    numbers: bool
    texts: int | None
    vectors: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class _Header:
    row_count: int
    columns: Sequence[_Outline]


_HEADER = TypeAdapter(_Header)


def frame_from(data: memoryview, most_columns: int) -> Frame:
    """Read a frame; its arrays are views of the bytes. Raises Unsound, also where it is larger than any sample."""
    try:
        length = int.from_bytes(data[:LENGTH_BYTES], "little")
        _see(length <= COLUMN_BYTES * (most_columns + 1))
        header = _HEADER.validate_json(bytes(data[LENGTH_BYTES : LENGTH_BYTES + length]))
        _see(header.row_count <= MAX_ROWS and len(header.columns) <= most_columns)
        reader = _Reader(data, LENGTH_BYTES + whole(length))
        columns = {shortened(one.name): reader.column(one, header.row_count) for one in header.columns}
    except (ValidationError, ValueError, OverflowError) as error:
        raise Unsound from error
    return Frame(header.row_count, columns)


class _Reader:
    def __init__(self, data: memoryview, position: int) -> None:
        self._data = data
        self._position = position
        self._text_count = 0

    def column(self, outline: _Outline, row_count: int) -> Column:
        numbers = self._array(np.float64, row_count) if outline.numbers else None
        lengths = sizes = None
        if outline.texts is not None:
            self._text_count += outline.texts
            _see(self._text_count * TEXT_BYTES <= MAX_BYTES)
            lengths, sizes = self._array(np.int64, outline.texts), self._array(np.int64, outline.texts)
        vectors = None
        if outline.vectors is not None:
            count, dimensions = outline.vectors
            _see(0 < dimensions <= MAX_DIMENSIONS)
            vectors = self._array(np.float32, count * dimensions).reshape(count, dimensions)
        codes = None if lengths is None else self._array(np.int32, row_count)
        tags = self._array(np.uint8, row_count)
        _check(tags, {Tag.NUMBER: numbers, Tag.BOOLEAN: numbers, Tag.TEXT: codes, Tag.VECTOR: vectors})
        _see(vectors is None or int(np.count_nonzero(tags == Tag.VECTOR)) == len(vectors))
        _see(numbers is None or not np.isnan(numbers[(tags == Tag.NUMBER) | (tags == Tag.BOOLEAN)]).any())
        texts = None
        if codes is not None and lengths is not None and sizes is not None:
            _see(row_count == 0 or (int(codes.min()) >= -1 and int(codes.max()) < lengths.size))
            texts = Texts(codes, list(self._texts(sizes)), lengths)
        return Column(tags, numbers, texts, vectors)

    def _texts(self, sizes: NDArray[np.int64]) -> Iterator[str]:
        _see(int(sizes.min(initial=0)) >= 0 and int(sizes.max(initial=0)) <= len(self._data))
        end = self._position + int(sizes.sum())
        _see(end <= len(self._data))
        start = self._position
        for size in sizes.tolist():
            yield shortened(str(self._data[start : start + size], "utf-8"))
            start += size
        self._position += whole(end - self._position)

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
