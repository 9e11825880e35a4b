"""Whether the model is right as often as it was: the drop of its accuracy, with its interval.

Its p is that of a feature of two bins, right and wrong: see `features`. Labels of one user resemble each other, and so
do those of one hour; how much, the labels alone say: a model may be wrong for a user always, however much her rows
differ from each other.

The interval of a difference of two shares is Newcombe's hybrid score interval, method 10 of his Interval estimation for
the difference between independent proportions, Statistics in Medicine 17 (1998), p. 873, of Wilson's intervals (J.
American Statistical Association 22, 1927, p. 209). It is of as many rows as they are worth: n over the overdispersion
(Kish's effective sample size).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from services.monitoring.drift import features, replicates
from services.monitoring.drift.features import Counts, Likeness, Table
from services.monitoring.drift.models import DriftResult, Labels
from services.monitoring.profiles.models import GROUPS

_NAME = "accuracy"


@dataclass(frozen=True, slots=True)
class Drop:
    """How much the accuracy fell: positive where it is lower than it was. `p_value` is two-sided."""

    value: float
    low: float
    high: float
    p_value: float
    statistic: float
    overdispersion: float


def wilson(correct: float, count: float, alpha: float) -> tuple[float, float]:
    """Give Wilson's score interval of a share, of level 1 - alpha."""
    from scipy import special

    z = float(special.ndtri(1 - alpha / 2))
    share = correct / count
    middle = share + z**2 / (2 * count)
    reach = z * np.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return float((middle - reach) / (1 + z**2 / count)), float((middle + reach) / (1 + z**2 / count))


def newcombe(first: tuple[float, float], second: tuple[float, float], alpha: float) -> tuple[float, float]:
    """Give the interval of the first share less the second, each as (correct, count); method 10."""
    (share_1, low_1, high_1), (share_2, low_2, high_2) = (
        (correct / count, *wilson(correct, count, alpha)) for correct, count in (first, second)
    )
    difference = share_1 - share_2
    below = np.sqrt((share_1 - low_1) ** 2 + (high_2 - share_2) ** 2)
    above = np.sqrt((high_1 - share_1) ** 2 + (share_2 - low_2) ** 2)
    return float(difference - below), float(difference + above)


def table_of(accuracy: float, judged: int, reference_overdispersion: float, labels: Labels) -> Table:
    """Lay out how often the model was right and wrong, as a feature's counts.

    Args:
        accuracy: the reference's.
        judged: rows that it is of.
        reference_overdispersion: at least 1.
        labels: the window's; some rows of it are judged.
    """
    right = round(accuracy * judged)
    in_time = _right_and_wrong(labels.judged, labels.correct)
    of_users = _right_and_wrong(labels.judged_of_users, labels.correct_of_users)
    return Table(
        name=_NAME,
        reference=np.asarray([right, judged - right], dtype=np.int64),
        live=in_time.sum(axis=0),
        in_time=in_time,
        of_users=of_users if len(of_users) else np.zeros((GROUPS, 2), dtype=np.int64),
        reference_overdispersion=reference_overdispersion,
    )


def _right_and_wrong(judged: Sequence[int], correct: Sequence[int]) -> Counts:
    counts = np.asarray([judged, correct], dtype=np.int64)
    return np.stack((counts[1], counts[0] - counts[1]), axis=1)


def likeness_of(table: Table, alike: float) -> Likeness:
    """Take the waves that show how much labels resemble each other; in time they are taken to be `alike` at least.

    One share alone that goes up and down slowly looks like one that broke in mid-window: its waves are as short as the
    features let them be.
    """
    in_time, of_users = table.in_time.sum(axis=1), table.of_users.sum(axis=1)
    found = features.likeness_of([], in_time, of_users)
    return replace(found, time=found.time.first(replicates.wave_count(int(in_time.sum()), alike)))


def accuracy_drop(accuracy: float, table: Table, likeness: Likeness, *, alpha: float) -> Drop:
    """Compare labelled rows with the reference's `accuracy`; the interval's level is 1 - alpha."""
    (right, judged), (correct, count) = ((int(side[0]), int(side.sum())) for side in (table.reference, table.live))
    if not (table.reference + table.live).all():
        return Drop(0.0, *newcombe((right, judged), (correct, count), alpha), 1.0, 0.0, 1.0)
    spread = features.measure([table], likeness, exactly=False)[_NAME].overdispersion
    # A profile knows how alike its predictions are, and not how alike their being right is: as live, at least.
    of_reference = max(table.reference_overdispersion, spread)
    found = features.measure([replace(table, reference_overdispersion=of_reference)], likeness)[_NAME]
    before, now = (right / of_reference, judged / of_reference), (correct / spread, count / spread)
    low, high = newcombe(before, now, alpha)
    return Drop(accuracy - correct / count, low, high, found.p_value, found.statistic, spread)


def false_alarm_rate(result: DriftResult, alpha: float) -> float:
    """Give the chance, about, that a comparison like this finds a drop where there is none: half of α, or less where
    the drop must be larger to matter."""
    from scipy import special

    before = result.bins[0].reference_share
    rows = (result.reference_count / result.overdispersion, result.live_count / result.overdispersion)
    error = math.sqrt(before * (1 - before) * sum(1 / count for count in rows))
    least = -float(special.ndtri(alpha / 2))
    return float(special.ndtr(-max(least, result.effect_floor / error))) if error > 0 else 0.0
