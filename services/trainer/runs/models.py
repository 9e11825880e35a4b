"""What a training run is: frozen values, as its row has them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Self

from services.common.jobs import JobState
from services.trainer.task import Outcome, Part, TrainingType


class Phase(enum.StrEnum):
    """What a run is at."""

    TRAINING = "TRAINING"
    VALIDATING = "VALIDATING"
    """The version is registered, or about to be, and tried on rows that it has not seen."""


class ExecutorName(enum.StrEnum):
    """Where a recipe runs."""

    LOCAL = "LOCAL"
    RAY = "RAY"
    KUBERNETES = "KUBERNETES"
    REMOTE = "REMOTE"


@dataclass(frozen=True, slots=True)
class Trigger:
    """What brought a run about: who wanted it, the retraining request that it answers, and why; '': nobody said."""

    requested_by: str = ""
    retraining_request_id: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run as it was asked for; None, '' and 0: as the model's training config says."""

    model: str
    type: TrainingType | None = None
    parent_version: str = ""
    trigger: Trigger = field(default_factory=Trigger)
    config_version: int = 0
    data_source: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""
    recipe: str = ""
    executor: ExecutorName | None = None
    request_id: str = ""
    body_sha256: str = ""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run's own columns.

    Attributes:
        parameters: the config's, with the caller's in their place; the recipe's own, and `split`.
        config_version: of the model's training config; 0: it has none.
        parent_version: that it comes from, and whose weights a finetune begins with; '': the model had none.
        dataset: NAME/VERSION, once it is known.
        part_counts: rows by part, once they are divided.
        outcome: what the recipe left, once it is done.
        script: NAME/VERSION of the script that it is trained with; '': of none that is kept here.
        new_version: as asked for, or as generated; kept before it is registered.
        version_generated: nobody asked for that name.
        registered: whether the version is in the registry, judged READY.
        message: what it is at, for people.
    """

    model: str
    type: TrainingType
    recipe: str
    executor: ExecutorName = ExecutorName.LOCAL
    parameters: Mapping[str, Any] = field(default_factory=dict)
    data_source: str = ""
    config_version: int = 0
    parent_version: str = ""
    trigger: Trigger = field(default_factory=Trigger)
    phase: Phase = Phase.TRAINING
    dataset: str = ""
    split_id: str = ""
    part_counts: Mapping[Part, int] = field(default_factory=dict)
    outcome: Outcome | None = None
    new_version: str = ""
    version_generated: bool = False
    new_version_stage: str = ""
    registered: bool = False
    validation_passed: bool | None = None
    shortfalls: Sequence[str] = ()
    evaluation_id: int = 0
    profile_id: str = ""
    script: str = ""
    message: str = ""

    @classmethod
    def of(cls, payload: Mapping[str, Any]) -> Self:
        """Read the columns of a run's row."""
        plain = (
            "model", "recipe", "parameters", "data_source", "config_version", "parent_version", "dataset", "split_id",
            "new_version", "version_generated", "new_version_stage", "registered", "validation_passed",
            "evaluation_id", "profile_id", "script", "message",
        )  # fmt: skip
        return cls(
            **{name: payload[name] for name in plain},
            type=TrainingType(payload["type"]),
            executor=ExecutorName(payload["executor"]),
            trigger=Trigger(payload["requested_by"], payload["retraining_request_id"], payload["note"]),
            phase=Phase(payload["phase"]),
            part_counts={Part(part): count for part, count in payload["part_counts"].items()},
            outcome=Outcome.of(payload["outcome"]) if payload["outcome"] else None,
            shortfalls=tuple(payload["shortfalls"]),
        )


@dataclass(frozen=True, slots=True)
class RunFilters:
    """Which runs are listed; '' and none: all. `phase`: of those that run; None: either."""

    states: frozenset[JobState] = frozenset()
    phase: Phase | None = None
    model: str = ""


@dataclass(frozen=True, slots=True)
class KeptEpoch:
    """What a recipe told of one step, as it is kept."""

    number: int
    metrics: Mapping[str, float]
    attempt: int
    time: datetime


@dataclass(frozen=True, slots=True)
class LogPiece:
    """Bytes that were printed, and where they begin in all that was."""

    offset: int
    chunk: bytes
