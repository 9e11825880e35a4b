"""Rows that belong together, such as those of one user: they know less than their number says.

Where versions differ on a row of a group, they are likely to differ on its others: an interval that takes the rows for
independent is too narrow. What is drawn again and again is groups then, and what is counted is weighed by the design
effect.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from services.trainer.validating.paired import Z, paired_interval

MIN_GROUPS: Final = 10
"""Of groups that weigh less than so many, see `Groups.weight`, too little is known of how much they differ: no interval
is given."""


@dataclass(frozen=True, slots=True)
class Groups:
    """Of each row the number of its group, 0 to `count` - 1."""

    codes: NDArray[np.int64]
    count: int

    @classmethod
    def of(cls, keys: Iterable[str | None]) -> Self | None:
        """Number the groups of rows by their keys; a row without one is a group of its own. None: each row is."""
        known: dict[object, int] = {}
        by_row = (place if key is None else key for place, key in enumerate(keys))
        codes = np.array([known.setdefault(key, len(known)) for key in by_row], dtype=np.int64)
        return cls(codes, len(known)) if len(known) < len(codes) else None

    @property
    def weight(self) -> float:
        """How many groups of one size would say as much: L. Kish, "Survey Sampling" (1965), (Σn)² / Σn²."""
        return weight_of(np.bincount(self.codes, minlength=self.count))

    def sums(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Add up the rows of each group."""
        return np.bincount(self.codes, weights=values, minlength=self.count).astype(np.float64)


def weight_of(sizes: NDArray[np.int64]) -> float:
    """Give how many groups of one size would say as much as groups of these; see `Groups.weight`."""
    return float(sizes.sum()) ** 2 / float((sizes**2).sum())


def quantile(groups: float) -> float:
    """Student's 97.5 % quantile: how much groups differ is estimated from so many of one size."""
    from scipy import special  # not scipy.stats, whose import takes a second

    return float(special.stdtrit(groups - 1, 0.975))


def grouped_interval(differences: NDArray[np.int64], groups: Groups) -> tuple[float, float]:
    """Give the 95 % interval of the difference of two shares: 1 where the first alone was right of a row, -1 where the
    second alone was, else 0.

    Counts are divided by the design effect, and Tango's score interval taken of what is left (see `paired`): J. N. K.
    Rao, A. J. Scott, "A simple method for the analysis of clustered binary data", Biometrics 48 (1992), 577 to 585. The
    effect is the variance of the mean by groups over that of independent rows, and at least 1; it is widened as
    Student's t is wider than the normal distribution. What counts there is how much groups weigh, not how many there
    are: one with most of the rows hides how much they differ, since the mean is its own. Tango's form stays as it is,
    for the effect divides all three counts alike: it is that of so many fewer rows. Where the versions never differ the
    effect cannot be seen, and is what it is of rows that are all alike within their group. It is to cover the truth in
    about 95 % from 10 groups of one size on; tests/unit/test_validation_groups.py holds it to 92 %, where that of
    independent rows does so in half of the cases.
    """
    rows = len(differences)
    values = differences.astype(np.float64)
    sizes, mean = groups.sums(np.ones(rows)), float(values.mean())
    independent = (float(np.abs(values).mean()) - mean**2) / rows
    weight = groups.weight
    of_groups = float(((groups.sums(values) - sizes * mean) ** 2).sum()) / rows**2 * weight / (weight - 1)
    effect = of_groups / independent if independent > 0 else float((sizes**2).sum()) / rows
    effect = max(1.0, effect) * (quantile(weight) / Z) ** 2
    first, second = int((differences > 0).sum()), int((differences < 0).sum())
    return paired_interval(rows / effect, first / effect, second / effect)


def grouped_reach(
    of_positives: NDArray[np.float64], of_negatives: NDArray[np.float64], positive: NDArray[np.bool_], groups: Groups
) -> float | None:
    """Say how far the 95 % interval of a difference of two areas under the ROC curve reaches to either side, from what
    each row adds to it; None where the groups that have rows of a class weigh less than two.

    N. A. Obuchowski, "Nonparametric analysis of clustered ROC curve data", Biometrics 53 (1997), 567 to 578: DeLong's
    components (see `areas`) are added up by group, and a group that has rows of both classes counts for both. Its
    factor for few groups, and Student's t, are those of the class whose groups weigh less.
    """
    components = np.zeros(len(positive))
    components[positive] = (of_positives - of_positives.mean()) / len(of_positives)
    components[~positive] = (of_negatives - of_negatives.mean()) / len(of_negatives)
    least = min(weight_of(np.bincount(groups.codes[chosen])) for chosen in (positive, ~positive))
    if least < 2:
        return None
    return quantile(least) * math.sqrt(float((groups.sums(components) ** 2).sum()) * least / (least - 1))
