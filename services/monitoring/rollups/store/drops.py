"""What has been dropped, by which a retention that was made longer brings nothing back."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from psycopg import Connection, sql
from psycopg.rows import DictRow

from services.common.postgres import Database
from services.monitoring.rollups.models import Granularity
from services.monitoring.rollups.plan import Kept
from services.monitoring.rollups.store.rows import TABLES

# Days go the oldest first: of what lies before the last one that went, nothing is whole.
_LAST = "SELECT table_name, max(day) AS day FROM monitoring.dropped_days GROUP BY table_name"

_DELETE_DAY = """
WITH oldest AS (
    SELECT date_trunc('day', min(start_time), 'UTC') AS day_time FROM monitoring.{table} WHERE start_time < %(before)s
),
deleted AS (
    DELETE FROM monitoring.{table}
    USING oldest
    WHERE start_time >= day_time AND start_time < day_time + interval '1 day'
)
INSERT INTO monitoring.dropped_days (table_name, day)
SELECT %(table)s, (day_time AT TIME ZONE 'UTC')::date FROM oldest WHERE day_time IS NOT NULL
ON CONFLICT ON CONSTRAINT dropped_days_pkey DO UPDATE SET day = excluded.day
RETURNING day
"""


class DropStore:
    """The rollups that lie in one table each, and go by the day."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def delete_before(self, granularity: Granularity, before: datetime) -> bool:
        """Delete the oldest day before a midnight, and remember that it went; False where there is none."""
        table = TABLES[granularity]
        statement = sql.SQL(_DELETE_DAY).format(table=sql.Identifier(table))
        with self._db.transaction() as connection:
            return connection.execute(statement, {"table": table, "before": before}).fetchone() is not None


def read_kept(connection: Connection[DictRow], kept: Kept) -> Kept:
    """Say since when there are whole events and rollups: within the retentions, and never dropped."""
    after = {
        row["table_name"]: datetime.combine(row["day"] + timedelta(days=1), time(), UTC)
        for row in connection.execute(_LAST)
    }
    rollups = {
        granularity: max(since, after.get(TABLES[granularity], since)) for granularity, since in kept.rollups.items()
    }
    return Kept(max(kept.events, after.get("inferences", kept.events)), rollups)
