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
_WAVES = 48
_FEWEST_WAVES = 8
_ROWS_PER_WAVE = 20
_BLOCKS = 10 * _WAVES
_UNPROVEN = 0.01
_COUNTED = 7 / 8
"""Of the waves; the rest, which vary most, may be those of a cycle."""


def user_number(user: str) -> int:
    """Give a number of 32 bits to a user, the same in every process; 0 where none is named."""
    return (crc32(user.encode(errors="surrogatepass")) or GROUPS) if user else 0


def user_numbers(column: Column) -> NDArray[np.uint32]:
    """Give the number [N] of each row's user by a column that names it, or another cluster; 0: it names none."""
    codes, values = distinct(column)
    return np.array([*(user_number(str(value)) for value in values), 0], np.uint32)[codes]


def groups_of(users: NDArray[np.uint32]) -> NDArray[np.intp]:
    """Give the group [N] of each row by its user's number; NO_GROUP where none is named."""
    return np.where(users > 0, users % GROUPS, NO_GROUP).astype(np.intp)


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


def overdispersion_in_order(bins: NDArray[np.intp], bin_count: int) -> float:
    """Estimate it of rows that resemble those next to them, by their order; 1 where there are too few, or no order.

    The counts of consecutive rows are weighed with cosines of 1 … 48 half waves, as those of a live window are
    (docs/drift.md): each sum varies φ times as much as that of independent rows. A daily cycle, or a file sorted by
    its label, lies in few waves and is no chance: the eighth that varies most stays out, and the mean of the others is
    divided by what is left of a χ² variable's mean then. All rows are counted: of every hundredth the estimate would
    have to be multiplied, and its own chance with it. What one of a hundred columns of independent rows shows, too,
    proves nothing: 1.
    """
    from scipy import special

    rows = bins.size
    count = min(_WAVES, rows // _ROWS_PER_WAVE)
    blocks = min(_BLOCKS, rows)
    if count < _FEWEST_WAVES:
        return 1.0
    table = grouped_counts(
        bins, bin_count, np.repeat(np.arange(blocks), np.diff(np.arange(blocks + 1) * rows // blocks)), blocks
    )
    table = table[:, table.sum(axis=0) > 0]
    total, degrees = int(table.sum()), table.shape[1] - 1
    if degrees < 1:
        return 1.0
    shares, sizes = table.sum(axis=0) / total, table.sum(axis=1)
    place = (np.cumsum(sizes) - sizes / 2) / total
    waves = np.cos(np.pi * np.arange(1, count + 1)[:, None] * place)
    deviations = waves @ (table - sizes[:, None] * shares)
    energies = np.sort((deviations**2 / shares).sum(axis=1)) * 2 / total
    most = special.chdtri(degrees, 1 - _COUNTED)
    left = special.chdtr(degrees + 2, most) / _COUNTED
    counted = int(count * _COUNTED)
    found = float(energies[:counted].mean()) / degrees / left
    freedom = counted * degrees
    return max(1.0, found) if found * freedom > special.chdtri(freedom, _UNPROVEN) else 1.0
