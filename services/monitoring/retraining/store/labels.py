"""Counting what there is to learn from: rows whose outcome is known."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from services.common.postgres import Database
from services.monitoring.ids import first_id
from services.monitoring.models import FUTURE_TOLERANCE

_DAY = timedelta(days=1)

# The day's partitions alone are read, and no further than to the limit. Whether a row has a label: its outcome was
# reported, or that the prediction was right. A correction of an old label is no new one.
_COUNT = """
SELECT count(*) AS labels
FROM (
    SELECT
    FROM monitoring.feedback AS said
    JOIN monitoring.inferences AS inference USING (inference_id)
    WHERE said.inference_id >= %(first_id)s AND said.inference_id < %(end_id)s
      AND inference.inference_id >= %(first_id)s AND inference.inference_id < %(end_id)s
      AND inference.model = %(model)s
      AND said.row_index < inference.row_count
      AND (said.actual_outcome IS NOT NULL OR said.correct)
    GROUP BY said.inference_id, said.row_index
    HAVING %(since)s::timestamptz IS NULL OR min(said.feedback_time) >= %(since)s
    LIMIT %(limit)s
) AS labelled
"""

_LAST_VERSION = """
SELECT version
FROM monitoring.inferences
WHERE model = %(model)s AND version <> '' AND error_code = ''
ORDER BY inference_id DESC
LIMIT 1
"""


class LabelStore:
    """What was said of a model's predictions."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def count(self, model: str, *, since: datetime | None, first_time: datetime, now: datetime, limit: int) -> int:
        """Count rows of predictions of `first_time` or later that got their label at `since` or later; None: ever.

        A day at a time, the newest first, and no further than to `limit`.
        """
        found, day = 0, datetime.combine((now + FUTURE_TOLERANCE).date(), time(), UTC)
        while found < limit and day + _DAY > first_time:
            values = {
                "model": model,
                "since": since,
                "first_id": first_id(day),
                "end_id": first_id(day + _DAY),
                "limit": limit - found,
            }
            with self._db.transaction() as connection:
                row = connection.execute(_COUNT, values).fetchone()
            found += int(row["labels"]) if row else 0
            day -= _DAY
        return found

    def last_version(self, model: str) -> str:
        """Name the version that answered last, and did not fail; empty where none has."""
        with self._db.transaction() as connection:
            row = connection.execute(_LAST_VERSION, {"model": model}).fetchone()
        return "" if row is None else str(row["version"])
