"""The 95 % interval of a difference of two areas under the ROC curve, measured on the same rows."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from services.trainer.validating.grouped import Groups, grouped_reach
from services.trainer.validating.paired import Z


def paired_areas(
    positive: NDArray[np.bool_],
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    groups: Groups | None = None,
) -> tuple[float, float] | None:
    """Give the 95 % interval of (first - second); None where there are fewer than two rows of either class.

    E. DeLong, D. DeLong, D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver operating
    characteristic curves: a nonparametric approach", Biometrics 44 (1988), 837 to 845; their components by ranks, as
    X. Sun and W. Xu do, IEEE Signal Processing Letters 21 (2014), 1389 to 1393.

    Args:
        positive: whether each row is of the second class.
        first: how likely the one version says that it is.
        second: how likely the other does.
        groups: of rows that belong together; None: none do.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if min(positives, negatives) < 2:
        return None
    parts = [_components(positive, score) for score in (first, second)]
    of_positives, of_negatives = (parts[0][kind] - parts[1][kind] for kind in (0, 1))
    difference = float(of_positives.mean())
    if groups is not None:
        reach = grouped_reach(of_positives, of_negatives, positive, groups)
        return (difference - reach, difference + reach) if reach is not None else None
    error = math.sqrt(float(of_positives.var(ddof=1)) / positives + float(of_negatives.var(ddof=1)) / negatives)
    return difference - Z * error, difference + Z * error


def _components(
    positive: NDArray[np.bool_], score: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of each positive row the share of negatives below it, of each negative that of positives above; ties are half."""
    from scipy.stats import rankdata  # here, for its import takes longer than all else that a trainer starts with

    ranks = rankdata(score)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    below = (ranks[positive] - rankdata(score[positive])) / negatives
    above = 1 - (ranks[~positive] - rankdata(score[~positive])) / positives
    return below, above
