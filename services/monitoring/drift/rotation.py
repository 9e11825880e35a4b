"""How surprising a deviation is, measured by the deviations within the window itself.

A feature's deviation d, and B deviations r_1 … r_B that the window's own parts show (`replicates`), are under no drift
B + 1 draws from one normal distribution whose covariance nobody knows: rows of one user, or of one hour, resemble each
other, and not in all bins alike. What their joint distribution does not change under is a rotation among the draws, so
the quadratic form d'Wd is compared with that of a random rotation: Langsrud, Rotation tests, Statistics and Computing
15 (2005), p. 53. With one bin of two this is exactly the F test with 1 and B degrees of freedom. With unequal variances
of the parts it errs to the safe side at small levels: Bakirov and Székely, Student's t-test for Gaussian scale
mixtures, 2005; Ibragimov and Müller, J. Business & Economic Statistics 28 (2010), p. 453.

The chance itself, that of a ratio of quadratic forms, is the saddlepoint approximation of Lugannani and Rice (Advances
in Applied Probability 12, 1980, p. 475), as Butler and Paolella (Bernoulli 14, 2008, p. 140) have it for such ratios:
it stays within an eighth of it, on the safe side, however small the chance.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]
SMALLEST_P = 1e-12
"""A smaller chance is not told: no approximation is good enough for it, and nobody needs it."""
_HALVINGS = 70
_EDGE = 1e-9
_MIDDLE = 1e-3


def form_of(deviation: Numbers, replicates: Numbers, weights: Numbers) -> Numbers:
    """Give the eigenvalues, less the observed form, that `chances` reads.

    Args:
        deviation: [K].
        replicates: [B, K], B at least 1.
        weights: [K], the diagonal of W.
    """
    draws = np.vstack((deviation, replicates)) * np.sqrt(weights)
    gram = draws @ draws.T
    return np.asarray(np.linalg.eigvalsh(gram) - gram[0, 0], dtype=np.float64)


def chances(forms: Numbers) -> Numbers:
    """Give the chance of a form at least as large as the observed one, for each row of [F, B + 1] from `form_of`.

    It is P(Σ μ_i z_i² ≥ 0), with z a direction drawn at random.
    """
    scale = np.abs(forms).max(axis=1, keepdims=True)
    mu = forms / np.where(scale > 0, scale, 1.0)
    largest, smallest = mu.max(axis=1), mu.min(axis=1)
    certain, never = smallest >= -_EDGE, largest <= _EDGE
    plain = ~certain & ~never
    p = np.where(certain, 1.0, SMALLEST_P)
    if plain.any():
        p[plain] = _tail(mu[plain], _saddles(mu[plain]))
    return np.clip(p, SMALLEST_P, 1.0)


def _saddles(mu: Numbers) -> Numbers:
    """Solve K'(s) = Σ μ / (1 - 2 s μ) = 0 between its poles, where it rises from -∞ to ∞."""
    low, high = 0.5 / mu.min(axis=1), 0.5 / mu.max(axis=1)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        rises = (mu / (1 - 2 * middle[:, None] * mu)).sum(axis=1) > 0
        low, high = np.where(rises, low, middle), np.where(rises, middle, high)
    return np.asarray((low + high) / 2)


def _tail(mu: Numbers, saddle: Numbers) -> Numbers:
    from scipy import special

    slopes = 1 - 2 * saddle[:, None] * mu
    logarithm = -0.5 * np.log(slopes).sum(axis=1)
    curvature = 2 * ((mu / slopes) ** 2).sum(axis=1)
    root = np.sign(saddle) * np.sqrt(np.maximum(-2 * logarithm, 0))
    wald = saddle * np.sqrt(curvature)
    near = np.abs(root) < _MIDDLE  # at the mean both terms are infinite, and their difference has a limit
    skewness = 8 * ((mu / slopes) ** 3).sum(axis=1) / curvature**1.5
    density = np.exp(-0.5 * root**2) / np.sqrt(2 * np.pi)
    safe_root, safe_wald = np.where(near, 1.0, root), np.where(near, 1.0, wald)
    tail = special.ndtr(-root) + density * (1 / safe_wald - 1 / safe_root)
    p: Numbers = np.where(near, 0.5 - skewness / (6 * np.sqrt(2 * np.pi)), tail)
    return p
