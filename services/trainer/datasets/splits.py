"""How a version's rows are divided into parts: the same split gives the same parts on every machine.

A hash is the first 8 bytes, big-endian, of SHA-256 of "SEED\\nTEXT", the seed in decimal. Each row has a share u, from
0 up to 1, and goes to train where u < train_share, to validation where u < train_share + validation_share, else to
test:

    SEED  the rows of one value of `stratify_column` (of all rows, where none is named) stand in the order of the hashes
          of their places (0, 1, 2 … in decimal), of equal ones in their own; that at rank r of n has u = (r + ½) / n.
    TIME  the rows stand in the order of their times, those without one first; a row that r of n others come before has
          u = (r + ½) / n, so that rows of one time stay together.
    KEY   u = the hash of the key's text / 2^64: the same in every version and dataset. Of a row without a key, the text
          is "row PLACE". Texts stand for themselves; whole numbers and times (µs since 1970) in decimal; true, false.
"""

from __future__ import annotations

import enum
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.common.errors import InvalidArgument
from services.trainer.task import Part

PARTS: Final = (Part.TRAIN, Part.VALIDATION, Part.TEST)
"""By the number that `parts_of` gives each row."""
_BATCH_TEXTS: Final = 65_536


class SplitBy(enum.StrEnum):
    """What decides where a row goes."""

    SEED = "SEED"
    """A hash of its place and the seed; evenly over the values of `stratify_column`, where one is named."""
    TIME = "TIME"
    """A time column: the earliest train, the latest test; rows of one time stay together."""
    KEY = "KEY"
    """A hash of a column's value and the seed: rows of one key stay together, in every version and dataset."""


@dataclass(frozen=True, slots=True)
class Split:
    """How rows are divided; what is left over is the test's.

    Attributes:
        by: what decides.
        train_share: of the rows, 0 to 1.
        validation_share: likewise; both together at most 1.
        seed: any 64-bit number.
        column: of TIME and KEY.
        stratify_column: of SEED; '': none.
    """

    by: SplitBy = SplitBy.SEED
    train_share: float = 0.7
    validation_share: float = 0.15
    seed: int = 0
    column: str = ""
    stratify_column: str = ""

    @property
    def read_column(self) -> str:
        """The column that has to be read; '': none."""
        return self.column or self.stratify_column

    def check(self) -> None:
        """See that it can be meant; raises InvalidArgument (INVALID_SHARES, UNKNOWN_COLUMN)."""
        for name in ("train_share", "validation_share"):
            share = getattr(self, name)
            if not 0 <= share <= 1:  # NaN is refused as well
                sentence = f"got {share}; 0 to 1 is allowed, of all rows"
                raise InvalidArgument.field(f"split.{name}", sentence, reason="INVALID_SHARES")
        if self.train_share == 0 or self.train_share + self.validation_share > 1 + 1e-9:
            sentence = f"got {self.train_share} and {self.validation_share}; what trains is above 0, both at most 1"
            raise InvalidArgument.field("split.train_share", sentence, reason="INVALID_SHARES")
        wanted = {SplitBy.SEED: "", SplitBy.TIME: "column", SplitBy.KEY: "column"}[self.by]
        if bool(self.column) != bool(wanted):
            sentence = "name the column of times or keys" if wanted else "only TIME and KEY go by a column"
            raise InvalidArgument.field("split.column", sentence, reason="UNKNOWN_COLUMN")
        if self.stratify_column and self.by is not SplitBy.SEED:
            sentence = "only rows divided by SEED can be spread evenly over a column's values"
            raise InvalidArgument.field("split.stratify_column", sentence, reason="UNKNOWN_COLUMN")

    def id_for(self, digest: str) -> str:
        """Name this split of the rows of a digest: 32 lowercase hex digits, the same for the same."""
        said = [digest, self.by, self.train_share, self.validation_share, self.seed, self.column, self.stratify_column]
        return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class DefaultSplit:
    """How rows are divided where nobody said by what: that is left to what the rows are, see `dividing.default_split`.

    Attributes:
        train_share: as of Split.
        validation_share: likewise.
        seed: likewise.
        stratify_column: likewise; '': as the label is.
    """

    train_share: float = 0.7
    validation_share: float = 0.15
    seed: int = 0
    stratify_column: str = ""


def parts_of(
    split: Split, row_count: int, column: pa.ChunkedArray | None, check: Callable[[], None] = lambda: None
) -> NDArray[np.int8]:
    """Say of each row in which of PARTS it is. `column` has the values of `split.read_column`.

    `check` is called several times a second while rows are hashed, and may raise.

    Raises:
        InvalidArgument: UNKNOWN_COLUMN: the column's values are no times, or no keys.
    """
    if split.by is SplitBy.KEY:
        shares = _shares_by_key(split, _needed(column), check)
    elif split.by is SplitBy.TIME:
        shares = _shares_by_time(_needed(column))
    else:
        shares = _shares_by_seed(split, row_count, column, check)
    bounds = np.array([split.train_share, min(1.0, split.train_share + split.validation_share)])
    if math.isclose(bounds[1], 1.0, abs_tol=1e-9):
        bounds[1] = 1.0
    return np.searchsorted(bounds, shares, side="right").astype(np.int8)


def counts_of(parts: NDArray[np.int8]) -> Mapping[Part, int]:
    """Count the rows of each part."""
    counts = np.bincount(parts, minlength=len(PARTS))
    return {part: int(counts[number]) for number, part in enumerate(PARTS)}


def check_filled(split: Split, counts: Mapping[Part, int]) -> None:
    """See that every part that was asked for has rows; raises InvalidArgument (EMPTY_PART)."""
    asked = {
        Part.TRAIN: split.train_share,
        Part.VALIDATION: split.validation_share,
        Part.TEST: 1 - split.train_share - split.validation_share,
    }
    for part, share in asked.items():
        if share > 1e-9 and not counts[part]:
            sentence = f"the part {part} would have no row of {sum(counts.values()):,}; give it another share, or 0"
            raise InvalidArgument.field("split", sentence, reason="EMPTY_PART")


def _hashes(seed: int, texts: Iterable[str], check: Callable[[], None]) -> NDArray[np.uint64]:
    prefix = f"{seed}\n"
    found = bytearray()
    coming = iter(texts)
    while batch := list(islice(coming, _BATCH_TEXTS)):
        check()
        found += b"".join([hashlib.sha256((prefix + text).encode()).digest()[:8] for text in batch])
    return np.frombuffer(bytes(found), ">u8").astype(np.uint64)


def _shares_by_seed(
    split: Split, row_count: int, column: pa.ChunkedArray | None, check: Callable[[], None]
) -> NDArray[np.float64]:
    hashes = _hashes(split.seed, map(str, range(row_count)), check)
    strata = np.zeros(row_count, np.int64) if column is None else _codes(column)
    order = np.lexsort((np.arange(row_count), hashes, strata))
    sizes = np.bincount(strata) if row_count else np.zeros(1, np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])[:-1]
    ranks = np.empty(row_count)
    ranks[order] = np.arange(row_count) - starts[strata[order]]
    shares: NDArray[np.float64] = (ranks + 0.5) / sizes[strata]
    return shares


def _shares_by_time(column: pa.ChunkedArray) -> NDArray[np.float64]:
    kind = column.type
    if not (pa.types.is_timestamp(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        sentence = f"its values are {kind}; name a column of times or numbers"
        raise InvalidArgument.field("split.column", sentence, reason="UNKNOWN_COLUMN")
    times = (column.cast(pa.int64()) if pa.types.is_timestamp(kind) else column).drop_null().to_numpy()
    there = column.is_valid().to_numpy()
    ranks = np.zeros(len(column))
    ranks[there] = column.null_count + np.searchsorted(np.sort(times), times, side="left")
    shares: NDArray[np.float64] = (ranks + 0.5) / max(1, len(column))
    return shares


def _shares_by_key(split: Split, column: pa.ChunkedArray, check: Callable[[], None]) -> NDArray[np.float64]:
    if pa.types.is_floating(column.type) or pa.types.is_list(column.type):
        sentence = f"its values are {column.type}; name a column of texts, whole numbers, times or booleans"
        raise InvalidArgument.field("split.column", sentence, reason="UNKNOWN_COLUMN")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.int64())
    coded = column.combine_chunks().dictionary_encode()
    hashes = _hashes(split.seed, _texts(coded.dictionary), check)
    there = coded.is_valid().to_numpy(zero_copy_only=False)
    found = np.zeros(len(coded), np.uint64)
    if len(hashes):
        found[there] = hashes[coded.indices.drop_null().to_numpy()]
    missing = np.flatnonzero(~there)
    found[missing] = _hashes(split.seed, (f"row {place}" for place in missing.tolist()), check)
    # 53 bits are what a double holds: rounding up would make a share of 1.
    shares: NDArray[np.float64] = (found >> np.uint64(11)).astype(np.float64) / 2.0**53
    return shares


def _codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """Number the values of a column; rows without one are a value of their own."""
    if pa.types.is_list(column.type):
        sentence = "its values are lists; name a column of classes"
        raise InvalidArgument.field("split.stratify_column", sentence, reason="UNKNOWN_COLUMN")
    indices = column.combine_chunks().dictionary_encode(null_encoding="encode").indices
    return np.asarray(indices.to_numpy()).astype(np.int64)


def _texts(keys: pa.Array) -> Iterator[str]:
    for start in range(0, len(keys), _BATCH_TEXTS):
        yield from map(_text, keys.slice(start, _BATCH_TEXTS).to_pylist())


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _needed(column: pa.ChunkedArray | None) -> pa.ChunkedArray:
    if column is None:
        raise ValueError("a split by a column needs its values")
    return column
