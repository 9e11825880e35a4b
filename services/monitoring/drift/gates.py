"""The other gates, which decide feature by feature by a custom, and how often each of them is wrong.

Their false alarms depend on how many rows and features there are. They are counted here by drawing both sides of each
feature from one distribution, with these numbers of rows, divided by what rows resemble each other; the seed is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from services.monitoring.configuration.models import DriftGate
from services.monitoring.drift import distances
from services.monitoring.drift.models import Distances
from services.monitoring.profiles.models import FeatureReference

Numbers = NDArray[np.float64]
Counts = NDArray[np.int64]
LARGE_PSI = 0.2
LARGE_DISTANCE = 0.1
_SEED = 19_330_701
_DRAWS = 2_000
_MOST_DRAWN = 4_000_000
"""Numbers drawn in one check; with many features each gets fewer."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says of a feature."""

    statistic: float
    p_value: float | None
    drifted: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """A feature that a gate has decided on, and for how many independent rows its rows stand."""

    reference: FeatureReference
    gate: DriftGate
    reference_rows: float
    live_rows: float


def gate_for(gate: DriftGate, found: Distances) -> DriftGate:
    """Say which gate holds for a feature: where values have no order or no σ, those that need none."""
    if gate is DriftGate.KS and found.ks_statistic is None:
        return DriftGate.CHI_SQUARE
    if gate is DriftGate.WASSERSTEIN and found.wasserstein is None:
        return DriftGate.JENSEN_SHANNON
    return gate


def verdict(gate: DriftGate, found: Distances, alpha: float) -> Verdict:
    """Let a gate decide; `gate` is one that `gate_for` gave."""
    match gate:
        case DriftGate.KS:
            p_value = found.ks_p_value if found.ks_p_value is not None else 1.0
            return Verdict(found.ks_statistic or 0.0, p_value, p_value < alpha)
        case DriftGate.CHI_SQUARE:
            p_value = found.chi_square_p_value if found.chi_square_p_value is not None else 1.0
            return Verdict(found.chi_square or 0.0, p_value, p_value < alpha)
        case DriftGate.WASSERSTEIN:
            return Verdict(found.wasserstein or 0.0, None, (found.wasserstein or 0.0) >= LARGE_DISTANCE)
        case DriftGate.JENSEN_SHANNON:
            return Verdict(found.jensen_shannon or 0.0, None, (found.jensen_shannon or 0.0) >= LARGE_DISTANCE)
        case _:
            return Verdict(found.psi or 0.0, None, (found.psi or 0.0) >= LARGE_PSI)


def false_alarm_rate(compared: Sequence[Compared], alpha: float) -> float:
    """Give the chance that any of these features raises an alarm where none has drifted and none depends on another."""
    cells = sum(len(each.reference.counts) for each in compared)
    draws = int(np.clip(_MOST_DRAWN / max(2 * cells, 1), 50, _DRAWS))
    generator = np.random.default_rng(_SEED)
    none = 1.0
    for each in compared:
        none *= 1 - _rate(each, alpha, draws, generator)
    return 1 - none


def _rate(each: Compared, alpha: float, draws: int, generator: np.random.Generator) -> float:
    shares = np.asarray(each.reference.counts, dtype=np.float64)
    shares = shares / shares.sum()
    reference = generator.multinomial(max(2, round(each.reference_rows)), shares, size=draws)
    live = generator.multinomial(max(2, round(each.live_rows)), shares, size=draws)
    return float(_alarms(each, reference, live, alpha).mean())


def _alarms(each: Compared, reference: Counts, live: Counts, alpha: float) -> NDArray[np.bool_]:
    match each.gate:
        case DriftGate.KS:
            values = slice(None, -distances.OUTSIDE)
            _, p_value = distances.kolmogorov_smirnov(reference[:, values], live[:, values])
            found = p_value < alpha
        case DriftGate.CHI_SQUARE:
            _, p_value = distances.chi_square(reference, live)
            found = p_value < alpha
        case DriftGate.WASSERSTEIN:
            values = slice(None, -distances.OUTSIDE)
            ends = distances.bin_ends(each.reference)
            found = distances.wasserstein(reference[:, values], live[:, values], ends) >= LARGE_DISTANCE
        case DriftGate.JENSEN_SHANNON:
            found = distances.jensen_shannon(reference, live) >= LARGE_DISTANCE
        case _:
            found = distances.psi(reference, live) >= LARGE_PSI
    return np.asarray(found)
