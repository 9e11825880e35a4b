"""Numbers of a reference: quantile bins and moments, all read off one sort."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.monitoring.profiles.bins import OUTLIER_Z
from services.monitoring.profiles.frames import Floats
from services.monitoring.profiles.models import Moments

BIN_COUNT = 10
NORMAL_MAD = 1.482602218505602
"""1 / Φ⁻¹(3/4): a MAD times this is σ where values are normal (Rousseeuw and Croux, JASA 88, 1993, section 1)."""
_BLOCK = 65_536
_LARGE = 1e150
"""Beyond it squares overflow: such values are scaled before they are summed."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a reference says of numbers: bins between their quantiles, how many fall where, and their moments."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    moments: Moments
    outlier_count: int


def describe(values: Floats) -> Numbers:
    """Describe finite numbers [n]; n may be 0.

    An edge lies midway between a quantile and the next value above, so that the same value in fewer digits (a
    float32 where the reference was a float64) stays on its side.
    """
    values = np.sort(values)
    edges = _edges(values)
    ends = np.searchsorted(values, edges, side="right")
    counts = np.diff(np.concatenate(([0], ends, [values.size])))
    moments = _moments(values)
    far = OUTLIER_Z * moments.mad
    inside = np.searchsorted(values, moments.median + far, "right") - np.searchsorted(values, moments.median - far)
    outliers = values.size - int(inside) if far > 0 else 0
    return Numbers(tuple(edges.tolist()), tuple(counts.tolist()), moments, outliers)


def _edges(ordered: Floats) -> Floats:
    if not ordered.size:
        return np.empty(0)
    least, greatest = ordered[0], ordered[-1]
    if least == greatest:  # below it, it, above it: else no other value would ever be seen
        slack = 1e-6 * abs(least) or 1e-6
        return np.array([least - slack, least + slack])
    # Real values, as numpy's method "inverted_cdf" gives them; of ties some are the same, and make fewer bins.
    ranks = np.arange(1, BIN_COUNT) * ordered.size
    quantiles = np.unique(ordered[-(-ranks // BIN_COUNT) - 1])
    above = np.searchsorted(ordered, quantiles, side="right")
    at_end = above == ordered.size
    lower = quantiles.copy()
    upper = ordered[np.minimum(above, ordered.size - 1)]
    # Where a quantile is the greatest value, the edge is below it.
    lower[at_end] = ordered[np.searchsorted(ordered, greatest) - 1]
    middle = lower / 2 + upper / 2
    return np.unique(np.where((middle > lower) & (middle < upper), middle, lower))


def _moments(ordered: Floats) -> Moments:
    count = ordered.size
    if not count:
        return Moments(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    mean, deviation = _mean_and_deviation(ordered)
    median = _between(ordered[(count - 1) // 2], ordered[count // 2])
    return Moments(count, mean, deviation, float(ordered[0]), float(ordered[-1]), median, _mad(ordered, median))


def _mean_and_deviation(ordered: Floats) -> tuple[float, float]:
    largest = max(abs(float(ordered[0])), abs(float(ordered[-1])))
    scale = largest if largest > _LARGE else 1.0
    scaled = ordered if scale == 1.0 else ordered / scale
    mean = float(scaled.mean())
    if ordered.size == 1 or ordered[0] == ordered[-1]:
        return float(ordered[0]), 0.0
    squares = 0.0
    for start in range(0, scaled.size, _BLOCK):  # that many at a time stay in the processor's cache
        centred = scaled[start : start + _BLOCK] - mean
        squares += float(np.square(centred, out=centred).sum())  # a BLAS would wake its threads for it
    deviation = float(np.sqrt(squares / (ordered.size - 1)))
    return _bounded(mean * scale), _bounded(deviation * scale)


def _mad(ordered: Floats, median: float) -> float:
    """Find the median distance to the median: the distances below and above are each in order already."""
    split, count = int(np.searchsorted(ordered, median)), ordered.size
    middle = _between(*(_distance(ordered, median, split, rank) for rank in ((count - 1) // 2, count // 2)))
    return _bounded(middle * NORMAL_MAD)


def _distance(ordered: Floats, median: float, split: int, rank: int) -> float:
    """Find the distance of a rank, from 0, among those of the values below `split` and of those from it on."""

    def below(number: int) -> float:
        return median - float(ordered[split - 1 - number])

    def above(number: int) -> float:
        return float(ordered[split + number]) - median

    # How many of those below are among the rank + 1 nearest.
    low, high = max(0, rank + 1 - (ordered.size - split)), min(rank + 1, split)
    while low < high:
        taken = (low + high) // 2
        if below(taken) < above(rank - taken):
            low = taken + 1
        else:
            high = taken
    rest = rank + 1 - low
    return max(([below(low - 1)] if low else []) + ([above(rest - 1)] if rest else []))


def _between(low: float, high: float) -> float:
    return float(low / 2 + high / 2) if low != high else float(low)


def _bounded(value: float) -> float:
    greatest = float(np.finfo(np.float64).max)
    return float(min(max(value, -greatest), greatest))
