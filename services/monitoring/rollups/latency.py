"""Latencies counted in log-spaced bins, which add up: percentiles of any window are right to 1 %.

A bin i holds what lies above g^(i-1) ms, up to and with g^i, for g = (1 + a) / (1 - a); 2 g^i / (g + 1) is then within
a share a of everything in it. From C. Masson, J. E. Rim and H. K. Lee, "DDSketch: a fast and fully-mergeable quantile
sketch with relative-error guarantees", PVLDB 12(12), 2019, section 2. No bins are ever collapsed: over all positive
doubles there are 73,000 of them, and from 1 µs to an hour 1,100.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RELATIVE_ERROR = 0.01
GAMMA = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
BIN_WIDTH = math.log(GAMMA)
"""In natural logarithms."""
ZERO_BIN = -(2**31)
"""Holds latencies of 0, below all others."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Latencies above `from_ms`, up to and with `to_ms`."""

    from_ms: float
    to_ms: float
    count: int


class Latencies:
    """How many latencies lie in which bins: those that hold some, ascending."""

    __slots__ = ("bins", "counts")

    def __init__(self, bins: ArrayLike = (), counts: ArrayLike = ()) -> None:
        self.bins: NDArray[np.int64] = np.asarray(bins, np.int64)
        self.counts: NDArray[np.int64] = np.asarray(counts, np.int64)

    @classmethod
    def merged(cls, several: Iterable[Latencies]) -> Latencies:
        """Add up."""
        all_ = [latencies for latencies in several if latencies.bins.size]
        if len(all_) < 2:
            return all_[0] if all_ else cls()
        bins = np.concatenate([latencies.bins for latencies in all_])
        counts = np.concatenate([latencies.counts for latencies in all_])
        order = np.argsort(bins, kind="stable")
        bins = bins[order]
        begins = np.concatenate(([0], np.flatnonzero(bins[1:] != bins[:-1]) + 1))
        return cls(bins[begins], np.add.reduceat(counts[order], begins))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Latencies):
            return NotImplemented
        return np.array_equal(self.bins, other.bins) and np.array_equal(self.counts, other.counts)

    __hash__ = None  # type: ignore[assignment] # arrays have none

    def __repr__(self) -> str:
        return f"Latencies({self.bins.tolist()}, {self.counts.tolist()})"

    @property
    def count(self) -> int:
        """All of them."""
        return int(self.counts.sum())

    def percentile(self, percent: int) -> float | None:
        """Give the latency, in ms, that this percentage is at or below, within 1 %; None where there are none.

        As NumPy's method "inverted_cdf" has it: the least of the latencies for which that is so.
        """
        (found,) = self.percentiles((percent,))
        return found

    def percentiles(self, percents: Sequence[int]) -> list[float | None]:
        """Give several in one go."""
        if not self.bins.size:
            return [None] * len(percents)
        reached = np.cumsum(self.counts)
        ranks = [max(1, -(-int(reached[-1]) * percent // 100)) for percent in percents]
        return [value_of(int(bin_)) for bin_ in self.bins[np.searchsorted(reached, ranks)]]

    def bounds(self) -> Iterator[Bin]:
        """Give the bins with their bounds, the lowest first."""
        for bin_, count in zip(self.bins.tolist(), self.counts.tolist(), strict=True):
            below = 0.0 if bin_ == ZERO_BIN else upper_bound(bin_ - 1)
            yield Bin(below, upper_bound(bin_), count)


def upper_bound(bin_: int) -> float:
    """Give the largest latency of a bin, in ms."""
    if bin_ == ZERO_BIN:
        return 0.0
    try:
        return math.exp(bin_ * BIN_WIDTH)
    except OverflowError:
        return math.inf


def value_of(bin_: int) -> float:
    """Give the latency that stands for a bin, in ms."""
    return upper_bound(bin_) * 2 / (GAMMA + 1)
