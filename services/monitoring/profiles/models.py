"""Reference profiles, and live data counted in their bins."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

BUCKET = timedelta(minutes=5)
GROUPS = 32
"""Users are put into so many groups by hash; how much the groups differ says how alike a user's rows are."""

Counts = NDArray[np.int64]


class FeatureKind(enum.Enum):
    """How a feature's values are read and counted; the numbers are the contract's."""

    NUMERIC = 1
    CATEGORICAL = 2
    BOOLEAN = 3
    TEXT_LENGTH = 4
    EMBEDDING = 5


@dataclass(frozen=True, slots=True)
class Moments:
    """Exact, over the values that are present and finite; `mad` is scaled to be σ where values are normal."""

    count: int
    mean: float
    standard_deviation: float
    min: float
    max: float
    median: float
    mad: float


@dataclass(frozen=True, slots=True)
class VectorSample:
    """A uniform sample of vectors, float32 [n, dimensions], and the number [n] of each one's user; 0: none is named."""

    vectors: NDArray[np.float32]
    users: NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True)
class FeatureReference:
    """One feature, or one output, of a reference.

    `counts` has the value bins first, then missing, then other: B + 2 in all. NUMERIC and TEXT_LENGTH have
    `len(edges) + 1` value bins (a value on an edge lies in the lower bin), CATEGORICAL and BOOLEAN one a category,
    EMBEDDING none. `overdispersion` is at least 1. `sample` is of an EMBEDDING.
    `quality` are the shares of rows that are bad in the reference itself, by the names of `QUALITY_COUNTS`.
    """

    name: str
    kind: FeatureKind
    is_prediction: bool
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    moments: Moments | None = None
    dimensions: int = 0
    overdispersion: float = 1.0
    quality: Mapping[str, float] = field(default_factory=dict)
    sample: VectorSample | None = None


@dataclass(frozen=True, slots=True)
class Reference:
    """A frozen profile. `features` by name, predictions too; `duplicate_share` of its rows are repeats."""

    id: UUID
    model: str
    version: str
    number: int
    row_count: int
    features: Mapping[str, FeatureReference]
    accuracy: float | None
    judged_count: int
    duplicate_share: float
    create_time: datetime
    created_by: str
    note: str


QUALITY_COUNTS = ("wrong_type", "not_finite", "out_of_range", "outlier", "unknown_category")
"""What is counted of each feature beside its bins. A value may be in several."""


@dataclass(frozen=True, slots=True)
class LiveFeature:
    """One feature over a window of T steps, which are buckets of 5 minutes, and in windows over a day several each.

    Attributes:
        counts: [T, B + 2], in the reference's bins, then missing, then other. Together they are the rows; of a
            prediction those of events that did not fail and whose prediction was captured. A vector that is good is
            in no bin.
        groups: [GROUPS, B + 2], summed over the window, of the rows that name a user.
        quality: [T, len(QUALITY_COUNTS)].
        min: the least finite value, NaN where there is none.
        max: the greatest.
        last_time: when the last value that was not missing came; None: none did.
        sample: of an EMBEDDING, uniform over the window.
    """

    counts: Counts
    groups: Counts
    quality: Counts
    min: float
    max: float
    last_time: datetime | None
    sample: VectorSample | None = None


@dataclass(frozen=True, slots=True)
class LiveWindow:
    """Live rows of one version, counted against one reference: a sum, whatever the window.

    Attributes:
        from_time: of the first bucket.
        to_time: the end of the last one, exclusive.
        bucket_times: [T], the beginnings of its steps, ascending, 288 at most; those without rows are left out. Up to
            a day a step is a bucket of 5 minutes, in longer windows several.
        row_counts: [T], rows with captured features.
        duplicate_count: rows that repeat another of their bucket.
        largest_bucket: the most rows of one bucket.
        group_row_counts: [GROUPS].
        features: by name; those of the reference, each of which is there even if it never came.
        unknown_features: those that came and the reference does not know, with how many rows had them.
        uncounted_buckets: the beginnings, ascending, of buckets of the window that wait to be counted, or counted anew:
            what this says of them is not the last word.
        share: of a busy bucket's payloads a sample is read; then all numbers here are of this share of the rows.
    """

    from_time: datetime
    to_time: datetime
    bucket_times: Sequence[datetime]
    row_counts: Counts
    duplicate_count: int
    group_row_counts: Counts
    features: Mapping[str, LiveFeature]
    unknown_features: Mapping[str, int]
    largest_bucket: int = 0
    uncounted_buckets: Sequence[datetime] = ()
    share: float = 1.0

    @property
    def row_count(self) -> int:
        """All rows."""
        return int(self.row_counts.sum())
