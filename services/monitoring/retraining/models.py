"""Retraining requests, and what raises them."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

MONITORING = "monitoring"
"""Who asked, where it was the service itself."""

Details = Mapping[str, Any]
"""What was found: JSON values by name."""


class State(enum.Enum):
    """How far a request has come; the numbers are the contract's."""

    PENDING = 1
    APPROVED = 2
    REJECTED = 3
    EXPIRED = 4
    TRAINING = 5
    COMPLETED = 6
    FAILED = 7


class Reason(enum.Enum):
    """Why a retraining was asked for; the numbers are the contract's."""

    DRIFT_DETECTED = 1
    ERROR_RATE_THRESHOLD = 2
    ACCURACY_DROP = 3
    SCHEDULED = 4
    MANUAL = 5


@dataclass(frozen=True, slots=True)
class Cause:
    """What may raise a request; whether it does is for the safety rules to say. `number` is its place in the queue.

    One that does not raise any is an alert that belongs to what its check raises. A check's ends at its `end_time`.
    """

    model: str
    version: str
    reason: Reason
    details: Details
    alert_id: UUID | None = None
    check_id: UUID | None = None
    raises: bool = True
    end_time: datetime | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Draft:
    """A request as a person asks for it; `force`: though it is too soon, or labels are too few."""

    model: str
    version: str
    note: str
    force: bool
    request_id: str
    body_sha256: str


@dataclass(frozen=True, slots=True)
class Request:
    """A request and what became of it.

    Attributes:
        label_count: labelled rows since the last training when it was raised, counted up to `labels.MOST_COUNTED`.
        expire_time: a PENDING one expires then, and an APPROVED one that no trainer has taken.
        train_time: when the trainer took it.
        message: what it waits for, or why it failed.
    """

    id: UUID
    model: str
    version: str
    state: State
    reason: Reason
    details: Details
    alert_id: UUID | None
    check_id: UUID | None
    label_count: int
    requested_by: str
    create_time: datetime
    expire_time: datetime
    decided_by: str = ""
    decide_time: datetime | None = None
    decision_note: str = ""
    training_run_id: str = ""
    train_time: datetime | None = None
    new_version: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """One step in the life of a request; `actor` empty: the service."""

    time: datetime
    state: State
    actor: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Past:
    """What a model's retrainings so far say about another one: times of the newest, None where there is none."""

    open_request: Request | None = None
    train_time: datetime | None = None
    decline_time: datetime | None = None
    schedule_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class RequestFilters:
    """Which requests a list shows; empty: all."""

    model: str = ""
    states: tuple[State, ...] = field(default=())
