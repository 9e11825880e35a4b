"""The chance of a table of counts where rows are independent: Pearson's χ², drawn where counts are small.

Given how many rows fell into each bin on both sides together, which rows are live is a draw without replacement
(Fisher; Agresti, Categorical Data Analysis, 3rd ed. 2013, section 3.5). Draws go on until 20 were as extreme (Besag and
Clifford, Sequential Monte Carlo p-values, Biometrika 78, 1991, p. 301); their seed is fixed, so that the same counts
always have the same p.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
SEED = 20_080_427
_AMPLE = 20.0
_EXCEEDANCES = 20
_DRAWS = (1_000, 4_000, 15_000)
_MOST_ROWS = 500_000_000
"""NumPy draws from fewer than 10⁹."""


def pearson(reference: Counts, live: Counts) -> Numbers:
    """Give Pearson's statistic of the table of both sides, along the last axis."""
    n, m = reference.sum(axis=-1, keepdims=True), live.sum(axis=-1, keepdims=True)
    both = reference + live
    terms = (live / m - reference / n) ** 2 / np.where(both > 0, both, 1)
    return np.asarray((terms * (n + m) / (1 / n + 1 / m)).sum(axis=-1))


def asymptotic_chance(statistic: float, bins: int) -> float:
    """Give the χ² distribution's upper tail with bins - 1 degrees of freedom."""
    from scipy import special

    return float(special.chdtrc(bins - 1, statistic))


def drawn_chance(reference: Counts, live: Counts, statistic: float) -> float:
    """Give the chance of a statistic as large, by draws where any bin expects few rows."""
    both, m = reference + live, int(live.sum())
    total = int(both.sum())
    asymptotic = asymptotic_chance(statistic, len(both))
    if both.min() * min(m, total - m) / total >= _AMPLE or total >= _MOST_ROWS:
        return asymptotic
    generator = np.random.default_rng([SEED, total, m])
    exceeded = drawn = 0
    found = np.zeros(0)
    for size in _DRAWS:
        sample = generator.multivariate_hypergeometric(both, m, size=size, method="marginals")
        found = pearson(both - sample, sample)
        exceeded += int((found >= statistic * (1 - 1e-9)).sum())
        drawn += size
        if exceeded >= _EXCEEDANCES:
            break
    chance = (exceeded + 1) / (drawn + 1)
    return chance if exceeded else min(chance, max(asymptotic, _fitted_chance(statistic, found)))


def _fitted_chance(statistic: float, drawn: Numbers) -> float:
    """Go on where draws end, by the χ² distribution with their mean and variance, stretched."""
    from scipy import special

    stretch = float(drawn.var() / drawn.mean() / 2)
    return float(special.chdtrc(drawn.mean() / stretch, statistic / stretch))
