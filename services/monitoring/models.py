"""What monitoring knows: events, feedback, and what is asked of them."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from services.common.errors import InvalidArgument

FUTURE_TOLERANCE = timedelta(minutes=5)
DEFAULT_WINDOW = timedelta(hours=1)
MAX_OUTCOMES = 10_000
"""Rows of one inference whose outcomes are kept, and whose feedback GetInference shows."""
LISTED_ROWS = 100
"""Rows of one inference whose outcomes and feedback a list shows."""
MAX_HISTORY = 1_000
"""Entries of one inference's feedback history that are shown, the newest."""

OutcomeValue = bool | float | str
"""What really happened to a row, as a caller says it."""


class Event(NamedTuple):
    """One prediction, checked. A tuple rather than a dataclass: it is built for every event, three times as fast.

    `outcomes` holds a JSON literal for each row (see `outcomes`), None where the prediction has no label;
    `features` and `prediction` are serialised Payloads, None where they were not captured.
    """

    inference_id: UUID
    model: str
    version: str
    framework: str
    request_id: str
    user_id: str
    session_id: str
    features: bytes | None
    prediction: bytes | None
    outcomes: tuple[str | None, ...] | None
    confidence: float | None
    latency_ms: float
    error_code: str
    row_count: int
    trace_id: str


class Reason(enum.StrEnum):
    """Why an event is refused; the names are part of the contract."""

    INVALID_ID = "INVALID_ID"
    INVALID_FIELD = "INVALID_FIELD"
    EVENT_TOO_OLD = "EVENT_TOO_OLD"
    EVENT_IN_FUTURE = "EVENT_IN_FUTURE"
    PAYLOAD_TOO_LARGE = "PAYLOAD_TOO_LARGE"


@dataclass(frozen=True, slots=True)
class Rejection:
    """A refused event: why, in a sentence too, and what of it is kept for people to look at."""

    reason: Reason
    message: str
    event: bytes | None


class Recorded(enum.Enum):
    """What became of an accepted event."""

    STORED = "stored"
    DUPLICATE = "duplicate"


Result = Recorded | Rejection


@dataclass(frozen=True, slots=True)
class Retention:
    """How long events are kept, by the day."""

    days: int

    def oldest(self, now: datetime) -> datetime:
        """Give the time of the oldest event that is taken now."""
        return now - timedelta(days=self.days)

    def first_day(self, now: datetime) -> date:
        """Give the oldest day that is kept: whole days go, so it reaches back further than `oldest`."""
        return self.oldest(now).date()


@dataclass(frozen=True, slots=True)
class Accepted:
    """The times of the events that are taken at the moment, in ms since 1970, both ends included."""

    oldest_ms: int
    newest_ms: int


@dataclass(frozen=True, slots=True)
class Feedback:
    """What really happened to one row; `correct` as the caller said, or as the comparison found."""

    inference_id: UUID
    row: int
    actual_outcome: OutcomeValue | None
    correct: bool | None
    feedback_time: datetime
    recorded_by: str


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    """What a caller reports; a missing `feedback_time` means now."""

    inference_id: UUID
    row: int
    actual_outcome: OutcomeValue | None
    correct: bool | None
    feedback_time: datetime | None


@dataclass(frozen=True, slots=True)
class Inference:
    """An event with its feedback; `history` is there where one inference was asked for."""

    event: Event
    time: datetime
    feedback: Sequence[Feedback]
    history: Sequence[Feedback] = ()


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time, its end excluded."""

    from_time: datetime
    to_time: datetime

    @classmethod
    def of(cls, from_time: datetime | None, to_time: datetime | None, now: datetime) -> Window:
        """Fill in the defaults: up to now, and one hour back.

        Raises:
            InvalidArgument: it ends before it begins (INVALID_WINDOW).
        """
        end = to_time or now
        begin = from_time or end - min(DEFAULT_WINDOW, end - datetime.min.replace(tzinfo=end.tzinfo))
        if begin >= end:
            raise InvalidArgument.field(
                "from_time",
                f"{begin.isoformat()} is not before to_time {end.isoformat()}; give an earlier from_time",
                reason="INVALID_WINDOW",
            )
        return cls(begin, end)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return (self.to_time - self.from_time).total_seconds()


@dataclass(frozen=True, slots=True)
class Filters:
    """Which inferences a list shows; empty and None mean any."""

    model: str = ""
    version: str = ""
    user_id: str = ""
    session_id: str = ""
    errors_only: bool = False
    from_time: datetime | None = None
    to_time: datetime | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Inferences, the newest first, and the token of the next page; empty on the last."""

    inferences: Sequence[Inference]
    next_page_token: str


@dataclass(frozen=True, slots=True)
class Metrics:
    """How a model did in a window. Latencies in ms over successful predictions; None where nothing was counted.

    Up to `complete_until` all that is stored is in it, up to `feedback_complete_until` all feedback; None: it all is.
    """

    window: Window
    inference_count: int
    error_count: int
    row_count: int
    average_latency_ms: float | None
    p50_latency_ms: float | None
    p95_latency_ms: float | None
    p99_latency_ms: float | None
    average_confidence: float | None
    feedback_count: int
    judged_count: int
    correct_count: int
    complete_until: datetime | None = None
    feedback_complete_until: datetime | None = None

    @property
    def error_rate(self) -> float | None:
        """Failed predictions / predictions."""
        return self.error_count / self.inference_count if self.inference_count else None

    @property
    def accuracy(self) -> float | None:
        """Rows judged right / rows judged; None, not 0, where nothing was."""
        return self.correct_count / self.judged_count if self.judged_count else None

    @property
    def throughput_per_s(self) -> float:
        """Predictions per second of the window."""
        return self.inference_count / self.window.seconds
