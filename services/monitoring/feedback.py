"""Taking feedback in: what really happened to a row, early, late or corrected."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.common.errors import InvalidArgument
from services.common.keys import caller
from services.monitoring.ids import time_of
from services.monitoring.models import FUTURE_TOLERANCE, Feedback, FeedbackReport, Retention
from services.monitoring.outcomes import literal_of
from services.monitoring.store.feedback import FeedbackStore, Predicted

Clock = Callable[[], datetime]
SHOWN_OUTCOMES = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """The feedback that stands for a row, whether its event is known, and what looks like a mistake."""

    feedback: Feedback
    matched: bool
    warnings: Sequence[str]


class FeedbackLog:
    """Records feedback."""

    def __init__(self, store: FeedbackStore, retention: Retention, clock: Clock) -> None:
        self._store = store
        self._retention = retention
        self._clock = clock

    def record(self, report: FeedbackReport) -> Standing:
        """Append a report; returns what stands for the row then.

        Raises:
            InvalidArgument: the id's time (EVENT_TOO_OLD, EVENT_IN_FUTURE), the feedback's time
                (FEEDBACK_IN_FUTURE), or a row that the known event does not have (ROW_OUT_OF_RANGE).
        """
        now = self._clock()
        _check_feedback_time(report, now)
        predicted = self._store.find(report.inference_id, report.row)
        if predicted is None:
            self._check_id_time(report, now)
        elif report.row >= predicted.row_count:
            rows = f"{predicted.row_count} row{'' if predicted.row_count == 1 else 's'}"
            raise InvalidArgument.field(
                "row",
                f"got {report.row}; inference {report.inference_id} has {rows}, counted from 0",
                reason="ROW_OUT_OF_RANGE",
            )
        literal = literal_of(report.actual_outcome)
        standing = self._store.append(report, literal=literal, recorded_by=caller().name)
        return Standing(standing, predicted is not None, self._doubts(predicted, report, literal))

    def _doubts(self, predicted: Predicted | None, report: FeedbackReport, literal: str | None) -> list[str]:
        """Say what no comparison will ever make right: an outcome of another kind, or nothing to compare it with."""
        if predicted is None or report.actual_outcome is None or report.correct is not None:
            return []
        if predicted.outcome is None:
            return [f"row {report.row} of this inference has no label to compare with: say whether it was right"]
        if literal is None or literal == predicted.outcome:
            return []
        kind, predicted_kind = _kind(literal), _kind(predicted.outcome)
        if kind == predicted_kind and literal.casefold() != predicted.outcome.casefold():
            return []
        how = f"are {predicted_kind}s" if kind != predicted_kind else "are written otherwise"
        said = ", ".join(self._store.said_lately(predicted.model, most=SHOWN_OUTCOMES))
        return [
            f"{literal} is a {kind}, and predictions of {predicted.model} {how}, such as {said}: it counts as wrong"
        ]

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


def _kind(literal: str) -> str:
    return "text" if literal.startswith('"') else "number"


def _check_feedback_time(report: FeedbackReport, now: datetime) -> None:
    if report.feedback_time is not None and report.feedback_time > now + FUTURE_TOLERANCE:
        raise InvalidArgument.field(
            "feedback_time",
            f"{report.feedback_time.isoformat()} is over 5 minutes ahead; leave it out for now",
            reason="FEEDBACK_IN_FUTURE",
        )
