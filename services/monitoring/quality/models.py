"""What a look at the quality of live data finds."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.monitoring.drift.models import Trigger
from services.monitoring.models import Window
from services.monitoring.window_checks.window import ALL_THERE, Completeness


class QualityIssue(enum.Enum):
    """A kind of bad data; the numbers are the contract's."""

    MISSING = 1
    TYPE = 2
    SCHEMA = 3
    RANGE = 4
    UNKNOWN_CATEGORY = 5
    OUTLIER = 6
    DUPLICATE = 7
    CONSTANT = 8
    STALE = 9
    NOT_FINITE = 10


class QualityStatus(enum.Enum):
    """What a check came to; the numbers are the contract's."""

    OK = 1
    VIOLATED = 2
    INSUFFICIENT_DATA = 3


@dataclass(frozen=True, slots=True)
class QualityFinding:
    """One feature and one kind of bad data.

    Attributes:
        issue: what is bad.
        feature: its name; empty: whole rows.
        value: the share of rows that have it; of STALE, the age of the last value in seconds.
        reference_value: what it is in the reference.
        threshold: what it must not exceed; beyond it, chance is no excuse.
        violated: whether it does.
        count: rows that have it.
        summary: a sentence.
    """

    issue: QualityIssue
    feature: str
    value: float
    reference_value: float
    threshold: float
    violated: bool
    count: int
    summary: str


@dataclass(frozen=True, slots=True)
class QualityReport:
    """What a window came to; violations first, then by value, and of very many only the first."""

    status: QualityStatus
    row_count: int
    violation_count: int
    findings: Sequence[QualityFinding]
    summary: str


@dataclass(frozen=True, slots=True)
class QualityCheck:
    """A report that is kept. `profile_id` is None where the version has no reference; lists leave the findings out."""

    id: UUID
    model: str
    version: str
    profile_id: UUID | None
    window: Window
    status: QualityStatus
    row_count: int
    violation_count: int
    summary: str
    findings: Sequence[QualityFinding]
    trigger: Trigger
    create_time: datetime
    completeness: Completeness = ALL_THERE


@dataclass(frozen=True, slots=True)
class QualityFilters:
    """Which checks a list shows; empty and None mean any."""

    model: str = ""
    version: str = ""
    status: QualityStatus | None = None
