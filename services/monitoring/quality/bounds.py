"""How large a share may be before chance explains it no longer.

Two limits stand on each other, each of half the level that is left for one question:

1. What the reference's true share may be: the upper limit of Clopper and Pearson (Biometrika 26, 1934, p. 404), exact
   for counts; a reference of 200 clean rows does not prove that its share is nothing.
2. How many of the live rows may have it where that share, and what is tolerated on top, is the truth: the upper
   quantile of the binomial distribution.

The questions of one check share `LEVEL` evenly (Bonferroni), so that a check of data at the very edge of what is
tolerated is wrong in at most 1 %, and one of data as in the reference hardly ever. Rows of one user resemble each
other: n of them say as much as n divided by the design effect (Kish, Survey Sampling, 1965, section 8.2), which random
groups of users estimate: see `design_effect`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from services.monitoring.profiles.models import Counts
from services.monitoring.profiles.overdispersion import overdispersion

LEVEL: Final = 0.01
"""The chance that a check finds anything in data that is at most as bad as is tolerated."""
_DESIGN_CONFIDENCE: Final = 0.9
_HALVINGS = 100
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Questions:
    """Arrays of one length: is the live share of each larger than chance explains?

    Attributes:
        rows: live rows, each already divided by its design effect.
        reference_share: in the reference.
        reference_rows: of it, divided likewise.
        tolerance: what is let pass on top of the reference's share.
        growth: how many times as many rows are looked at together as in the reference. Repeats become more frequent
            with it by chance alone; 1 for all else.
    """

    rows: Numbers
    reference_share: Numbers
    reference_rows: Numbers
    tolerance: Numbers
    growth: Numbers


def largest_shares(questions: Questions, *, level: float = LEVEL) -> Numbers:
    """Give the share of each that must not be exceeded, 0 to 1."""
    count = len(questions.rows)
    if count == 0:
        return np.zeros(0)
    each = level / count / 2
    rows = np.maximum(np.floor(questions.rows), 1)
    limit = upper_limits(questions.reference_share, questions.reference_rows, each)
    limit = np.where(questions.growth > 1, grown_repeats(limit, questions.growth), limit)
    return most_hits(rows, np.minimum(limit + questions.tolerance, 1), each) / rows


def upper_limits(share: Numbers, rows: Numbers, level: float) -> Numbers:
    """Give the largest true share that an observed one is compatible with, after Clopper and Pearson."""
    from scipy import special

    hits = share * rows
    # The quantile of the beta distribution; where every row has it the limit is 1, and no beta distribution.
    misses = np.maximum(rows - hits, 1e-9)
    found: Numbers = np.where(rows > hits, special.betaincinv(hits + 1, misses, 1 - level), 1.0)
    return found


def most_hits(rows: Numbers, share: Numbers, level: float) -> Numbers:
    """Give the least number of hits that more than are as rare as `level`: the upper binomial quantile."""
    # Not scipy.stats, whose import takes a second.
    from scipy import special

    certain, whole = share >= 1, rows.astype(np.int64)
    share = np.where(certain, 0.5, share)
    # An interpolation, and near the ends it is off by one hit.
    hits: Numbers = np.clip(np.nan_to_num(np.ceil(special.bdtrik(1 - level, rows, share))), 0, rows)
    hits = np.where(special.bdtrc(np.maximum(hits - 1, 0), whole, share) <= level, np.maximum(hits - 1, 0), hits)
    hits = np.where(special.bdtrc(hits, whole, share) > level, np.minimum(hits + 1, rows), hits)
    return np.where(certain, rows, hits)


def grown_repeats(share: Numbers, growth: Numbers) -> Numbers:
    """Give the share of repeats among `growth` times as many rows, where rows are drawn from equally likely kinds.

    Of n rows drawn from K kinds, K(1 - exp(-n/K)) are expected to be distinct (the classical occupancy problem;
    Feller, An Introduction to Probability Theory and Its Applications, volume 1, section IV.2), so that the share of
    repeats depends on n/K alone. Where kinds are not equally likely fewer repeats are to be expected: the bound errs
    on the side of silence.
    """
    low, high = np.zeros_like(share), np.full_like(share, 1e9)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        enough = _repeats(middle) >= share
        low, high = np.where(enough, low, middle), np.where(enough, middle, high)
    return np.minimum(_repeats(high * growth), 1.0)


def _repeats(rows_per_kind: Numbers) -> Numbers:
    """See `grown_repeats`; the series near 0 spares a difference of two ones."""
    safe = np.maximum(rows_per_kind, 1e-6)
    return np.where(rows_per_kind < 1e-6, rows_per_kind / 2, 1 + np.expm1(-safe) / safe)


def design_effect(table: Counts) -> float:
    """Say how many rows are worth as much as one by itself, at least 1, from the counts [groups, places] of users.

    The upper limit, at 90 %, of what the groups show: n of them estimate a variance with n - 1 degrees of freedom, so
    that few of them, which may be alike by chance, say little. One alone is one user, for all that is known; none at
    all are rows that name no user, which are taken to be independent.
    """
    from scipy import special

    groups = int(np.count_nonzero(table.sum(axis=1)))
    if groups < 2:
        return max(1.0, float(table.sum()))
    freedom = groups - 1
    return overdispersion(table) * freedom / float(special.chdtri(freedom, _DESIGN_CONFIDENCE))
