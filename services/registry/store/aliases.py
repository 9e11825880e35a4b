"""Aliases: names that a model's owners point at its versions."""

from __future__ import annotations

from psycopg import Connection
from psycopg.rows import DictRow

from services.registry.models import Model, ModelVersion
from services.registry.store.changes import ChangeTable

_FIND = "SELECT version_id FROM registry.aliases WHERE model_id = %(model_id)s AND alias = %(alias)s"
_SET = """
INSERT INTO registry.aliases (model_id, alias, version_id, set_by)
VALUES (%(model_id)s, %(alias)s, %(version_id)s, %(set_by)s)
ON CONFLICT ON CONSTRAINT aliases_key DO UPDATE
SET version_id = excluded.version_id, set_by = excluded.set_by, update_time = clock_timestamp()
"""
_DELETE = """
DELETE FROM registry.aliases WHERE model_id = %(model_id)s AND alias = %(alias)s RETURNING version_id
"""
_DELETE_OF_VERSION = "DELETE FROM registry.aliases WHERE version_id = %(version_id)s RETURNING alias"


class AliasTable:
    """The table of aliases. A version whose aliases change is noted for the watchers."""

    def __init__(self, connection: Connection[DictRow], changes: ChangeTable) -> None:
        self._connection = connection
        self._changes = changes

    def find(self, model: Model, alias: str) -> int | None:
        """Find the id of the version that an alias points at."""
        row = self._connection.execute(_FIND, {"model_id": model.model_id, "alias": alias}).fetchone()
        return None if row is None else int(row["version_id"])

    def set(self, model: Model, alias: str, version: ModelVersion, set_by: str) -> None:
        """Point an alias at a version of the model, whatever it points at now."""
        previous = self.find(model, alias)
        row = {"model_id": model.model_id, "alias": alias, "version_id": version.version_id, "set_by": set_by}
        self._connection.execute(_SET, row)
        self._changes.note(version.version_id)
        if previous is not None:
            self._changes.note(previous)

    def delete(self, model: Model, alias: str) -> bool:
        """Remove an alias, and say whether it was there."""
        row = self._connection.execute(_DELETE, {"model_id": model.model_id, "alias": alias}).fetchone()
        if row is not None:
            self._changes.note(row["version_id"])
        return row is not None

    def delete_of_version(self, version_id: int) -> tuple[str, ...]:
        """Remove every alias that points at a version, and give them."""
        removed = tuple(
            row["alias"] for row in self._connection.execute(_DELETE_OF_VERSION, {"version_id": version_id})
        )
        if removed:
            self._changes.note(version_id)
        return removed
