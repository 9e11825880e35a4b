"""Reading the newest raw events, where there is no reference yet to count them against."""

from __future__ import annotations

from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.ids import first_id
from services.monitoring.models import Window
from services.monitoring.profiles.values import LiveRow

SAMPLE_EVENTS = 2_000
SAMPLE_BYTES = 16 * 1024 * 1024
# What is large is measured before it is read: octet_length fetches nothing that lies beside its row.
_SAMPLE = f"""
WITH found AS (
    SELECT inference_id, row_count, features, octet_length(features) AS size_bytes
    FROM monitoring.inferences
    WHERE inference_id >= %(first_id)s AND inference_id < %(end_id)s
      AND model = %(model)s AND version = %(version)s AND features IS NOT NULL
    ORDER BY inference_id DESC
    LIMIT %(limit)s
),
measured AS (
    SELECT found.*, sum(size_bytes) OVER (ORDER BY inference_id DESC) - size_bytes AS before_bytes FROM found
)
SELECT inference_id, row_count, features
FROM measured
WHERE before_bytes < {SAMPLE_BYTES}
ORDER BY inference_id
"""  # noqa: S608 - the braces are constants of ours


class SampleStore:
    """Raw events."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def sample(self, model: str, version: str, window: Window, *, limit: int = SAMPLE_EVENTS) -> list[LiveRow]:
        """Give the newest events of a window that have features, the oldest first; a few thousand at most."""
        values = {
            "limit": limit,
            "model": model,
            "version": version,
            "first_id": first_id(window.from_time),
            "end_id": first_id(window.to_time),
        }
        with self._db.transaction() as connection:
            return [_live_row(row) for row in connection.execute(_SAMPLE, values)]


def _live_row(row: DictRow) -> LiveRow:
    features = bytes(row["features"])
    return LiveRow(row["inference_id"], "", "", row["row_count"], features, prediction=None, outcomes=None)
