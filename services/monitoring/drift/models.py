"""Checks for drift: what is asked, what each comparison came to, and what a check as a whole did."""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from uuid import UUID

from services.monitoring.configuration.models import DriftGate
from services.monitoring.models import Window
from services.monitoring.profiles.models import FeatureKind
from services.monitoring.window_checks.window import ALL_THERE, Completeness


class DriftType(enum.Enum):
    """What has drifted; the numbers are the contract's."""

    INPUT = 1
    PREDICTION = 2
    CONCEPT = 3
    EMBEDDING = 4


def effect_of_psi(psi: float, type_: DriftType) -> float:
    """Give the effect of a shift of this PSI: the PSI itself, but 2 (AUC - 0.5) of embeddings.

    A shift by δ σ has a PSI of δ² and an AUC of Φ(δ / √2), which makes 2 (AUC - 0.5) erf(δ / 2).
    """
    return math.erf(math.sqrt(psi) / 2) if type_ is DriftType.EMBEDDING else psi


class DriftStatus(enum.Enum):
    """What a comparison, or a check, came to; the numbers are the contract's."""

    OK = 1
    DRIFTED = 2
    INSUFFICIENT_DATA = 3


class Trigger(enum.Enum):
    """What brought a check about; the numbers are the contract's."""

    SCHEDULE = 1
    REQUEST = 2


@dataclass(frozen=True, slots=True)
class Rules:
    """By what a check decides: the configuration's values, `alpha` as it holds for this check."""

    alpha: float = 0.05
    effect_floor: float = 0.02
    min_rows: int = 50
    gate: DriftGate = DriftGate.PSI_CALIBRATED
    min_labels: int = 100
    accuracy_drop: float = 0.05
    ignored_features: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Labels:
    """Judged rows of the window, by steps of time, the oldest first: how many, and how many of them were right.

    `judged_of_users` and `correct_of_users` are [GROUPS], of the rows that name a user: users are put into groups by
    hash. Empty: none does.
    """

    judged: Sequence[int] = ()
    correct: Sequence[int] = ()
    judged_of_users: Sequence[int] = ()
    correct_of_users: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class BinComparison:
    """One bin on both sides."""

    label: str
    reference_share: float
    live_share: float
    live_count: int


@dataclass(frozen=True, slots=True)
class Distances:
    """What is shown beside the gate. None where it makes no sense for the kind of feature."""

    psi: float | None = None
    ks_statistic: float | None = None
    ks_p_value: float | None = None
    chi_square: float | None = None
    chi_square_p_value: float | None = None
    wasserstein: float | None = None
    jensen_shannon: float | None = None


@dataclass(frozen=True, slots=True)
class DriftResult:
    """One comparison. The contract's DriftResult says what each number means; NaN does not occur."""

    type: DriftType
    feature: str
    kind: FeatureKind | None
    status: DriftStatus
    gate: DriftGate
    statistic: float
    effect: float
    effect_floor: float
    reference_count: int
    live_count: int
    p_value: float | None = None
    adjusted_p_value: float | None = None
    overdispersion: float = 1.0
    distances: Distances = field(default_factory=Distances)
    bins: Sequence[BinComparison] = ()
    effect_low: float | None = None
    effect_high: float | None = None
    summary: str = ""

    @property
    def drifted(self) -> bool:
        """Whether it found drift."""
        return self.status is DriftStatus.DRIFTED


@dataclass(frozen=True, slots=True)
class Comparison:
    """A window against a reference, in full: drifted ones first, then by effect."""

    status: DriftStatus
    results: Sequence[DriftResult]
    live_count: int
    alpha: float
    gate: DriftGate
    false_alarm_rate: float
    summary: str

    @property
    def drifted_types(self) -> tuple[DriftType, ...]:
        """What has drifted, in the contract's order."""
        found = {result.type for result in self.results if result.drifted}
        return tuple(kind for kind in DriftType if kind in found)

    @property
    def drifted_count(self) -> int:
        """How many comparisons found drift."""
        return sum(result.drifted for result in self.results)

    @property
    def compared_count(self) -> int:
        """How many had enough data."""
        return sum(result.status is not DriftStatus.INSUFFICIENT_DATA for result in self.results)

    @property
    def effect(self) -> float:
        """The largest among those that drifted, else among all that were compared."""
        drifted = [result.effect for result in self.results if result.drifted]
        compared = [result.effect for result in self.results if result.status is not DriftStatus.INSUFFICIENT_DATA]
        return max(drifted or compared, default=0.0)


@dataclass(frozen=True, slots=True)
class DriftCheck:
    """A comparison that is kept; lists leave the results out."""

    id: UUID
    model: str
    version: str
    profile_id: UUID
    window: Window
    status: DriftStatus
    drifted_types: Sequence[DriftType]
    drifted_count: int
    compared_count: int
    effect: float
    live_count: int
    alpha: float
    gate: DriftGate
    false_alarm_rate: float
    summary: str
    results: Sequence[DriftResult]
    trigger: Trigger
    create_time: datetime
    completeness: Completeness = ALL_THERE

    def without_results(self) -> DriftCheck:
        """Give it as lists show it."""
        return replace(self, results=())


@dataclass(frozen=True, slots=True)
class DriftFilters:
    """Which checks a list shows; empty and None mean any."""

    model: str = ""
    version: str = ""
    status: DriftStatus | None = None
