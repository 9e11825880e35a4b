"""How much a window's own parts deviate: between its times, and between its users.

A part's deviation is its counts less its rows times the reference's shares, so that drift which holds throughout the
window shifts all parts alike; weights that sum to 0 over the parts then show how much the counts vary without it:

- in time, cosines of 1, 2, …, B half waves over the window, their argument the share of the rows that came before:
  Lazarus, Lewis, Stock and Watson, HAR inference, J. Business & Economic Statistics 36 (2018), p. 541 (equal-weighted
  cosines). B of them see what goes on for longer than the window / B, at any smaller scale;
- between users, cosines over the groups that users are put into by hash, which are random groups: Wolter, Introduction
  to Variance Estimation, 2nd ed. 2007, chapter 2. Every orthonormal basis that sums to 0 serves alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
FEWEST = 6
"""With fewer waves a test says next to nothing."""
FEW = 12
MANY = 48
_ROWS_PER_WAVE = 7.0


@dataclass(frozen=True, slots=True)
class Waves:
    """A basis [B, parts] for parts with these numbers of rows."""

    basis: Numbers
    rows: int

    def deviations(self, counts: NDArray[np.int64], shares: Numbers) -> Numbers:
        """Give [B, K] from counts [parts, K]: each is as a whole window's deviation times √rows would be.

        Were rows independent, their covariance would be the multinomial one of a single row.
        """
        own = counts.sum(axis=1, dtype=np.int64)[:, None] * shares
        found: Numbers = self.basis @ (counts - own) * np.sqrt(2 / self.rows)
        return found

    def first(self, count: int) -> Waves:
        """Give the longest waves."""
        return Waves(self.basis[:count], self.rows)

    def __len__(self) -> int:
        return len(self.basis)


def effective_parts(rows: NDArray[np.int64]) -> float:
    """Say how many parts of one size would be as uneven: (Σn)² / Σn², Kish's effective number."""
    numbers = rows.astype(np.float64)
    squares = float((numbers**2).sum())
    return float(numbers.sum() ** 2 / squares) if squares else 0.0


def waves_in_time(rows: NDArray[np.int64]) -> Waves:
    """Give the waves over buckets in order; none where the rows lie in too few of them."""
    total = int(rows.sum())
    count = min(MANY, int(effective_parts(rows)) - 1)
    if count < FEWEST:
        return Waves(np.zeros((0, len(rows))), max(total, 1))
    place = (np.cumsum(rows) - rows / 2) / total
    return Waves(np.cos(np.pi * np.arange(1, count + 1)[:, None] * place), total)


def waves_of_users(rows: NDArray[np.int64]) -> Waves:
    """Give the waves over groups of users, [GROUPS]; groups without rows stay out."""
    used = rows > 0
    parts = int(used.sum())
    basis = np.zeros((max(parts - 1, 0), len(rows)))
    if parts > 1:
        place = (np.arange(parts) + 0.5) / parts
        basis[:, used] = np.cos(np.pi * np.arange(1, parts)[:, None] * place)
    return Waves(basis, max(int(rows.sum()), 1))


def wave_count(rows: int, likeness: float) -> int:
    """Say how many waves may be used: they must be long beside the time for which rows resemble each other."""
    return int(np.clip(rows / likeness / _ROWS_PER_WAVE, 8, MANY))


def overdispersion(deviations: Numbers, weights: Numbers) -> float:
    """Say how many times as large deviations are as those of independent rows, on average over bins."""
    degrees = deviations.shape[1] - 1
    if not len(deviations) or degrees < 1:
        return 1.0
    return float((deviations**2 * weights).sum() / len(deviations) / degrees)


def likeness(deviations: Numbers, weights: Numbers) -> float:
    """Say the same of the directions in which it is largest: Σλ² / Σλ over the covariance's eigenvalues λ.

    Σλ² is estimated without bias from a normal sample's (Srivastava, J. Japan Statistical Society 35, 2005, p. 251).
    """
    count = len(deviations)
    scaled = deviations * np.sqrt(weights)
    gram = scaled @ scaled.T / count
    trace = float(np.trace(gram))
    if count < 2 or trace <= 0:
        return 1.0
    squares = float((gram**2).sum()) - trace**2 / count
    return max(squares * count**2 / ((count - 1) * (count + 2)) / trace, 0.0)
