"""Whether vectors are distributed as in the reference: can a classifier tell the two apart?

A classifier two-sample test: Lopez-Paz and Oquab, Revisiting classifier two-sample tests, ICLR 2017. Each half of both
samples is judged by a logistic regression that was fitted to the other half, so that its AUC is Mann and Whitney's U of
values that had no part in the fit, and U's p is honest. The two halves' p are taken together by Bonferroni. Vectors are
brought to a few principal components, which know nothing of the sides, and their squares, so that a change of spread
shows as well as one of place.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
FEWEST = 40
"""Vectors of each side below which nothing is said."""
MOST = 2_000
_COMPONENTS = 16
_ROWS_PER_WEIGHT = 8
_PENALTY = 1.0
_STEPS = 25
_SEED = 19_470_301
_SETTLED = 1e-6


@dataclass(frozen=True, slots=True)
class Separation:
    """How well the two sides can be told apart: the area under the ROC curve, 0.5 where not at all."""

    auc: float
    p_value: float


def separation(reference: NDArray[np.float32], live: NDArray[np.float32], *, overdispersion: float) -> Separation:
    """Compare samples [n, d] and [m, d]; `overdispersion` says how many rows one that says something new stands for."""
    generator = np.random.default_rng(_SEED)
    sides = [_shuffled(_finite(side), generator) for side in (reference, live)]
    if min(map(len, sides)) < FEWEST:
        return Separation(0.5, 1.0)
    halves = [(sides[0][half::2], sides[1][half::2]) for half in (0, 1)]
    rows = np.concatenate(sides)
    project = _Projection(rows, min(len(half) for pair in halves for half in pair))
    tried = [
        _judged(_fitted(*(project(side) for side in halves[1 - half])), [project(side) for side in halves[half]])
        for half in (0, 1)
    ]
    aucs = [auc for auc, _ in tried]
    p_value = min(1.0, 2 * min(_chance(auc, spread * overdispersion) for auc, spread in tried))
    return Separation(float(np.mean(aucs)), p_value)


def _finite(vectors: NDArray[np.float32]) -> Numbers:
    found = np.asarray(vectors, dtype=np.float64)
    return np.asarray(found[np.isfinite(found).all(axis=1)])


def _shuffled(vectors: Numbers, generator: np.random.Generator) -> Numbers:
    return np.asarray(vectors[generator.permutation(len(vectors))[:MOST]])


class _Projection:
    """Principal components of both sides together, scaled to σ, and their squares."""

    def __init__(self, rows: Numbers, half: int) -> None:
        self._mean = rows.mean(axis=0)
        count = max(1, min(_COMPONENTS, half // _ROWS_PER_WEIGHT, rows.shape[1]))
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


def _judged(beta: Numbers, sides: list[Numbers]) -> tuple[float, float]:
    """Give the AUC and its variance where the sides are alike: Mann and Whitney, with the correction for ties."""
    from scipy import stats

    reference, live = (side @ beta for side in sides)
    n, m = len(reference), len(live)
    ranks = stats.rankdata(np.concatenate((reference, live)))
    auc = (ranks[n:].sum() - m * (m + 1) / 2) / (n * m)
    _, ties = np.unique(ranks, return_counts=True)
    total = n + m
    lost = float((ties.astype(np.float64) ** 3 - ties).sum()) / (total * (total - 1))
    return float(auc), float((total + 1 - lost) / (12 * n * m))


def _chance(auc: float, variance: float) -> float:
    """Give the chance of an AUC at least as large; one below a half says nothing."""
    from scipy import special

    return float(special.ndtr(-(auc - 0.5) / np.sqrt(variance))) if variance > 0 else 1.0
