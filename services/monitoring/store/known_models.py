"""Which models monitoring has predictions of, and which people made something for."""

from __future__ import annotations

from typing import LiteralString

from services.common.postgres import Database

# A call of a model that is not there leaves events too, without a version, and there may be many of them.
_KNOWS = """
SELECT EXISTS (
        SELECT FROM (
            SELECT version, error_code FROM monitoring.inferences
            WHERE model = %(model)s ORDER BY inference_id DESC LIMIT 10000
        ) AS newest
        WHERE version <> '' OR error_code = ''
    )
    OR EXISTS (
        SELECT FROM monitoring.rollups_days
        WHERE model = %(model)s AND (version <> '' OR error_count < inference_count)
    ) AS known
"""
_IS_SET = """
SELECT EXISTS (SELECT FROM monitoring.configuration_changes WHERE model = %(model)s)
    OR EXISTS (SELECT FROM monitoring.profiles WHERE model = %(model)s)
    OR EXISTS (SELECT FROM monitoring.alert_rules WHERE model = %(model)s) AS known
"""

_NAMES = """
SELECT model FROM monitoring.rollup_marks WHERE version <> ''
UNION
SELECT model FROM monitoring.rollups_hours
WHERE start_time > now() - interval '7 days' AND (version <> '' OR error_count < inference_count)
UNION
SELECT model FROM monitoring.configurations WHERE model <> ''
ORDER BY model
LIMIT %(most)s
"""


class KnownModelStore:
    """Looks wherever a model may stand."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def knows(self, model: str) -> bool:
        """Say whether a model has answered, or a version of it was asked for: calls of a name prove nothing."""
        return self._is(_KNOWS, model)

    def is_set(self, model: str) -> bool:
        """Say whether people made anything for a model: settings, even if since undone, profiles or rules."""
        return self._is(_IS_SET, model)

    def names(self, most: int) -> list[str]:
        """Name models that predicted of late, or that anything is set for."""
        with self._db.transaction() as connection:
            return [row["model"] for row in connection.execute(_NAMES, {"most": most})]

    def _is(self, question: LiteralString, model: str) -> bool:
        with self._db.transaction() as connection:
            row = connection.execute(question, {"model": model}).fetchone()
        return row is not None and bool(row["known"])
