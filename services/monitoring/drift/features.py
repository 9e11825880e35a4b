"""Whether features are distributed as in the reference: the one p-value of each that decides, and its effect.

The statistic is PSI's quadratic form, Pearson's χ² of the table of both sides: PSI is (1/N + 1/M) times it to first
order, and its distribution is closer to its limit where counts are small. Three chances of it are taken: that of
independent rows, and those that the window's own times and users show. The largest holds: each of them is right where
what it allows for is all there is, and rows may resemble each other in either way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
from numpy.typing import NDArray

from services.monitoring.drift import replicates, rotation
from services.monitoring.drift.distances import psi
from services.monitoring.drift.independence import asymptotic_chance, drawn_chance, pearson
from services.monitoring.drift.replicates import Waves
from services.monitoring.profiles.models import FeatureReference, LiveFeature

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
_LEAST_EXPECTED = 2.0
_CERTAINLY_SEEN = 10
"""Rows of the smaller side in a bin: by chance so many come in one of ten thousand bins that expect under two."""
_CLOSE_CALL = 0.1
"""A chance this small is drawn for."""
_LEAST_DISPERSION = 0.1
_UNSEEN = 1.5
"""Of an autoregressive series whose rows are worth ten, eight waves show 0.65 of how much its mean varies."""
_LEAST_NAMED = 0.25
"""Where fewer rows than this share name a user, users say nothing of the rest."""


@dataclass(frozen=True, slots=True)
class Table:
    """Counts of one feature in bins that are not too sparse: [K], and [parts, K] of the window."""

    name: str
    reference: Counts
    live: Counts
    in_time: Counts
    of_users: Counts
    reference_overdispersion: float

    @property
    def shares(self) -> Numbers:
        """The reference's."""
        return np.asarray(self.reference / self.reference.sum())

    @property
    def weights(self) -> Numbers:
        """One over the share of both sides together: what makes deviations of independent rows alike in all bins."""
        both = self.reference + self.live
        return np.asarray(both.sum() / both)

    @property
    def degrees(self) -> int:
        """Degrees of freedom."""
        return len(self.live) - 1


@dataclass(frozen=True, slots=True)
class Measured:
    """What came of one feature. `effect` is PSI less what it is on average where nothing has drifted."""

    statistic: float
    p_value: float
    effect: float
    overdispersion: float


@dataclass(frozen=True, slots=True)
class Likeness:
    """How much rows resemble each other over all features: the waves that show it, and how many rows that leaves."""

    time: Waves
    users: Waves
    user_parts: float
    factor: float

    @property
    def in_time(self) -> float:
        """How many rows one that says something new stands for, at least 1.

        A few waves tell it, which are not much longer than rows stay alike where there are few rows: of the part that
        stands still over the window they show two thirds.
        """
        return 1 + _UNSEEN * (max(1.0, self.factor) - 1)


def table_of(reference: FeatureReference, live: LiveFeature) -> Table:
    """Lay out a feature's counts; bins that expect under two rows on either side, and got no more, become one."""
    before, now = np.asarray(reference.counts, dtype=np.int64), live.counts.sum(axis=0, dtype=np.int64)
    merge = _merge(before + now, min(before, now, key=lambda counts: int(counts.sum())))
    return Table(
        name=reference.name,
        reference=before @ merge,
        live=now @ merge,
        in_time=live.counts @ merge,
        of_users=live.groups @ merge,
        reference_overdispersion=max(1.0, reference.overdispersion),
    )


def _merge(both: Counts, smaller: Counts) -> Counts:
    """Say which bins go together: [bins, K] of ones and zeros."""
    used = np.flatnonzero(both)
    rows = int(smaller.sum())
    expected = both[used] * rows / max(int(both.sum()), 1)
    # A kind that is new expects few rows beside a large reference; once it is there it must not hide behind others.
    few = (expected < _LEAST_EXPECTED) & (smaller[used] < _CERTAINLY_SEEN)
    order = used[np.lexsort((expected, ~few))]
    sparse = int(few.sum())
    # Together they may still be too few: then the least of the others joins them.
    while 0 < sparse < len(order) and both[order[:sparse]].sum() * rows < _LEAST_EXPECTED * both.sum():
        sparse += 1
    target = np.maximum(np.arange(len(order)) - max(sparse - 1, 0), 0)
    merge = np.zeros((len(both), int(target[-1]) + 1 if len(target) else 1), dtype=np.int64)
    merge[order, target] = 1
    return merge


def likeness_of(tables: Sequence[Table], in_time: Counts, of_users: Counts) -> Likeness:
    """See how much rows resemble each other in time, by the median of the features, and take as many waves as fit.

    `in_time` and `of_users` are the window's rows: [T], and [GROUPS] of those that name a user.

    Slow changes of one feature among many are its own; where most features go up and down together, waves must be
    long beside the time that takes.
    """
    rows = int(in_time.sum())
    time, users = replicates.waves_in_time(in_time), replicates.waves_of_users(of_users)
    if users.rows < _LEAST_NAMED * rows:
        users = users.first(0)
    few = time.first(replicates.FEW)
    found = [
        replicates.likeness(few.deviations(table.in_time, table.shares), table.weights)
        for table in tables
        if table.degrees > 0
    ]
    factor = median(found) if found and len(few) else 1.0
    fitting = time.first(replicates.wave_count(rows, max(1.0, factor)))
    return Likeness(fitting, users, replicates.effective_parts(of_users), factor)


def measure(tables: Sequence[Table], likeness: Likeness, *, exactly: bool = True) -> Mapping[str, Measured]:
    """Measure each feature, by name; where p decides nothing, it need not be drawn for."""
    plain = [table for table in tables if table.degrees > 0]
    in_time = _surprise(plain, likeness.time, [table.in_time for table in plain])
    of_users = _surprise(plain, likeness.users, [table.of_users for table in plain])
    found = {table.name: Measured(0.0, 1.0, 0.0, 1.0) for table in tables if table.degrees < 1}
    for table, (time_p, time_phi), (users_p, users_phi) in zip(plain, in_time, of_users, strict=True):
        found[table.name] = _measured(table, max(time_p, users_p), max(1.0, time_phi, users_phi), exactly=exactly)
    return found


def _surprise(tables: Sequence[Table], waves: Waves, parts: Sequence[Counts]) -> list[tuple[float, float]]:
    """Give each feature's chance by rotation, and its overdispersion; without waves neither says anything.

    A feature that varies less than half of them do takes theirs: by chance a few clusters may leave a bin empty, and it
    then looks as if it never varied (variances borrowed from each other: Smyth, Statistical Applications in Genetics
    and Molecular Biology 3, 2004, article 3).
    """
    if not tables or len(waves) < replicates.FEWEST:
        return [(0.0, 1.0)] * len(tables)
    deviations = [waves.deviations(counts, table.shares) for table, counts in zip(tables, parts, strict=True)]
    found = [replicates.overdispersion(each, table.weights) for table, each in zip(tables, deviations, strict=True)]
    least = max(1.0, median(found))
    forms, dispersions = [], []
    for table, each, own in zip(tables, deviations, found, strict=True):
        dispersion = max(own, least)
        n, m = int(table.reference.sum()), int(table.live.sum())
        # The reference's own chance is in the deviation and not in the window's parts.
        borrowed = max(own, _LEAST_DISPERSION) / dispersion
        shrunk = np.sqrt(m * borrowed / (1 + table.reference_overdispersion * m / n / dispersion))
        forms.append(rotation.form_of((table.live / m - table.shares) * shrunk, each, table.weights))
        dispersions.append(dispersion)
    chances = rotation.chances(np.asarray(forms))
    return [(float(p), phi) for p, phi in zip(chances, dispersions, strict=True)]


def _measured(table: Table, chance: float, overdispersion: float, *, exactly: bool) -> Measured:
    n, m = int(table.reference.sum()), int(table.live.sum())
    square = float(pearson(table.reference, table.live)) * (1 / n + 1 / m)
    independent = square / (table.reference_overdispersion / n + 1 / m)
    expected = table.reference_overdispersion / n + overdispersion / m
    p = max(chance, asymptotic_chance(independent, len(table.live)))
    if exactly and p < _CLOSE_CALL:
        p = max(chance, drawn_chance(table.reference, table.live, independent))
    effect = float(psi(table.reference, table.live)) - table.degrees * expected
    return Measured(square / expected, p, max(effect, 0.0), overdispersion)
