"""What a schedule is: frozen values, as its row has them."""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from services.common.jobs import JobState
from services.fetcher.models import FetchSpec, Phase, Plan
from services.fetcher.schedules import times


@dataclass(frozen=True, slots=True)
class When:
    """When a schedule is due: once at a time, or by cron in a time zone."""

    at_time: datetime | None = None
    cron: str = ""
    time_zone: str = "UTC"

    def after(self, time: datetime) -> datetime | None:
        """Give the first time after another; None where none comes. Raises InvalidArgument as `times.next_time`."""
        if self.at_time is not None:
            return self.at_time if self.at_time > time else None
        return times.next_time(self.cron, self.time_zone, time)


@dataclass(frozen=True, slots=True)
class NewSchedule:
    """A schedule to create. `request_id` is scoped to who creates it; `body_sha256` tells the same from another."""

    spec: FetchSpec
    priority: int
    max_attempts: int
    when: When
    auto_update: bool
    request_id: str
    body_sha256: str


class Again(enum.Enum):
    """When a time that came in vain is tried again."""

    NOT = enum.auto()
    """It is left out; the next time is another."""
    AFTER_A_FAULT = enum.auto()
    """Soon, and as often as one of its jobs would be: what went wrong may pass."""
    AFTER_A_WAIT = enum.auto()
    """Soon, and for a day: nothing was tried, for lack of room or of leave."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """Why a time that came created no job and found nothing out: a stable reason and a sentence.

    `retry_after_s`: what whoever was asked wants to be left alone for.
    """

    reason: str
    message: str
    again: Again = Again.NOT
    retry_after_s: float | None = None


@dataclass(frozen=True, slots=True)
class Look:
    """The right to look at a schedule's source: worth something only while its row has this token, for some time."""

    schedule: Schedule
    token: int


@dataclass(frozen=True, slots=True)
class LastJob:
    """The last job of a schedule, as it stands."""

    job_id: UUID
    state: JobState
    phase: Phase

    @property
    def ended(self) -> bool:
        """Whether nothing will happen to it by itself any more."""
        return self.state not in (JobState.PENDING, JobState.QUEUED, JobState.RUNNING)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule's row. `read_time` is when it was read, by the database's clock.

    `last_job` is None while there is none, and once it has been deleted; `last_job_id` and `last_job_failed` stay.
    `last_revision` is `revision_of` what the last job was created for, with `auto_update`: what a look saw and no job
    was created for is seen again. A `next_time` that came in vain stays while it is tried again: `try_count` tries that
    count, the first of all at `try_time`, and the next at `retry_time`.
    """

    schedule_id: UUID
    create_number: int
    created_by: str
    create_time: datetime
    spec: FetchSpec
    priority: int
    max_attempts: int
    when: When
    auto_update: bool
    enabled: bool
    next_time: datetime | None
    try_count: int
    try_time: datetime | None
    retry_time: datetime | None
    last_time: datetime | None
    last_job_id: UUID | None
    last_job: LastJob | None
    last_job_failed: bool
    last_revision: str
    last_check_time: datetime | None
    trouble: Trouble | None
    trouble_time: datetime | None
    read_time: datetime

    @property
    def busy(self) -> bool:
        """Whether its last job has not ended."""
        return self.last_job is not None and not self.last_job.ended

    def wants(self, revision: str) -> bool:
        """Say whether what was seen at the source is to be fetched.

        It is where it is another than was fetched last, or can't be known again; and where the last job FAILED.
        """
        return self.last_job_failed or not revision or revision != self.last_revision


@dataclass(frozen=True, slots=True)
class ScheduleFilters:
    """Which schedules are listed; '' and None: all."""

    model: str = ""
    source: str = ""
    enabled: bool | None = None


def revision_of(plan: Plan) -> str:
    """Say by what the same is known again at a source: its own word, else what its files have; '' where nothing is."""
    if plan.revision:
        return plan.revision
    if not all(file.tag or file.sha256 for file in plan.files):
        return ""
    known = sorted((file.path, file.tag, file.size_bytes or -1, file.sha256) for file in plan.files)
    return f"files:{hashlib.sha256(repr(known).encode()).hexdigest()}"


def job_id_of(schedule_id: UUID, due_time: datetime) -> UUID:
    """Name the job of a time: the same always, a UUIDv7 (RFC 9562, 5.7) whose random bits are a digest of both."""
    time_us = round(due_time.timestamp() * 1_000_000)
    digest = hashlib.sha256(schedule_id.bytes + time_us.to_bytes(8, "big")).digest()
    random = int.from_bytes(digest[:10], "big")
    time_ms = time_us // 1000
    bits = time_ms << 80 | 0x7 << 76 | (random >> 62 & 0xFFF) << 64 | 0b10 << 62 | random & (1 << 62) - 1
    return UUID(int=bits)
