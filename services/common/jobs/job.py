"""A job as it stands, and what a worker holds of it."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from services.common.errors import Aborted


class JobState(enum.StrEnum):
    """How far a job has come: PENDING → QUEUED → RUNNING → COMPLETED | FAILED | CANCELLED."""

    PENDING = "PENDING"
    """Its time has not come: it was created for later, or waits between two attempts."""
    QUEUED = "QUEUED"
    """It waits for a worker."""
    RUNNING = "RUNNING"
    """A worker holds its lease."""
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


TERMINAL = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})


class StopReason(enum.StrEnum):
    """Why a run is asked to end."""

    CANCELLED = "CANCELLED"
    SOFT_LIMIT = "SOFT_LIMIT"
    DRAINING = "DRAINING"
    """The process ends; the job goes back into the queue, and this attempt does not count."""
    LEASE_LOST = "LEASE_LOST"
    """Another has the job, or may have: nothing more can be reported."""


class Stopped(Exception):
    """The run was asked to end, and ends. Raised by `JobRun.check`; work lets it through."""

    def __init__(self, reason: StopReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class LeaseLost(Aborted):
    """The worker's lease is over: nothing was written."""

    default_reason = "LEASE_LOST"


@dataclass(frozen=True, slots=True)
class Progress:
    """How much is done, in the work's own unit; `failed` of `done` went wrong, `total` is None while unknown."""

    done: int = 0
    failed: int = 0
    total: int | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a job failed: a stable reason, a sentence for its owner, and what operators alone should see."""

    reason: str = ""
    message: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to create. `payload`: the service's own columns by name.

    `request_id` is scoped to who creates it; `body_sha256` tells the same request from another. Limits count from the
    first attempt's start, pauses and rescues included.
    """

    job_id: UUID
    created_by: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    request_id: str = ""
    body_sha256: str = ""
    priority: int = 5
    limit_key: str = ""
    due_time: datetime | None = None
    max_attempts: int = 5
    soft_limit_ms: int | None = None
    hard_limit_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Job:
    """A job's row. `read_time` is when it was read, by the database's clock; `payload` the service's own columns."""

    job_id: UUID
    create_number: int
    state: JobState
    priority: int
    limit_key: str
    created_by: str
    request_id: str
    body_sha256: str
    create_time: datetime
    due_time: datetime
    start_time: datetime | None
    claim_time: datetime | None
    end_time: datetime | None
    attempt: int
    max_attempts: int
    token: int
    worker_id: str
    lease_expire_time: datetime | None
    cancel_time: datetime | None
    soft_limit_ms: int | None
    hard_limit_ms: int | None
    queued_ms: int
    progress: Progress
    claim_count: int
    update_time: datetime
    error: Failure
    result: Mapping[str, Any] | None
    read_time: datetime
    payload: Mapping[str, Any]

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it by itself any more."""
        return self.state in TERMINAL

    @property
    def queue_time_ms(self) -> int:
        """How long it was due without a worker so far."""
        waits = self.state is JobState.QUEUED
        return self.queued_ms + (_ms_between(self.due_time, self.read_time) if waits else 0)

    @property
    def remaining_ms(self) -> int | None:
        """How long the rest takes at the latest attempt's speed; None where that cannot be said."""
        total, fresh = self.progress.total, self.progress.done - self.claim_count
        if self.state is not JobState.RUNNING or total is None or fresh <= 0:
            return None
        return max(0, round((total - self.progress.done) * self.run_time_ms / fresh))

    @property
    def run_time_ms(self) -> int:
        """How long the latest attempt has taken, or took."""
        if self.claim_time is None or self.state in (JobState.PENDING, JobState.QUEUED):
            return 0
        return _ms_between(self.claim_time, self.end_time or self.read_time)


@dataclass(frozen=True, slots=True)
class Lease:
    """A worker's right to a job: worth something only while the row has this token and its time is not over."""

    job_id: UUID
    token: int
    worker_id: str


@dataclass(frozen=True, slots=True)
class Standing:
    """What a worker learns of a lease that it holds."""

    cancelled: bool
    soft_limit_passed: bool


@dataclass(frozen=True, slots=True)
class JobWorker:
    """A process that works on jobs."""

    worker_id: str
    slot_count: int
    busy_count: int
    start_time: datetime
    seen_time: datetime
    live: bool


def _ms_between(begin: datetime, end: datetime) -> int:
    return max(0, round((end - begin).total_seconds() * 1000))
