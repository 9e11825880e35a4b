"""Which models monitoring has anything of."""

from __future__ import annotations

from typing import LiteralString

from services.common.postgres import Database

_KNOWS = """
SELECT EXISTS (SELECT FROM monitoring.inferences WHERE model = %(model)s)
    OR EXISTS (SELECT FROM monitoring.rollups_days WHERE model = %(model)s)
    OR EXISTS (SELECT FROM monitoring.profiles WHERE model = %(model)s) AS known
"""
_IS_SET = "SELECT EXISTS (SELECT FROM monitoring.configuration_changes WHERE model = %(model)s) AS known"

_NAMES = """
SELECT model FROM monitoring.rollup_marks
UNION
SELECT model FROM monitoring.rollups_hours WHERE start_time > now() - interval '7 days'
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
        """Say whether there is anything of a model: predictions, counts of them, or profiles."""
        return self._is(_KNOWS, model)

    def is_set(self, model: str) -> bool:
        """Say whether anything is set for a model, or was."""
        return self._is(_IS_SET, model)

    def names(self, most: int) -> list[str]:
        """Name models that predicted of late, or that anything is set for."""
        with self._db.transaction() as connection:
            return [row["model"] for row in connection.execute(_NAMES, {"most": most})]

    def _is(self, question: LiteralString, model: str) -> bool:
        with self._db.transaction() as connection:
            row = connection.execute(question, {"model": model}).fetchone()
        return row is not None and bool(row["known"])
