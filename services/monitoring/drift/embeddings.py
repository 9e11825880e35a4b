"""Whether vectors are distributed as in the reference: can a classifier tell the two apart?

A classifier two-sample test: Lopez-Paz and Oquab, Revisiting classifier two-sample tests, ICLR 2017. Each half of both
samples is judged by a logistic regression that was fitted to the other half, so that its AUC is Mann and Whitney's U of
values that had no part in the fit. The two halves' p are taken together by Bonferroni. Vectors are brought to a few
principal components, which know nothing of the sides, and their squares, so that a change of spread shows as well as
one of place.

All rows of a user lie in one half, and components are those of the half that is fitted: else the classifier learns
users, finds them again, and no p allows for that. The AUC's variance is that of clusters of rows (Obuchowski,
Biometrics 53, 1997, p. 567), judged by Student's t.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.monitoring.profiles.models import VectorSample

Numbers = NDArray[np.float64]
Users = NDArray[np.uint32]
FEWEST = 40
"""Vectors of each side below which nothing is said."""
FEWEST_USERS = 10.0
"""What the users of each half must be worth: Kish's (Σn)²/Σn²."""
_LEAST_NAMED = 0.5
"""Where fewer vectors than this share name a user, those that do say nothing of the rest."""
_COMPONENTS = 16
_ROWS_PER_WEIGHT = 8
_PENALTY = 1.0
_STEPS = 25
_SETTLED = 1e-6
_MIX = np.uint32(0x9E3779B1)


@dataclass(frozen=True, slots=True)
class Separation:
    """How well the two sides can be told apart: the area under the ROC curve, 0.5 where not at all.

    `overdispersion` is how many times as large the AUC's variance is as that of independent rows.
    """

    auc: float
    p_value: float
    overdispersion: float


@dataclass(frozen=True, slots=True)
class _Side:
    """Vectors [n, d] of one half of one side, and the user of each."""

    rows: Numbers
    users: Users

    @property
    def user_parts(self) -> float:
        """What the users are worth."""
        _, counts = np.unique(self.users, return_counts=True)
        return float(counts.sum() ** 2 / (counts.astype(np.float64) ** 2).sum()) if counts.size else 0.0


def separation(reference: VectorSample, live: VectorSample, *, overdispersion: float) -> Separation | None:
    """Compare samples; None: users are not named, or too few, to say anything.

    `overdispersion` is the least that is taken for the AUC's: what the features show of rows alike in time.
    """
    halves = [(_half(reference, half), _half(live, half)) for half in (0, 1)]
    if any(not _enough(side) for half in halves for side in half):
        return None
    tried = [_judged(halves[1 - half], halves[half], overdispersion) for half in (0, 1)]
    return Separation(
        auc=float(np.mean([each.auc for each in tried])),
        p_value=min(1.0, 2 * min(each.p_value for each in tried)),
        overdispersion=max(each.overdispersion for each in tried),
    )


def _half(sample: VectorSample, half: int) -> _Side:
    """Take the users of one half, the same on both sides, who name themselves."""
    named = sample.users > 0
    if named.mean() < _LEAST_NAMED if named.size else True:
        named = np.zeros_like(named)
    vectors = np.asarray(sample.vectors, dtype=np.float64)
    chosen = named & ((sample.users * _MIX) >> np.uint32(31) == half) & np.isfinite(vectors).all(axis=1)
    return _Side(vectors[chosen], sample.users[chosen])


def _enough(side: _Side) -> bool:
    return len(side.rows) >= FEWEST / 4 and side.user_parts >= FEWEST_USERS


class _Projection:
    """Principal components of both sides together, scaled to σ, and their squares."""

    def __init__(self, rows: Numbers) -> None:
        self._mean = rows.mean(axis=0)
        count = max(1, min(_COMPONENTS, len(rows) // (2 * _ROWS_PER_WEIGHT), rows.shape[1]))
        _, spreads, axes = np.linalg.svd(rows - self._mean, full_matrices=False)
        self._axes = axes[:count].T * (np.sqrt(len(rows)) / np.maximum(spreads[:count], 1e-12))

    def __call__(self, rows: Numbers) -> Numbers:
        places = np.clip((rows - self._mean) @ self._axes, -10, 10)
        return np.concatenate((np.ones((len(rows), 1)), places, places**2 - 1), axis=1)


def _fitted(reference: Numbers, live: Numbers) -> Numbers:
    """Fit a logistic regression with a ridge penalty by Newton's steps; both sides weigh the same."""
    rows = np.concatenate((reference, live))
    target = np.repeat((0.0, 1.0), (len(reference), len(live)))
    weight = np.repeat((len(rows) / 2 / len(reference), len(rows) / 2 / len(live)), (len(reference), len(live)))
    penalty = np.full(rows.shape[1], _PENALTY)
    penalty[0] = _SETTLED
    beta = np.zeros(rows.shape[1])
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(rows @ beta, -30, 30)))
        slope = rows.T @ (weight * (target - chance)) - penalty * beta
        curve = (rows * (weight * chance * (1 - chance))[:, None]).T @ rows + np.diag(penalty)
        step = np.linalg.solve(curve, slope)
        beta = beta + step
        if np.abs(step).max() < _SETTLED:
            break
    return np.asarray(beta)


def _judged(fitted: tuple[_Side, _Side], judged: tuple[_Side, _Side], overdispersion: float) -> Separation:
    """Fit to one half, and judge the other by it."""
    from scipy import special

    project = _Projection(np.concatenate([side.rows for side in fitted]))
    beta = _fitted(*(project(side.rows) for side in fitted))
    before, now = (project(side.rows) @ beta for side in judged)
    auc, of_before, of_now, independent = _mann_whitney(before, now)
    if independent <= 0:
        return Separation(auc, 1.0, 1.0)
    parts = [_of_clusters(each, side) for each, side in zip((of_before, of_now), judged, strict=True)]
    clustered = sum(variance for variance, _ in parts)
    spread = max(1.0, overdispersion, clustered / independent)
    freedom = _freedom(parts)
    p_value = float(special.stdtr(freedom, -(auc - 0.5) / np.sqrt(spread * independent)))
    return Separation(auc, p_value, spread)


def _mann_whitney(before: Numbers, now: Numbers) -> tuple[float, Numbers, Numbers, float]:
    """Give the AUC, each value's part in it (DeLong and others, Biometrics 44, 1988), and its variance by chance."""
    from scipy import stats

    n, m = len(before), len(now)
    ranks = stats.rankdata(np.concatenate((before, now)))
    above = 1 - (ranks[:n] - stats.rankdata(before)) / m
    below = (ranks[n:] - stats.rankdata(now)) / n
    auc = float(below.mean())
    _, ties = np.unique(ranks, return_counts=True)
    total = n + m
    lost = float((ties.astype(np.float64) ** 3 - ties).sum()) / (total * (total - 1))
    return auc, above - auc, below - auc, float((total + 1 - lost) / (12 * n * m))


def _of_clusters(parts: Numbers, side: _Side) -> tuple[float, float]:
    """Give the variance of the mean of a side's parts, whose users are the independent ones, and its freedom."""
    _, places = np.unique(side.users, return_inverse=True)
    sums = np.bincount(places, weights=parts)
    variance = float((sums**2).sum()) / len(parts) ** 2 * len(sums) / (len(sums) - 1)
    return variance, side.user_parts - 1


def _freedom(parts: list[tuple[float, float]]) -> float:
    """Give the degrees of freedom of a sum of variances (Satterthwaite, Biometrics Bulletin 2, 1946)."""
    total = sum(variance for variance, _ in parts)
    spread = sum(variance**2 / freedom for variance, freedom in parts)
    return float(total**2 / spread) if spread > 0 else min(freedom for _, freedom in parts)
