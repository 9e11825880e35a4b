"""Marks: which buckets of which versions are to be counted anew, since something was stored in them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from uuid import UUID

from psycopg import Connection
from psycopg.rows import DictRow

from services.monitoring.ids import time_ms_of
from services.monitoring.models import Event

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_BUCKET_MS = 300_000

_MARK = """
INSERT INTO monitoring.rollup_marks (granularity, start_time, model, version)
SELECT 1, * FROM unnest(%(starts)s::timestamptz[], %(models)s::text[], %(versions)s::text[])
"""

_MARK_BY_ID = """
INSERT INTO monitoring.feedback_marks (start_time, model, version)
SELECT date_bin('5 minutes', event_time, '1970-01-01 00:00:00+00'), model, version
FROM monitoring.inferences
WHERE inference_id = %(inference_id)s
RETURNING model
"""
_MARK_EARLY = "INSERT INTO monitoring.early_feedback (inference_id) VALUES (%(inference_id)s)"


def mark_events(connection: Connection[DictRow], events: Iterable[Event]) -> None:
    """Mark the buckets of events that this transaction stores."""
    marks = {(time_ms_of(event.inference_id) // _BUCKET_MS, event.model, event.version) for event in events}
    if marks:
        buckets, models, versions = zip(*marks, strict=True)
        starts = [_EPOCH + timedelta(milliseconds=bucket * _BUCKET_MS) for bucket in buckets]
        connection.execute(_MARK, {"starts": starts, "models": list(models), "versions": list(versions)})


def mark_feedback(connection: Connection[DictRow], inference_id: UUID) -> None:
    """Mark the bucket of the event that this transaction's feedback is about: of it only the feedback is counted anew.

    An event that is not to be seen may be stored by another transaction just now, whose mark may be gone before this
    one commits. So the feedback is noted, and its event looked for once more.
    """
    values = {"inference_id": inference_id}
    if connection.execute(_MARK_BY_ID, values).fetchone() is None:
        connection.execute(_MARK_EARLY, values)
