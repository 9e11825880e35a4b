"""A task that an outside worker has, or may have: frozen values, as its row has them."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from services.common.errors import PermissionDenied, Unauthenticated
from services.trainer.task import Task, TrainingType


class TaskState(enum.StrEnum):
    """How far a task has come: PREPARING → WAITING → RUNNING → COMPLETED | FAILED; VOID from anywhere."""

    PREPARING = "PREPARING"
    """Its files are not all there to be brought."""
    WAITING = "WAITING"
    """No worker has shown itself."""
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    VOID = "VOID"
    """Nobody wants it any more: another task took its place."""


class InvalidRunToken(Unauthenticated):
    """No run has such a token."""

    default_reason = "INVALID_RUN_TOKEN"


class RunTokenVoid(PermissionDenied):
    """The token was good once: the run has ended, was completed by it, or is another worker's by now."""

    default_reason = "RUN_TOKEN_VOID"


@dataclass(frozen=True, slots=True)
class OutsideTask:
    """A task's row.

    Attributes:
        number: 1, 2, 3 … of the run: a task that is begun anew is another, with another token.
        labels: what its worker must have; of REMOTE.
        worker: who has it, as it calls itself.
        silent_s: how long nothing was heard of its worker, or it waits for one.
        sequence: of the last report that was heard.
        end_sha256: of the request that ended it.
        outcome: what was made, as `Outcome` is written.
        artifacts: files that lie at URLs, in place of an upload; see `RemoteFile`.
        run_over: whether the run has ended.
        cancelled: whether somebody asked for its end.
    """

    task_id: UUID
    run_id: UUID
    number: int
    executor: str
    state: TaskState
    labels: Sequence[str]
    worker: str
    token_sha256: str
    spec: Mapping[str, Any]
    silent_s: float
    sequence: int
    end_sha256: str
    outcome: Mapping[str, Any] | None
    artifacts: Sequence[Mapping[str, Any]]
    reason: str
    message: str
    run_over: bool
    cancelled: bool

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read a row."""
        return cls(**{**row, "state": TaskState(row["state"])})

    @property
    def task(self) -> Task:
        """What is to be done."""
        return Task(**{**self.spec, "type": TrainingType(self.spec["type"])})

    @property
    def submission(self) -> str:
        """What a cluster calls it; no other task was or will be called so."""
        return f"penstock-{self.run_id}-{self.number}"

    @property
    def live(self) -> bool:
        """Whether a worker may have it."""
        return self.state in (TaskState.WAITING, TaskState.RUNNING) and not self.run_over


@dataclass(frozen=True, slots=True)
class HandedFile:
    """A file of a task's: brought before it, or handed in."""

    path: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a version's that lies at a URL, which may bear a secret; `size_bytes` 0: nobody knows."""

    path: str
    url: str
    sha256: str
    size_bytes: int = 0


class OutputKind(enum.StrEnum):
    """What is handed in."""

    ARTIFACT = "artifact"
    CHECKPOINT = "checkpoint"
