"""How far two distributions lie apart, by each of the usual measures, from bins. Each docstring names its source."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from services.monitoring.drift.independence import pearson
from services.monitoring.drift.models import Distances
from services.monitoring.profiles.models import FeatureKind, FeatureReference, LiveFeature

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
ORDERED = frozenset({FeatureKind.NUMERIC, FeatureKind.TEXT_LENGTH})
OUTSIDE = 2
"""The last bins of every feature: missing and other."""
_REACH_SIGMA = 5.0


def psi(reference: Counts, live: Counts) -> Numbers:
    """Population stability index Σ (q - p) ln(q / p); Siddiqi, Credit Risk Scorecards, 2006, p. 137.

    It is Jeffreys' divergence. Half a row is added to each bin (Jeffreys' prior), so that an empty one is not infinite;
    bins that are empty on both sides stay out. As all of these, it looks along the last axis.
    """
    used = (reference + live) > 0
    p, q = np.where(used, reference + 0.5, 0), np.where(used, live + 0.5, 0)
    p, q = p / p.sum(axis=-1, keepdims=True), q / q.sum(axis=-1, keepdims=True)
    ratio = np.where(used, q, 1) / np.where(used, p, 1)
    return np.asarray(((q - p) * np.log(ratio)).sum(axis=-1))


def chi_square(reference: Counts, live: Counts) -> tuple[Numbers, Numbers]:
    """Pearson's χ² of the table of both sides, and its p; Agresti, Categorical Data Analysis, 3rd ed. 2013, 3.2.1."""
    from scipy import special

    used = ((reference + live) > 0).sum(axis=-1)
    statistic = pearson(reference, live)
    return statistic, np.where(used > 1, special.chdtrc(np.maximum(used - 1, 1), statistic), 1.0)


def jensen_shannon(reference: Counts, live: Counts) -> Numbers:
    """The square root of Jensen and Shannon's divergence to base 2, 0 to 1.

    Endres and Schindelin, IEEE Transactions on Information Theory 49 (2003), p. 1858; scipy.spatial.distance has it.
    """
    p, q = _shares(reference), _shares(live)
    middle = np.where(p + q > 0, (p + q) / 2, 1.0)
    terms = p * np.log2(np.where(p > 0, p, middle) / middle) + q * np.log2(np.where(q > 0, q, middle) / middle)
    return np.asarray(np.sqrt(np.maximum(terms.sum(axis=-1) / 2, 0.0)))


def kolmogorov_smirnov(reference: Counts, live: Counts) -> tuple[Numbers, Numbers]:
    """The largest difference between cumulated shares of ordered bins, and its p after Kolmogorov and Smirnov.

    Smirnov, Annals of Mathematical Statistics 19 (1948), p. 279. Bins see a little less than the values themselves do,
    so p errs to the safe side.
    """
    from scipy import special

    n, m = reference.sum(axis=-1), live.sum(axis=-1)
    difference = np.cumsum(_shares(reference), axis=-1) - np.cumsum(_shares(live), axis=-1)
    statistic = np.abs(difference).max(axis=-1)
    return statistic, np.asarray(special.kolmogorov(statistic * np.sqrt(n * m / np.maximum(n + m, 1))))


def wasserstein(reference: Counts, live: Counts, points: Numbers) -> Numbers:
    """The area between the two cumulated distributions, rows spread evenly within their bins.

    The earth mover's distance in one dimension: Vallender, Theory of Probability 18 (1974), p. 784. `points` are the
    bins' ends, one more than bins.
    """
    right = np.cumsum(_shares(live) - _shares(reference), axis=-1)
    left = np.concatenate((np.zeros_like(right[..., :1]), right[..., :-1]), axis=-1)
    spread = np.abs(left) + np.abs(right)
    # Within a bin the difference runs straight; where it crosses 0 there are two triangles in place of a trapezium.
    crossed = (left**2 + right**2) / (2 * np.where(spread > 0, spread, 1.0))
    heights = np.where(left * right >= 0, spread / 2, crossed)
    return np.asarray((heights * np.diff(points)).sum(axis=-1))


def _shares(counts: Counts) -> Numbers:
    return np.asarray(counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1))


def of_feature(reference: FeatureReference, live: LiveFeature) -> Distances:
    """Give all that make sense for the feature. Both sides must have rows."""
    before, now = np.asarray(reference.counts, dtype=np.int64), live.counts.sum(axis=0, dtype=np.int64)
    statistic, p_value = chi_square(before, now)
    found = Distances(
        psi=float(psi(before, now)),
        chi_square=float(statistic),
        chi_square_p_value=float(p_value),
        jensen_shannon=float(jensen_shannon(before, now)),
    )
    before, now = before[:-OUTSIDE], now[:-OUTSIDE]
    if reference.kind not in ORDERED or not now.sum() or not before.sum():
        return found
    statistic, p_value = kolmogorov_smirnov(before, now)
    distance = float(wasserstein(before, now, bin_ends(reference, live))) if sigma(reference) else None
    return replace(found, ks_statistic=float(statistic), ks_p_value=float(p_value), wasserstein=distance)


def sigma(reference: FeatureReference) -> float:
    """Give the reference's standard deviation, what Wasserstein's distance is told in; 0 where there is none."""
    found = reference.moments.standard_deviation if reference.moments else 0.0
    return found if np.isfinite(found) else 0.0


def bin_ends(reference: FeatureReference, live: LiveFeature | None = None) -> Numbers:
    """Give the ends of the value bins in units of σ, the outer ones where the values of either side end.

    A live value may lie anywhere; further out than 5 σ beyond the reference's, it counts as lying there, so that a
    single one does not decide.
    """
    moments = reference.moments
    if moments is None:
        raise ValueError(f"{reference.name} has no moments")
    reach = _REACH_SIGMA * sigma(reference)
    low, high = min(moments.min, *reference.edges[:1]), max(moments.max, *reference.edges[-1:])
    if live is not None:
        low = min(low, max(live.min, low - reach)) if np.isfinite(live.min) else low
        high = max(high, min(live.max, high + reach)) if np.isfinite(live.max) else high
    return np.asarray([low, *reference.edges, high], dtype=np.float64) / sigma(reference)
