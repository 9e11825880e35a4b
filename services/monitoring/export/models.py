"""What an export is asked for, and the columns that it has."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from services.monitoring.models import Event, Feedback
from services.monitoring.rollups.models import Granularity

DEFAULT_WINDOW = timedelta(days=1)


class ExportFormat(enum.Enum):
    """How rows are written; the numbers are the contract's."""

    CSV = 1
    PARQUET = 2


@dataclass(frozen=True, slots=True)
class Column:
    """A column; every cell may be empty. JSON is text."""

    name: str
    kind: Literal["text", "whole", "number", "time"]


Row = tuple[Any, ...]
"""A cell a column, in their order: str, int, float, an aware datetime, or None."""


@dataclass(frozen=True, slots=True)
class EventsWanted:
    """Which events; an empty version means any, None what is usual."""

    model: str
    version: str
    from_time: datetime | None
    to_time: datetime | None
    format: ExportFormat
    payloads: bool


@dataclass(frozen=True, slots=True)
class MetricsWanted:
    """Which metrics; an empty version means each by itself, None what is usual."""

    model: str
    version: str
    from_time: datetime | None
    to_time: datetime | None
    granularity: Granularity | None
    format: ExportFormat


@dataclass(frozen=True, slots=True)
class ExportedEvent:
    """An event with the feedback that stands for its rows."""

    event: Event
    feedback: tuple[Feedback, ...]
