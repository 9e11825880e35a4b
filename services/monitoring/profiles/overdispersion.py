"""How much more the counts of clusters vary than those of independent rows would."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from services.monitoring.profiles.frames import Column, distinct
from services.monitoring.profiles.models import GROUPS, Counts

NO_GROUP = GROUPS
"""Where rows are that name no user."""


def group_of(user: str) -> int:
    """Give the group of a user, the same in every process; NO_GROUP where none is named."""
    return crc32(user.encode(errors="surrogatepass")) % GROUPS if user else NO_GROUP


def groups_of(column: Column) -> NDArray[np.intp]:
    """Give the group [N] of each row by a column that names its user, or another cluster."""
    codes, values = distinct(column)
    return np.array([*(group_of(str(value)) for value in values), NO_GROUP], np.intp)[codes]


def grouped_counts(bins: NDArray[np.intp], bin_count: int, groups: NDArray[np.intp], group_count: int) -> Counts:
    """Count the bins [N] of each group: [group_count, bin_count]; rows beyond the last of either are left out."""
    kept = (bins < bin_count) & (groups < group_count)
    cells = groups[kept] * bin_count + bins[kept]
    return np.bincount(cells, minlength=group_count * bin_count).reshape(group_count, bin_count).astype(np.int64)


def overdispersion(clusters: Counts) -> float:
    """Estimate it from counts [clusters, bins]: Pearson's X² of homogeneity over its degrees of freedom, at least 1.

    It is 1 where rows are independent, and the design effect 1 + (m - 1) rho where clusters have m rows of
    intra-class correlation rho (McCullagh and Nelder, Generalized Linear Models, 2nd ed. 1989, section 4.5;
    Brier, Biometrika 67, 1980). Users who are spread over GROUPS by hash keep theirs: a sum of clusters varies as
    they do. Fewer than two clusters or bins with rows say nothing: 1.
    """
    used = clusters[clusters.sum(axis=1) > 0]
    used = used[:, used.sum(axis=0) > 0].astype(np.float64)
    rows, columns = used.shape
    if rows < 2 or columns < 2:
        return 1.0
    expected = used.sum(axis=1, keepdims=True) * used.sum(axis=0) / used.sum()
    statistic = float(((used - expected) ** 2 / expected).sum())
    return float(max(1.0, statistic / ((rows - 1) * (columns - 1))))


def greatest_overdispersion(clusterings: Sequence[Counts]) -> float:
    """Take the greatest of several ways to put the same rows into clusters; 1 without any."""
    return max(map(overdispersion, clusterings), default=1.0)
