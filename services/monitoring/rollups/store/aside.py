"""Marks while rollups are switched off: one a bucket is kept for later, and none of what is gone."""

from __future__ import annotations

from datetime import datetime

from psycopg import Connection
from psycopg.rows import DictRow

# All marks that the snapshot sees go, and one that is new stays: it outlives a recount that began before.
_SET_ASIDE = """
WITH waiting AS (
    SELECT DISTINCT start_time, model, version
    FROM monitoring.rollup_marks
    WHERE granularity = 1 AND start_time <= %(latest)s AND NOT set_aside
    LIMIT %(limit)s
),
taken AS (
    DELETE FROM monitoring.rollup_marks AS mark
    USING waiting
    WHERE mark.granularity = 1
      AND (mark.start_time, mark.model, mark.version) = (waiting.start_time, waiting.model, waiting.version)
),
kept AS (
    INSERT INTO monitoring.rollup_marks (granularity, start_time, model, version, set_aside)
    SELECT 1, start_time, model, version, true FROM waiting
),
told AS (
    INSERT INTO monitoring.profile_marks (start_time, model, version)
    SELECT start_time, model, version FROM waiting
)
SELECT count(*) AS count FROM waiting
"""
_FOLD_FEEDBACK = """
WITH waiting AS (
    SELECT start_time, model, version
    FROM monitoring.feedback_marks
    GROUP BY start_time, model, version
    HAVING count(*) > 1
    LIMIT %(limit)s
),
taken AS (
    DELETE FROM monitoring.feedback_marks AS mark
    USING waiting
    WHERE (mark.start_time, mark.model, mark.version) = (waiting.start_time, waiting.model, waiting.version)
)
INSERT INTO monitoring.feedback_marks (start_time, model, version)
SELECT start_time, model, version FROM waiting
"""
_FORGET = (
    "DELETE FROM monitoring.rollup_marks WHERE granularity = 1 AND start_time < %(kept)s",
    "DELETE FROM monitoring.feedback_marks WHERE start_time < %(kept)s",
)


def set_aside(connection: Connection[DictRow], *, latest: datetime, limit: int) -> int:
    """Leave one mark of each bucket that began by a time, and one for its live profile; says of how many buckets."""
    connection.execute(_FOLD_FEEDBACK, {"limit": limit})
    row = connection.execute(_SET_ASIDE, {"latest": latest, "limit": limit}).fetchone()
    return 0 if row is None else int(row["count"])


def forget(connection: Connection[DictRow], kept: datetime) -> None:
    """Drop the marks of buckets whose events are gone: nobody can count them any more."""
    for statement in _FORGET:
        connection.execute(statement, {"kept": kept})
