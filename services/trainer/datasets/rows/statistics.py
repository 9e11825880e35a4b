"""What is counted of columns while their rows go by, in bounded memory."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from services.trainer.datasets.kinds import ColumnType
from services.trainer.datasets.models import Column

KEPT_HASHES: Final = 4_096
"""Of the smallest; a count beyond them is within 1/√(4096 - 2) = 1.6 % of the truth, one standard deviation."""
MAX_COUNTED: Final = 20_000
"""Different texts that are counted at once; of more, the rarest are let go."""
TOP_VALUES: Final = 20
SHOWN_CHARS: Final = 128


class ColumnStatistics:
    """Counts a column."""

    def __init__(self, name: str, kind: ColumnType) -> None:
        self._name = name
        self._type = kind
        self._missing = 0
        self._distinct = DistinctSketch()
        self._moments = Moments()
        self._counter: Counter[str] = Counter()

    def add(self, array: Any) -> None:
        """Count some rows."""
        self._missing += array.null_count
        there = array.drop_null()
        if not len(there):
            return
        if self._type in (ColumnType.STRING, ColumnType.BOOL):
            counted = there.value_counts()
            texts = [_word(value) for value in counted.field(0).to_pylist()]
            self._counter.update(dict(zip(texts, counted.field(1).to_pylist(), strict=True)))
            self._distinct.add(np.array([_hash(text.encode()) for text in texts], np.uint64))
            if len(self._counter) > 2 * MAX_COUNTED:
                self._counter = Counter(dict(self._counter.most_common(MAX_COUNTED)))
        elif self._type is ColumnType.FLOAT64_LIST:
            self._distinct.add(np.array([_hash(np.array(each).tobytes()) for each in there.to_pylist()], np.uint64))
        else:
            self._distinct.add(_mixed(_bits(there)))
        if self._type in (ColumnType.FLOAT64, ColumnType.INT64, ColumnType.BOOL):
            numbers = there.cast(pa.int8()) if self._type is ColumnType.BOOL else there
            self._moments.add(np.asarray(numbers.to_numpy(zero_copy_only=False)).astype(np.float64))

    def column(self) -> Column:
        """Say what was counted."""
        moments = self._moments
        there = moments.count > 0
        return Column(
            self._name,
            self._type,
            missing_count=self._missing,
            distinct_count=self._distinct.estimate(),
            min=moments.low if there else None,
            max=moments.high if there else None,
            mean=_finite(moments.mean) if there else None,
            standard_deviation=_finite(moments.deviation()) if there else None,
            top_values=tuple((_printable(text), count) for text, count in _most(self._counter)),
        )


class Moments:
    """Mean and spread of numbers that come in pieces (Chan, Golub and LeVeque 1983); infinities count for the ends."""

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self.low = math.inf
        self.high = -math.inf
        self._squares = 0.0

    def add(self, values: NDArray[np.float64]) -> None:
        """Take more numbers."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        with np.errstate(invalid="ignore", over="ignore"):
            mean = float(values.mean())
            squares = float(((values - mean) ** 2).sum())
            total = self.count + len(values)
            delta = mean - self.mean
            self.mean += delta * len(values) / total
            self._squares += squares + delta * delta * self.count * len(values) / total
        self.count = total

    def deviation(self) -> float:
        """Give the standard deviation of the sample, n - 1; 0 of a single number."""
        return math.sqrt(self._squares / (self.count - 1)) if self.count > 1 else 0.0


class DistinctSketch:
    """How many different values there are: exactly up to 4,095, beyond by the k smallest hashes (Bar-Yossef 2002)."""

    def __init__(self) -> None:
        self._hashes: NDArray[np.uint64] = np.empty(0, np.uint64)

    def add(self, hashes: NDArray[np.uint64]) -> None:
        """Take more hashes, spread evenly over 64 bits."""
        if len(self._hashes) == KEPT_HASHES:
            hashes = hashes[hashes < self._hashes[-1]]
        self._hashes = np.unique(np.concatenate([self._hashes, hashes]))[:KEPT_HASHES]

    def estimate(self) -> int:
        """Give the count, about."""
        if len(self._hashes) < KEPT_HASHES:
            return len(self._hashes)
        return round((KEPT_HASHES - 1) / (float(self._hashes[-1]) / 2.0**64))


def _bits(array: Any) -> NDArray[np.uint64]:
    whole = pa.types.is_timestamp(array.type)
    values = np.asarray((array.cast(pa.int64()) if whole else array).to_numpy(zero_copy_only=False))
    return values.astype(np.int64 if values.dtype.kind == "i" else np.float64).view(np.uint64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread 64 bits evenly over 64 (Stafford's mix 13, the last step of SplitMix64)."""
    with np.errstate(over="ignore"):
        mixed = values + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return mixed ^ (mixed >> np.uint64(31))


def _hash(data: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _most(counter: Counter[str]) -> list[tuple[str, int]]:
    """Give the most frequent, those as frequent in the order of the alphabet."""
    return sorted(counter.items(), key=lambda each: (-each[1], each[0]))[:TOP_VALUES]


def _printable(text: str) -> str:
    """Give a text that every database keeps."""
    return text[:SHOWN_CHARS].replace("\0", "\ufffd")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
