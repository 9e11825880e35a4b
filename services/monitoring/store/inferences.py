"""Reading events together with their feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, LiteralString
from uuid import UUID

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.ids import first_id
from services.monitoring.models import (
    LISTED_ROWS,
    MAX_HISTORY,
    MAX_OUTCOMES,
    Event,
    Feedback,
    Filters,
    Inference,
    Metrics,
    Window,
)

_SLIM = """
inference_id, event_time, model, version, framework, request_id, user_id, session_id, confidence, latency_ms,
error_code, row_count, trace_id
"""

_GET = f"""
SELECT {_SLIM}, features, prediction, outcomes
FROM monitoring.inferences
WHERE inference_id = %(inference_id)s
"""  # noqa: S608 - the braces are a constant of ours

_LIST = f"""
SELECT {_SLIM}, NULL AS features, NULL AS prediction, outcomes[1:{LISTED_ROWS}] AS outcomes
FROM monitoring.inferences
WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s {{conditions}}
ORDER BY inference_id DESC
LIMIT %(limit)s
"""  # noqa: S608 - the braces are constants of ours

# The comparison with '' lets the partial indexes serve.
_CONDITIONS: Mapping[str, LiteralString] = {
    "model": "AND model = %(model)s",
    "version": "AND version = %(version)s",
    "user_id": "AND user_id = %(user_id)s AND user_id <> ''",
    "session_id": "AND session_id = %(session_id)s AND session_id <> ''",
    "errors_only": "AND error_code <> ''",
}

# A row is judged when it is read, so that it does not matter whether the event or the feedback came first.
JUDGED = "coalesce(said.correct, inference.outcomes[said.row_index + 1] = said.outcome_literal)"

_STANDING = f"""
SELECT DISTINCT ON (said.inference_id, said.row_index)
    said.inference_id, said.row_index, said.actual_outcome, said.feedback_time, said.recorded_by,
    {JUDGED} AS correct
FROM monitoring.feedback AS said
JOIN monitoring.inferences AS inference USING (inference_id)
WHERE said.inference_id = ANY (%(ids)s) AND said.row_index < least(inference.row_count, %(rows)s)
ORDER BY said.inference_id, said.row_index, said.feedback_time DESC, said.feedback_number DESC
"""  # noqa: S608 - the braces are constants of ours

_HISTORY = f"""
SELECT said.inference_id, said.row_index, said.actual_outcome, said.feedback_time, said.recorded_by,
    {JUDGED} AS correct
FROM monitoring.feedback AS said
JOIN monitoring.inferences AS inference USING (inference_id)
WHERE said.inference_id = %(inference_id)s AND said.row_index < inference.row_count
ORDER BY said.feedback_number DESC
LIMIT %(limit)s
"""  # noqa: S608 - the braces are constants of ours

_MORE = """
SELECT count(*) > %(than)s AS more
FROM (
    SELECT
    FROM monitoring.inferences
    WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s AND model = %(model)s
    LIMIT %(than)s + 1
) AS found
"""

# Percentiles by the nearest rank: a latency that a request really had.
_METRICS = f"""
WITH inference AS (
    SELECT inference_id, latency_ms, confidence, error_code, row_count, outcomes
    FROM monitoring.inferences
    WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s
      AND model = %(model)s AND (%(version)s = '' OR version = %(version)s)
),
prediction AS (
    SELECT
        count(*) AS inference_count,
        count(*) FILTER (WHERE error_code <> '') AS error_count,
        coalesce(sum(row_count), 0) AS row_count,
        avg(latency_ms) FILTER (WHERE error_code = '') AS average_latency_ms,
        percentile_disc(ARRAY[0.5, 0.95, 0.99]) WITHIN GROUP (ORDER BY latency_ms)
            FILTER (WHERE error_code = '') AS percentiles,
        avg(confidence) AS average_confidence
    FROM inference
),
judged AS (
    SELECT DISTINCT ON (said.inference_id, said.row_index) {JUDGED} AS correct
    FROM inference
    JOIN monitoring.feedback AS said USING (inference_id)
    WHERE said.inference_id >= %(first_id)s AND said.inference_id < %(end_id)s
      AND said.row_index < inference.row_count
    ORDER BY said.inference_id, said.row_index, said.feedback_time DESC, said.feedback_number DESC
)
SELECT
    prediction.*,
    (SELECT count(*) FROM judged) AS feedback_count,
    (SELECT count(correct) FROM judged) AS judged_count,
    (SELECT count(*) FROM judged WHERE correct) AS correct_count
FROM prediction
"""  # noqa: S608 - the braces are constants of ours


class InferenceStore:
    """Inferences and what is counted of them."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def find(self, inference_id: UUID) -> Inference | None:
        """Find an inference with its payloads, its feedback and that feedback's history."""
        values = {"inference_id": inference_id, "limit": MAX_HISTORY}
        with self._db.transaction() as connection:
            row = connection.execute(_GET, values).fetchone()
            if row is None:
                return None
            standing = _standing(connection, [inference_id], rows=MAX_OUTCOMES)
            history = [feedback_from(entry) for entry in connection.execute(_HISTORY, values)]
        return _inference(row, standing, history[::-1])

    def page(self, filters: Filters, window: Window, *, before: UUID | None, limit: int) -> list[Inference]:
        """List the newest inferences of the window, those before the id `before` where one is given."""
        used = [sql.SQL(text) for name, text in _CONDITIONS.items() if getattr(filters, name)]
        end_id = first_id(window.to_time)
        values = {
            "model": filters.model,
            "version": filters.version,
            "user_id": filters.user_id,
            "session_id": filters.session_id,
            "first_id": first_id(window.from_time),
            "end_id": end_id if before is None else min(before, end_id),
            "limit": limit,
        }
        with self._db.transaction() as connection:
            statement = sql.SQL(_LIST).format(conditions=sql.SQL(" ").join(used))
            rows = connection.execute(statement, values).fetchall()
            standing = _standing(connection, [row["inference_id"] for row in rows], rows=LISTED_ROWS)
        return [_inference(row, standing) for row in rows]

    def has_more(self, model: str, window: Window, *, than: int) -> bool:
        """Say whether more predictions of a model are stored than some; it looks at no more than that."""
        with self._db.transaction() as connection:
            row = connection.execute(_MORE, {**_asked(model, "", window), "than": than}).fetchone()
        return row is not None and bool(row["more"])

    def measure(self, model: str, version: str, window: Window) -> Metrics:
        """Count a model's predictions and feedback, exactly, over the raw events."""
        values = _asked(model, version, window)
        with self._db.transaction() as connection:
            row = connection.execute(_METRICS, values).fetchone()
        if row is None:
            raise AssertionError("an aggregate without GROUP BY has one row")
        p50, p95, p99 = row.pop("percentiles") or (None, None, None)
        return Metrics(window=window, p50_latency_ms=p50, p95_latency_ms=p95, p99_latency_ms=p99, **row)


def _asked(model: str, version: str, window: Window) -> dict[str, object]:
    return {
        "model": model,
        "version": version,
        "first_id": first_id(window.from_time),
        "end_id": first_id(window.to_time),
    }


def _standing(connection: Connection[DictRow], ids: Sequence[UUID], *, rows: int) -> dict[UUID, list[Feedback]]:
    by_id: dict[UUID, list[Feedback]] = {}
    for row in connection.execute(_STANDING, {"ids": list(ids), "rows": rows}):
        by_id.setdefault(row["inference_id"], []).append(feedback_from(row))
    return by_id


def feedback_from(row: Mapping[str, Any]) -> Feedback:
    """Read a row of feedback."""
    return Feedback(
        inference_id=row["inference_id"],
        row=row["row_index"],
        actual_outcome=row["actual_outcome"],
        correct=row["correct"],
        feedback_time=row["feedback_time"],
        recorded_by=row["recorded_by"],
    )


def _inference(
    row: dict[str, Any], standing: Mapping[UUID, Sequence[Feedback]], history: Sequence[Feedback] = ()
) -> Inference:
    time = row.pop("event_time")
    outcomes = row.pop("outcomes")
    event = Event(**row, outcomes=None if outcomes is None else tuple(outcomes))
    return Inference(event, time, standing.get(event.inference_id, ()), history)
