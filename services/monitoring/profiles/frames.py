"""Rows of data as columns, wherever they came from: live payloads, files, arrays.

A value is known by what it is, not by what it should be: a column may hold numbers here and texts there. What is the
right kind, a reference says later.
"""

from __future__ import annotations

import enum
import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.intp]
MAX_TEXT_CHARS = 256
"""What is kept of a text, to tell it from others; of a longer one a digest stands for the rest."""
MAX_DIMENSIONS = 4_096
"""A longer vector is no embedding but something nested."""
TEXT_BYTES = 64
"""What a text takes beside its letters, about."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_SHIFT = np.uint64(32)
_BLOCK_ROWS = 8_192


class Tag(enum.IntEnum):
    """What a row has in a column."""

    MISSING = 0
    NUMBER = 1
    BOOLEAN = 2
    TEXT = 3
    VECTOR = 4
    NESTED = 5


@dataclass(frozen=True, slots=True)
class Texts:
    """Texts of a column: `codes` [N] index `known`, -1 where a row has none; `lengths` in characters, of `known`."""

    codes: NDArray[np.int32]
    known: Sequence[str]
    lengths: NDArray[np.int64]

    @property
    def size_bytes(self) -> int:
        """What they take in memory, about."""
        kept = sum(len(text) if text.isascii() else len(text.encode()) for text in self.known)
        return self.codes.nbytes + self.lengths.nbytes + kept + TEXT_BYTES * len(self.known)


@dataclass(frozen=True, slots=True)
class Column:
    """One feature over N rows.

    Attributes:
        tags: [N], what each row has; NaN is MISSING, as null is: files and tensors write one for the other.
        numbers: [N], of NUMBER, and of BOOLEAN as 0 and 1; NaN elsewhere. None: no row has any.
        texts: of TEXT. None: no row has any.
        vectors: [n, dimensions], of the n rows that are VECTOR, in their order. None: no row has any.
    """

    tags: NDArray[np.uint8]
    numbers: Floats | None = None
    texts: Texts | None = None
    vectors: NDArray[np.float32] | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        found = self.tags.nbytes
        if self.numbers is not None:
            found += self.numbers.nbytes
        if self.texts is not None:
            found += self.texts.size_bytes
        return found if self.vectors is None else found + self.vectors.nbytes

    def has(self, tag: Tag) -> NDArray[np.bool_]:
        """Say which rows [N] have this."""
        found: NDArray[np.bool_] = self.tags == int(tag)  # beside an enum's member numpy takes six times as long
        return found

    def only(self, tag: Tag) -> bool:
        """Say whether every row has this."""
        return bool(self.tags.size and self.tags.min() == tag == self.tags.max())

    def take(self, kept: NDArray[np.bool_]) -> Column:
        """Keep the rows where `kept` [N] is true."""
        vectors = None if self.vectors is None else self.vectors[kept[self.has(Tag.VECTOR)]]
        numbers = None if self.numbers is None else self.numbers[kept]
        return Column(self.tags[kept], numbers, _taken_texts(self.texts, kept), vectors)

    def spread(self, rows: Rows, row_count: int) -> Column:
        """Give the same values in other places: the i-th in row `rows[i]` of `row_count`; other rows are missing."""
        builder = ColumnBuilder(row_count)
        builder.put_column(rows, self)
        return builder.build()


def _taken_texts(texts: Texts | None, kept: NDArray[np.bool_]) -> Texts | None:
    """Keep some rows' texts, and of the known ones those that are still there."""
    if texts is None:
        return None
    codes = texts.codes[kept]
    used = np.unique(codes[codes >= 0])
    renumbered = np.full(len(texts.known) + 1, -1, np.int32)  # the last place is that of -1
    renumbered[used] = np.arange(used.size, dtype=np.int32)
    return Texts(renumbered[codes], [texts.known[code] for code in used], texts.lengths[used])


@dataclass(frozen=True, slots=True)
class Frame:
    """Rows, each with what it has in the columns."""

    row_count: int
    columns: Mapping[str, Column]

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, about."""
        return sum(column.size_bytes for column in self.columns.values())

    def take(self, kept: NDArray[np.bool_]) -> Frame:
        """Keep the rows where `kept` [N] is true."""
        columns = {name: column.take(kept) for name, column in self.columns.items()}
        return Frame(int(np.count_nonzero(kept)), columns)

    def spread(self, rows: Rows, row_count: int) -> Frame:
        """Put the rows into other places: the i-th into `rows[i]`, ascending, of `row_count`."""
        return Frame(row_count, {name: column.spread(rows, row_count) for name, column in self.columns.items()})


def numbers_column(values: NDArray[np.generic]) -> Column:
    """Take an array [N] of numbers or booleans; NaN is missing."""
    tag = Tag.BOOLEAN if values.dtype == np.bool_ else Tag.NUMBER
    numbers = values.astype(np.float64, copy=False)
    return Column(np.where(np.isnan(numbers), np.uint8(Tag.MISSING), np.uint8(tag)), numbers)


def shortened(text: str) -> str:
    """Give what is kept of a text: nothing that a database can't hold, and of a long one its beginning and a digest."""
    if len(text) > MAX_TEXT_CHARS:
        digest = hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=16).hexdigest()
        text = text[: MAX_TEXT_CHARS - len(digest)] + digest
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode(errors="replace").decode()


def joined(frames: Sequence[Frame]) -> Frame:
    """Put rows one after the other; a column that some frame lacks is missing there."""
    if len(frames) == 1:
        return frames[0]
    names = dict.fromkeys(name for frame in frames for name in frame.columns)
    row_count = sum(frame.row_count for frame in frames)
    return Frame(row_count, {name: _joined(name, frames, row_count) for name in names})


def _joined(name: str, frames: Sequence[Frame], row_count: int) -> Column:
    builder, start = ColumnBuilder(row_count), 0
    for frame in frames:
        column = frame.columns.get(name)
        if column is not None:
            builder.put_column(np.arange(start, start + frame.row_count), column)
        start += frame.row_count
    return builder.build()


class ColumnBuilder:
    """A column in the making: nothing is there until it is put."""

    def __init__(self, row_count: int, *, dimensions: int = 0) -> None:
        """Vectors of `dimensions` are kept, others are nested; 0: of those that most rows have."""
        self._dimensions = dimensions
        self._tags = np.zeros(row_count, np.uint8)
        self._numbers: Floats | None = None
        self._codes: NDArray[np.int32] | None = None
        self._known: dict[str, int] = {}
        self._lengths: list[int] = []
        self._vectors: list[tuple[Rows, NDArray[np.float32]]] = []

    def put_numbers(self, rows: Rows | slice, values: NDArray[np.generic] | Sequence[float], tag: Tag) -> None:
        """Put numbers, or booleans as 0 and 1."""
        if self._numbers is None:
            self._numbers = np.full(self._tags.size, np.nan)
        self._numbers[rows] = values
        self._tags[rows] = tag

    def put_texts(self, rows: Rows | slice, texts: Iterable[str]) -> None:
        """Put texts."""
        codes = np.fromiter((self._code(text) for text in texts), np.int32)
        self._put_codes(rows, codes)

    def put_coded(self, rows: Rows, codes: NDArray[np.integer[Any]], texts: Sequence[str]) -> None:
        """Put texts of which many rows have the same: `codes` index `texts`."""
        found = np.fromiter((self._code(text) for text in texts), np.int32, len(texts))
        self._put_codes(rows, found[codes])

    def put_vectors(self, rows: Rows, vectors: NDArray[np.generic]) -> None:
        """Put vectors [rows, dimensions]."""
        with np.errstate(over="ignore"):  # beyond a float's range is infinite, which is counted as not finite
            self._vectors.append((rows, vectors.astype(np.float32)))

    def put_tag(self, rows: Rows | slice, tag: Tag) -> None:
        """Put something that has no value to keep."""
        self._tags[rows] = tag

    def put_values(self, rows: Rows, values: Sequence[object]) -> None:
        """Put values as Python has them: numbers, booleans, texts, lists of numbers; None and NaN are missing."""
        kinds = set(map(type, values))
        if kinds == {float}:
            self.put_numbers(rows, np.fromiter(values, np.float64, len(values)), Tag.NUMBER)
            return
        for kind in kinds:
            chosen = np.fromiter((type(value) is kind for value in values), np.bool_, len(values))
            some = [value for value in values if type(value) is kind]
            self._put_kind(rows[chosen], kind, some)

    def put_column(self, rows: Rows, column: Column) -> None:
        """Put a column's rows into these."""
        if column.numbers is not None:
            self.put_numbers(rows, column.numbers, Tag.NUMBER)
        if column.texts is not None:
            pairs = zip(column.texts.known, column.texts.lengths.tolist(), strict=True)
            coded = np.fromiter((self._known_code(text, length) for text, length in pairs), np.int32)
            self._put_codes(rows, np.append(coded, np.int32(-1))[column.texts.codes])
        if column.vectors is not None:
            self._vectors.append((rows[column.has(Tag.VECTOR)], column.vectors))
        self._tags[rows] = column.tags

    def build(self) -> Column:
        """Give the column."""
        vectors = self._built_vectors()
        if self._numbers is not None:
            self._tags[np.isnan(self._numbers) & (self._tags == int(Tag.NUMBER))] = Tag.MISSING
        texts = None
        if self._codes is not None:
            texts = Texts(self._codes, list(self._known), np.array(self._lengths, np.int64))
        return Column(self._tags, self._numbers, texts, vectors)

    def _built_vectors(self) -> NDArray[np.float32] | None:
        if not self._vectors:
            return None
        by_size: Counter[int] = Counter()
        for rows, vectors in self._vectors:
            by_size[vectors.shape[1]] += rows.size
            self._tags[rows] = Tag.NESTED
        dimensions = self._dimensions or by_size.most_common(1)[0][0]
        fitting = [(rows, vectors) for rows, vectors in self._vectors if vectors.shape[1] == dimensions]
        if not fitting:
            return None
        rows = np.concatenate([rows for rows, _ in fitting])
        self._tags[rows] = Tag.VECTOR
        return np.concatenate([vectors for _, vectors in fitting])[np.argsort(rows, kind="stable")]

    def _put_kind(self, rows: Rows, kind: type, values: Sequence[object]) -> None:
        if kind is bool:
            self.put_numbers(rows, np.array(values, np.float64), Tag.BOOLEAN)
        elif kind in (int, float):
            self.put_numbers(rows, np.array([_float(value) for value in values]), Tag.NUMBER)
        elif kind is str:
            self.put_texts(rows, (str(value) for value in values))
        elif kind is list:
            for row, value in zip(rows, values, strict=True):
                self._put_list(np.array([row]), value)
        elif kind is not type(None):
            self.put_tag(rows, Tag.NESTED)

    def _put_list(self, row: Rows, value: object) -> None:
        fits = isinstance(value, list) and 0 < len(value) <= MAX_DIMENSIONS
        if fits and all(type(number) in (int, float, type(None)) for number in value):  # type: ignore[attr-defined]
            self.put_vectors(row, np.array([[_float(number) for number in value]]))  # type: ignore[attr-defined]
        else:
            self.put_tag(row, Tag.NESTED)

    def _put_codes(self, rows: Rows | slice, codes: NDArray[np.int32]) -> None:
        if self._codes is None:
            self._codes = np.full(self._tags.size, -1, np.int32)
        self._codes[rows] = codes
        self._tags[rows] = Tag.TEXT

    def _code(self, text: str) -> int:
        return self._known_code(shortened(text), len(text))

    def _known_code(self, text: str, length: int) -> int:
        code = self._known.setdefault(text, len(self._known))
        if code == len(self._lengths):
            self._lengths.append(length)
        return code


def _float(value: object) -> float:
    if value is None:  # in a list, where NaN stands for it
        return float("nan")
    try:
        return float(value)  # type: ignore[arg-type] # a number, as its caller found
    except OverflowError:  # an integer of hundreds of digits
        return float("inf")


def distinct(column: Column) -> tuple[NDArray[np.intp], list[bool | float | str]]:
    """Find the distinct values that are no vectors: [N] indices into them, -1 where a row has none."""
    codes = np.full(column.tags.size, -1, np.intp)
    values: list[bool | float | str] = []
    for tag, as_value in ((Tag.NUMBER, float), (Tag.BOOLEAN, bool)):
        if column.numbers is None:
            break
        rows = np.flatnonzero(column.has(tag))
        found, inverse = np.unique(column.numbers[rows], return_inverse=True)
        codes[rows] = inverse + len(values)
        values.extend(as_value(value) for value in found.tolist())
    if column.texts is not None:
        rows = np.flatnonzero(column.has(Tag.TEXT))
        codes[rows] = column.texts.codes[rows] + len(values)
        values.extend(column.texts.known)
    return codes, values


def row_hashes(columns: Iterable[Column], row_count: int) -> NDArray[np.uint64]:
    """Hash each row over its columns: rows that are equal in all of them have one hash, within this process."""
    found = np.zeros(row_count, np.uint64)
    bits: list[NDArray[Any]] = [_bits(column) for column in columns]
    for start in range(0, row_count, _BLOCK_ROWS):  # that many at a time stay in the processor's cache
        rows = slice(start, start + _BLOCK_ROWS)
        part = found[rows]
        for column in bits:
            # A sum, in which -0 is 0; of integers it is them.
            part ^= (column[rows] + 0.0).view(np.uint64) if column.dtype == np.float64 else column[rows]
            part *= _GOLDEN
            part ^= part >> _SHIFT
    return found


def repeats(hashes: NDArray[np.uint64]) -> int:
    """Count those that are there before: all but the first of each."""
    ordered = np.sort(hashes)  # much faster than numpy's unique, which takes a hash table for integers
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def _bits(column: Column) -> NDArray[Any]:
    """Give what tells a column's rows apart, whatever other rows it has: of a number its bits."""
    if column.numbers is not None and column.only(Tag.NUMBER):
        return column.numbers
    found = (column.tags + np.uint64(1)) * _MIX
    if column.numbers is not None:
        bits = (column.numbers + 0.0).view(np.uint64)
        found = np.where(column.has(Tag.NUMBER), bits, np.where(column.has(Tag.BOOLEAN), found + bits, found))
    if column.texts is not None:
        known = np.array([hash(text) for text in (*column.texts.known, "")], np.int64).view(np.uint64)
        found += np.where(column.texts.codes >= 0, known[column.texts.codes], np.uint64(0))
    if column.vectors is not None:
        found[column.has(Tag.VECTOR)] += _vector_hashes(column.vectors)
    return found


def _vector_hashes(vectors: NDArray[np.float32]) -> NDArray[np.uint64]:
    """Hash each vector by its bits, some thousands at a time: as 64-bit integers they take twice the room."""
    odd = np.arange(1, 2 * vectors.shape[1], 2, dtype=np.uint64) * _GOLDEN
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    found = np.empty(bits.shape[0], np.uint64)
    for start in range(0, bits.shape[0], _BLOCK_ROWS):
        found[start : start + _BLOCK_ROWS] = bits[start : start + _BLOCK_ROWS].astype(np.uint64) @ odd
    return found
