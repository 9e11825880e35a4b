"""Models: their rows, and the lock that everyone who changes a version holds."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import DictRow

from services.common.errors import NotFound
from services.registry.models import Model

_SELECT = """
SELECT m.model_id, m.name, m.description, m.version_count, m.live_transition_id, m.create_time, m.update_time,
       coalesce((SELECT v.version FROM registry.versions v
                 WHERE v.model_id = m.model_id AND v.stage = 'PRODUCTION'), '') AS production_version
FROM registry.models m
"""
_FIND = f"{_SELECT} WHERE m.name = %(name)s"
_FIND_BY_ID = f"{_SELECT} WHERE m.model_id = %(model_id)s"
_PAGE = f"{_SELECT} WHERE m.name > %(after)s ORDER BY m.name LIMIT %(limit)s"
_LOCK = "SELECT 1 FROM registry.models WHERE name = %(name)s FOR UPDATE"
_INSERT = """
INSERT INTO registry.models (name, description) VALUES (%(name)s, %(description)s)
ON CONFLICT (name) WHERE NOT purged DO NOTHING
"""
_COUNT_ON = """
UPDATE registry.models SET version_count = version_count + 1 WHERE model_id = %(model_id)s RETURNING version_count
"""
_SET_LIVE = """
UPDATE registry.models SET live_transition_id = %(transition_id)s WHERE model_id = %(model_id)s
"""


class ModelTable:
    """The table of models."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def find(self, name: str) -> Model | None:
        """Find a model by its name."""
        row = self._connection.execute(_FIND, {"name": name}).fetchone()
        return None if row is None else Model(**row)

    def get(self, name: str) -> Model:
        """Find a model by its name; raises NotFound (MODEL_NOT_FOUND)."""
        model = self.find(name)
        if model is None:
            raise NotFound(
                f"no model {name!r}; ListModels shows which there are, and registering a version makes one",
                reason="MODEL_NOT_FOUND",
            )
        return model

    def get_by_id(self, model_id: int) -> Model:
        """Read the model that a row of ours points to."""
        row = self._connection.execute(_FIND_BY_ID, {"model_id": model_id}).fetchone()
        return Model(**row or {})

    def lock(self, name: str) -> Model:
        """Wait for the model's lock, and read it as it stands then; raises NotFound (MODEL_NOT_FOUND)."""
        self._connection.execute(_LOCK, {"name": name})
        return self.get(name)

    def page(self, *, after: str, limit: int) -> tuple[Model, ...]:
        """Read up to `limit` models by name, those after a name."""
        rows = self._connection.execute(_PAGE, {"after": after, "limit": limit})
        return tuple(Model(**row) for row in rows)

    def insert(self, name: str, description: str = "") -> bool:
        """Create a model, and say whether it was missing. One that another is creating is waited for."""
        return self._connection.execute(_INSERT, {"name": name, "description": description}).rowcount == 1

    def next_deployment_number(self, model_id: int) -> int:
        """Count on; the lock on the row lasts until the commit, so no number is lost or given twice."""
        row = self._connection.execute(_COUNT_ON, {"model_id": model_id}).fetchone()
        return int((row or {})["version_count"])

    def set_live(self, model_id: int, transition_id: int) -> None:
        """Say which promotion is in force."""
        self._connection.execute(_SET_LIVE, {"model_id": model_id, "transition_id": transition_id})
