"""The 95 % interval of a difference of two shares, measured on the same rows."""

from __future__ import annotations

import math
from typing import Final

Z: Final = 1.959963984540054
"""The normal distribution's 97.5 % quantile."""
_HALVINGS: Final = 60


def paired_interval(rows: float, only_first: float, only_second: float) -> tuple[float, float]:
    """Give the 95 % score interval of (first - second), of rows that each of two did right or wrong.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the paired-sample
    design", Statistics in Medicine 17 (1998), 891 to 908: all differences that the score test does not reject. It
    stands on the rows alone on which the two differ, and needs no least number of them: where they never differ, it
    still says what so many rows rule out. From 30 rows on it covers the truth in 94 % or more, which
    tests/unit/test_validation_intervals.py adds up exactly.

    Args:
        rows: all of them; with the others no whole number where rows that belong together are weighed, see `grouped`.
        only_first: those that the first alone did right.
        only_second: those that the second alone did right.
    """
    observed = (only_first - only_second) / rows
    low = _edge(rows, only_first, only_second, -1.0, observed, Z)
    high = _edge(rows, only_first, only_second, observed, 1.0, -Z)
    return low, high


def _edge(rows: float, only_first: float, only_second: float, low: float, high: float, score: float) -> float:
    """Find where the score, which falls as the difference grows, has a value between two differences."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _score(rows, only_first, only_second, middle) > score:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _score(rows: float, only_first: float, only_second: float, difference: float) -> float:
    """How far what was seen is from a true difference, in standard errors under it (Tango's equation 11)."""
    b = (2 * rows - only_first + only_second) * difference - only_first - only_second
    c = -only_second * difference * (1 - difference)
    # The likeliest share of rows that the second alone does right, if the difference were this.
    share = (math.sqrt(max(b * b - 8 * rows * c, 0.0)) - b) / (4 * rows)
    variance = rows * (2 * share + difference * (1 - difference))
    distance = only_first - only_second - rows * difference
    if variance <= 0:
        return 0.0 if distance == 0 else math.copysign(math.inf, distance)
    return distance / math.sqrt(variance)
