"""Taking feedback in: what really happened to a row, early, late or corrected."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from services.common.errors import InvalidArgument
from services.common.keys import caller
from services.monitoring.ids import time_of
from services.monitoring.models import FUTURE_TOLERANCE, Feedback, FeedbackReport, Retention
from services.monitoring.outcomes import literal_of
from services.monitoring.store.feedback import FeedbackStore

Clock = Callable[[], datetime]


class FeedbackLog:
    """Records feedback."""

    def __init__(self, store: FeedbackStore, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._retention = retention
        self._clock = clock

    def record(self, report: FeedbackReport) -> tuple[Feedback, bool]:
        """Append a report; returns the feedback that stands for the row, and whether its event is known.

        Raises:
            InvalidArgument: the id's time (EVENT_TOO_OLD, EVENT_IN_FUTURE), the feedback's time
                (FEEDBACK_IN_FUTURE), or a row that the known event does not have (ROW_OUT_OF_RANGE).
        """
        now = self._clock()
        _check_feedback_time(report, now)
        row_count = self._store.find_row_count(report.inference_id)
        if row_count is None:
            self._check_id_time(report, now)
        elif report.row >= row_count:
            raise InvalidArgument.field(
                "row",
                f"got {report.row}; inference {report.inference_id} has {row_count} rows, counted from 0",
                reason="ROW_OUT_OF_RANGE",
            )
        entry = Feedback(
            inference_id=report.inference_id,
            row=report.row,
            actual_outcome=report.actual_outcome,
            correct=report.correct,
            feedback_time=report.feedback_time or now,
            recorded_by=caller().name,
        )
        literal = literal_of(report.actual_outcome)
        standing = self._store.append(entry, literal=literal, timed=report.feedback_time is not None)
        return standing, row_count is not None

    def _check_id_time(self, report: FeedbackReport, now: datetime) -> None:
        """Refuse what no event can ever come for."""
        if time_of(report.inference_id) < self._retention.oldest(now):
            raise InvalidArgument.field(
                "inference_id",
                f"{report.inference_id} is older than the {self._retention.days} days that are kept",
                reason="EVENT_TOO_OLD",
            )
        if time_of(report.inference_id) > now + FUTURE_TOLERANCE:
            raise InvalidArgument.field(
                "inference_id",
                f"{report.inference_id} is of {time_of(report.inference_id).isoformat()}, over 5 minutes ahead",
                reason="EVENT_IN_FUTURE",
            )


def _check_feedback_time(report: FeedbackReport, now: datetime) -> None:
    if report.feedback_time is not None and report.feedback_time > now + FUTURE_TOLERANCE:
        raise InvalidArgument.field(
            "feedback_time",
            f"{report.feedback_time.isoformat()} is over 5 minutes ahead; leave it out for now",
            reason="FEEDBACK_IN_FUTURE",
        )
