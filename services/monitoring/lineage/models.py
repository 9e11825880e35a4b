"""A lineage: what hangs together, and how."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

MAX_NODES = 200
MAX_RELATED = 20
"""Of each kind, what a version is shown with: the newest."""


class Kind(enum.Enum):
    """What a node is; the numbers are the contract's."""

    INFERENCE = 1
    VERSION = 2
    TRAINING_RUN = 3
    DATASET = 4
    PROFILE = 5
    CHECK = 6
    ALERT = 7
    RETRAINING_REQUEST = 8
    EVALUATION = 9
    TRANSITION = 10


@dataclass(frozen=True, slots=True)
class Node:
    """One step. `attributes` hold what there is to say, nothing empty; `missing` says why the rest is not there."""

    kind: Kind
    id: str
    title: str
    time: datetime | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""


class Edge(NamedTuple):
    """One came of the other: indices in the graph's nodes."""

    cause: int
    effect: int
    relation: str


class VersionName(NamedTuple):
    """A version, by its names."""

    model: str
    version: str

    def __str__(self) -> str:
        return f"{self.model}/{self.version}"


@dataclass(frozen=True, slots=True)
class Thing:
    """What has an id."""

    kind: Kind
    id: UUID


Subject = Thing | VersionName
"""Where a lineage begins."""


@dataclass(frozen=True, slots=True)
class CheckFound:
    """A drift check or a quality check, as far as a lineage shows it."""

    id: UUID
    of: VersionName
    is_drift: bool
    profile_id: str
    time: datetime
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class AlertFound:
    """An alert, as far as a lineage shows it."""

    id: UUID
    of: VersionName
    check_id: UUID | None
    rule_name: str
    fired: bool
    time: datetime
    attributes: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ProfileFound:
    """A reference profile, as far as a lineage shows it."""

    id: UUID
    number: int
    time: datetime
    attributes: Mapping[str, str]
