"""What the feature store speaks of: frozen values."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.int64]
"""Points in time, in µs since 1970."""
FIRST_US, LAST_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""The first and the last that there is: of the years 1 and 9999."""


class FeatureType(enum.StrEnum):
    """The type of a feature's values; see feature_views.proto."""

    FLOAT64 = "FLOAT64"
    INT64 = "INT64"
    BOOL = "BOOL"
    STRING = "STRING"
    FLOAT64_LIST = "FLOAT64_LIST"
    TIMESTAMP = "TIMESTAMP"


class Computation(enum.StrEnum):
    """When a feature with an expression is computed."""

    ON_WRITE = "ON_WRITE"
    ON_READ = "ON_READ"


class FeatureStatus(enum.StrEnum):
    """What became of an entity's row."""

    PRESENT = "PRESENT"
    ABSENT = "ABSENT"
    EXPIRED = "EXPIRED"


@dataclass(frozen=True, slots=True)
class Feature:
    """One of a view's. One with an `expression` is computed from others, and never written."""

    name: str
    type: FeatureType
    description: str = ""
    expression: str = ""
    computation: Computation = Computation.ON_WRITE


@dataclass(frozen=True, slots=True)
class RequestValue:
    """What who reads may bring along, for features that are computed on read."""

    name: str
    type: FeatureType
    description: str = ""


@dataclass(frozen=True, slots=True)
class NewView:
    """A view as it was asked for. `ttl_ms`: 0 for ever."""

    name: str
    entity: str
    features: Sequence[Feature]
    ttl_ms: int = 0
    owner: str = ""
    description: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    request_values: Sequence[RequestValue] = ()


@dataclass(frozen=True, slots=True)
class View:
    """A version of a view."""

    view_id: int
    name: str
    version: int
    entity: str
    features: tuple[Feature, ...]
    ttl_ms: int
    owner: str
    description: str
    labels: Mapping[str, str]
    created_by: str
    create_time: datetime
    update_time: datetime
    request_values: tuple[RequestValue, ...] = ()

    @property
    def stored(self) -> Sequence[Feature]:
        """The features that its tables have a column of, in order: all but those that are computed on read."""
        return [each for each in self.features if each.computation is not Computation.ON_READ]


@dataclass(frozen=True, slots=True)
class ViewChange:
    """What is to be otherwise; None: as it is."""

    ttl_ms: int | None = None
    owner: str | None = None
    description: str | None = None
    labels: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Column:
    """A feature of some rows.

    Attributes:
        values: one a row: float64, int64, bool, str in an object array; of a FLOAT64_LIST two dimensions, or an object
            array of arrays where their lengths differ.
        missing: which rows have none.
    """

    values: NDArray[Any]
    missing: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a view. A feature without a column is missing in all of them."""

    keys: Sequence[str]
    event_times: Times
    columns: Mapping[str, Column]


@dataclass(frozen=True, slots=True)
class Written:
    """What became of rows: written, of them late, and those that were there already."""

    written_count: int = 0
    late_count: int = 0
    duplicate_count: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(
            self.written_count + other.written_count,
            self.late_count + other.late_count,
            self.duplicate_count + other.duplicate_count,
        )


@dataclass(frozen=True, slots=True)
class Selected:
    """What a view has of some entities, in their order. `event_times`: 0 where nothing is known."""

    view: View
    statuses: Sequence[FeatureStatus]
    event_times: Times
    columns: Mapping[str, Column]
