"""Reading events for an export, a slice at a time: each is a short transaction of its own."""

from __future__ import annotations

from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.export.models import ExportedEvent
from services.monitoring.models import MAX_OUTCOMES, Event, Feedback
from services.monitoring.store.inferences import JUDGED, feedback_from

SLICE_EVENTS = 1_000
SLICE_BYTES = 4 * 1024 * 1024
"""A slice ends with the event that exceeds this, so that a few large payloads are as much as many small ones."""
_ROW_BYTES = 200
"""What a row of an event may take beside the payloads: its outcome and its feedback."""

# What is large is measured before it is read: octet_length fetches nothing that lies beside its row.
_SLICE = f"""
WITH found AS (
    SELECT
        inference_id, model, version, framework, request_id, user_id, session_id, confidence, latency_ms, error_code,
        row_count, trace_id, outcomes,
        CASE WHEN %(payloads)s THEN features END AS features,
        CASE WHEN %(payloads)s THEN prediction END AS prediction,
        {_ROW_BYTES} * least(row_count, {MAX_OUTCOMES})::bigint + CASE WHEN %(payloads)s
            THEN coalesce(octet_length(features), 0) + coalesce(octet_length(prediction), 0) ELSE 0 END AS size_bytes
    FROM monitoring.inferences
    WHERE inference_id > %(after)s AND inference_id < %(end_id)s
      AND model = %(model)s AND (%(version)s = '' OR version = %(version)s)
    ORDER BY inference_id
    LIMIT {SLICE_EVENTS}
),
measured AS (
    SELECT found.*, sum(size_bytes) OVER (ORDER BY inference_id) - size_bytes AS before_bytes
    FROM found
)
SELECT
    inference_id, model, version, framework, request_id, user_id, session_id, features, prediction, outcomes,
    confidence, latency_ms, error_code, row_count, trace_id
FROM measured
WHERE before_bytes < {SLICE_BYTES}
ORDER BY inference_id
"""  # noqa: S608 - the braces are constants of ours

_FEEDBACK = f"""
SELECT DISTINCT ON (said.inference_id, said.row_index)
    said.inference_id, said.row_index, said.actual_outcome, said.feedback_time, said.recorded_by,
    {JUDGED} AS correct
FROM monitoring.feedback AS said
JOIN monitoring.inferences AS inference USING (inference_id)
WHERE said.inference_id = ANY (%(ids)s) AND said.row_index < least(inference.row_count, {MAX_OUTCOMES})
ORDER BY said.inference_id, said.row_index, said.feedback_time DESC, said.feedback_number DESC
"""  # noqa: S608 - the braces are constants of ours


class ExportStore:
    """Events of one model, in the order of their ids."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def read(self, model: str, version: str, *, after: UUID, end_id: UUID, payloads: bool) -> list[ExportedEvent]:
        """Give the events that come next after an id; none: there are no more before `end_id`."""
        values = {"model": model, "version": version, "after": after, "end_id": end_id, "payloads": payloads}
        with self._db.transaction() as connection:
            events = [_event(row) for row in connection.execute(_SLICE, values)]
            feedback = _feedback(connection, [event.inference_id for event in events])
        return [ExportedEvent(event, tuple(feedback.get(event.inference_id, ()))) for event in events]


def _event(row: DictRow) -> Event:
    outcomes = row.pop("outcomes")
    return Event(**row, outcomes=None if outcomes is None else tuple(outcomes))


def _feedback(connection: Connection[DictRow], ids: list[UUID]) -> dict[UUID, list[Feedback]]:
    by_id: dict[UUID, list[Feedback]] = {}
    if ids:
        for row in connection.execute(_FEEDBACK, {"ids": ids}):
            by_id.setdefault(row["inference_id"], []).append(feedback_from(row))
    return by_id
