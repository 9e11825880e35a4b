"""Writing feedback: appended, never changed."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb

from services.common.postgres import Database
from services.monitoring.ids import time_of
from services.monitoring.models import Feedback, FeedbackReport
from services.monitoring.store.days import Days
from services.monitoring.store.durability import make_durable
from services.monitoring.store.inferences import JUDGED, feedback_from
from services.monitoring.store.marks import mark_feedback

# Two reports on one row at once are taken one after the other: a repeat must see what it repeats.
_LOCK_ROW = "SELECT pg_advisory_xact_lock(hashtextextended(%(inference_id)s::text || '/' || %(row)s::text, 0))"

_EVENT = """
SELECT model, row_count, outcomes[%(row)s + 1] AS outcome
FROM monitoring.inferences
WHERE inference_id = %(inference_id)s
"""

_SAID_LATELY = """
SELECT DISTINCT outcome
FROM (
    SELECT outcomes[1:10] AS outcomes
    FROM monitoring.inferences
    WHERE model = %(model)s AND error_code = ''
    ORDER BY inference_id DESC
    LIMIT 100
) AS newest, unnest(outcomes) AS outcome
WHERE outcome IS NOT NULL
ORDER BY outcome
LIMIT %(most)s
"""

# The same again adds nothing: said of the same time, or of no time and standing already. Of no time is now, by the one
# clock that all replicas have, and read while the row is locked: so of two reports the later one stands.
_APPEND = """
INSERT INTO monitoring.feedback (
    inference_id, row_index, feedback_time, actual_outcome, outcome_literal, correct, recorded_by
)
SELECT
    %(inference_id)s, %(row)s, coalesce(%(feedback_time)s::timestamptz, clock_timestamp()), %(actual_outcome)s,
    %(outcome_literal)s, %(correct)s, %(recorded_by)s
WHERE NOT EXISTS (
    SELECT
    FROM monitoring.feedback AS known
    WHERE known.inference_id = %(inference_id)s
      AND known.row_index = %(row)s
      AND known.actual_outcome IS NOT DISTINCT FROM %(actual_outcome)s
      AND known.correct IS NOT DISTINCT FROM %(correct)s
      AND CASE WHEN %(timed)s THEN known.feedback_time = %(feedback_time)s ELSE known.feedback_number = (
          SELECT feedback_number
          FROM monitoring.feedback
          WHERE inference_id = %(inference_id)s AND row_index = %(row)s
          ORDER BY feedback_time DESC, feedback_number DESC
          LIMIT 1
      ) END
)
"""


_STANDING = f"""
SELECT said.inference_id, said.row_index, said.actual_outcome, said.feedback_time, said.recorded_by,
    {JUDGED} AS correct
FROM monitoring.feedback AS said
LEFT JOIN monitoring.inferences AS inference USING (inference_id)
WHERE said.inference_id = %(inference_id)s AND said.row_index = %(row)s
ORDER BY said.feedback_time DESC, said.feedback_number DESC
LIMIT 1
"""  # noqa: S608 - the braces are a constant of ours


@dataclass(frozen=True, slots=True)
class Predicted:
    """What was predicted of a row: `outcome` as a literal, None where it is no label or there is no such row."""

    model: str
    row_count: int
    outcome: str | None


class FeedbackStore:
    """What really happened, as it was reported."""

    def __init__(self, database: Database, days: Days) -> None:
        self._db = database
        self._days = days

    def find(self, inference_id: UUID, row: int) -> Predicted | None:
        """Find what was predicted of a row; None where the inference is not known (yet)."""
        with self._db.transaction() as connection:
            found = connection.execute(_EVENT, {"inference_id": inference_id, "row": row}).fetchone()
        return None if found is None else Predicted(**found)

    def said_lately(self, model: str, *, most: int) -> list[str]:
        """Give literals that the newest predictions of a model had, each once."""
        with self._db.transaction() as connection:
            return [row["outcome"] for row in connection.execute(_SAID_LATELY, {"model": model, "most": most})]

    def append(self, report: FeedbackReport, *, literal: str | None, recorded_by: str) -> Feedback:
        """Append to the history of a row, unless the very same stands there, and give what stands then.

        Args:
            report: what was said; an untimed repeat of what stands is no news.
            literal: its outcome as it is compared.
            recorded_by: who said so.
        """
        self._days.ensure([time_of(report.inference_id).date()])
        with self._db.transaction() as connection:
            make_durable(connection)
            return _append(connection, report, literal, recorded_by)


def _append(connection: Connection[DictRow], report: FeedbackReport, literal: str | None, recorded_by: str) -> Feedback:
    values = {
        "inference_id": report.inference_id,
        "row": report.row,
        "feedback_time": report.feedback_time,
        "timed": report.feedback_time is not None,
        "actual_outcome": None if report.actual_outcome is None else Jsonb(report.actual_outcome),
        "outcome_literal": literal,
        "correct": report.correct,
        "recorded_by": recorded_by,
    }
    connection.execute(_LOCK_ROW, values)
    if connection.execute(_APPEND, values).rowcount:
        mark_feedback(connection, report.inference_id)
    standing = connection.execute(_STANDING, values).fetchone()
    if standing is None:
        raise AssertionError("feedback is never deleted but with its day")
    return feedback_from(standing)
