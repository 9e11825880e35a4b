"""Whether the model is right as often as it was: the drop of its accuracy, with its interval.

The interval of a difference of two shares is Newcombe's hybrid score interval, method 10 of his Interval estimation for
the difference between independent proportions, Statistics in Medicine 17 (1998), p. 873, of Wilson's intervals (J.
American Statistical Association 22, 1927, p. 209). Where labels resemble their neighbours, it is of as many rows as
they are worth: n over the overdispersion (Kish's effective sample size).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.monitoring.drift import replicates, rotation
from services.monitoring.drift.independence import asymptotic_chance, pearson
from services.monitoring.drift.models import Labels


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


def accuracy_drop(
    accuracy: float, judged: int, reference_overdispersion: float, labels: Labels, *, alpha: float, users: float
) -> Drop:
    """Compare labelled rows with the reference's accuracy over its `judged` rows; both sides have some.

    Args:
        accuracy: the reference's.
        judged: rows that it is of.
        reference_overdispersion: at least 1.
        labels: the window's, by steps of time.
        alpha: the interval's level is 1 - alpha.
        users: how many rows one that says something new stands for, as users show it; at least 1.
    """
    steps = np.asarray([labels.judged, labels.correct], dtype=np.int64)
    in_time = np.stack((steps[1], steps[0] - steps[1]), axis=1)
    live = in_time.sum(axis=0)
    right = round(accuracy * judged)
    reference = np.asarray([right, judged - right], dtype=np.int64)
    count = int(live.sum())
    if not (reference + live).all():
        return Drop(0.0, *newcombe((right, judged), (int(live[0]), count), alpha), 1.0, 0.0, 1.0)
    shares, weights = reference / judged, (judged + count) / (reference + live)
    waves = replicates.waves_in_time(steps[0])
    waves = waves.first(replicates.wave_count(count, users))
    deviations = waves.deviations(in_time, shares)
    spread = max(1.0, users, replicates.overdispersion(deviations, weights))
    square = float(pearson(reference, live)) * (1 / judged + 1 / count)
    statistic = square / (reference_overdispersion / judged + spread / count)
    chance = asymptotic_chance(statistic, 2)
    if len(waves) >= replicates.FEWEST:
        shrunk = np.sqrt(count / (1 + reference_overdispersion * count / judged / spread))
        form = rotation.form_of((live / count - shares) * shrunk, deviations, weights)
        chance = max(chance, float(rotation.chances(form[None, :])[0]))
    before = (right / reference_overdispersion, judged / reference_overdispersion)
    now = (int(live[0]) / spread, count / spread)
    low, high = newcombe(before, now, alpha)
    return Drop(accuracy - int(live[0]) / count, low, high, chance, statistic, spread)
