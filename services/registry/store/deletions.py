"""Deleting that can be undone, and purging, which can't. The model's row is locked by whoever calls."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from psycopg import Connection
from psycopg.rows import DictRow

from services.registry.models import Model
from services.registry.store.changes import ChangeTable

_DELETE_VERSION = """
UPDATE registry.versions
SET delete_time = clock_timestamp(), purge_time = clock_timestamp() + make_interval(secs => %(retention_s)s),
    deleted_by = %(deleted_by)s
WHERE version_id = %(version_id)s
"""
_RESTORE_VERSION = """
UPDATE registry.versions SET delete_time = NULL, purge_time = NULL, deleted_by = '' WHERE version_id = %(version_id)s
"""
_FIND_DELETED = """
SELECT version_id FROM registry.versions
WHERE model_id = %(model_id)s AND version = %(version)s AND delete_time IS NOT NULL AND NOT purged
ORDER BY delete_time DESC, version_id DESC LIMIT 1
"""
_DELETE_MODEL = """
UPDATE registry.models
SET delete_time = clock_timestamp(), purge_time = clock_timestamp() + make_interval(secs => %(retention_s)s),
    edit_count = edit_count + 1, update_time = clock_timestamp(), latest_version_id = NULL
WHERE model_id = %(model_id)s
"""
_DELETE_VERSIONS_OF = """
UPDATE registry.versions v
SET delete_time = m.delete_time, purge_time = m.purge_time, deleted_by = %(deleted_by)s, deleted_with_model = true
FROM registry.models m
WHERE v.model_id = %(model_id)s AND m.model_id = v.model_id AND v.delete_time IS NULL
RETURNING v.version_id
"""
_RESTORE_MODEL = """
UPDATE registry.models
SET delete_time = NULL, purge_time = NULL, edit_count = edit_count + 1, update_time = clock_timestamp()
WHERE model_id = %(model_id)s
"""
_RESTORE_VERSIONS_OF = """
UPDATE registry.versions
SET delete_time = NULL, purge_time = NULL, deleted_by = '', deleted_with_model = false
WHERE model_id = %(model_id)s AND deleted_with_model
RETURNING version_id, state
"""
_DROP_VALIDATIONS = """
DELETE FROM registry.validations WHERE validation_id IN (
    SELECT validation_id FROM registry.validations WHERE version_id = ANY(%(version_ids)s)
    ORDER BY validation_id FOR UPDATE
)
"""
_DUE_MODELS = """
SELECT DISTINCT model_id FROM registry.versions
WHERE delete_time IS NOT NULL AND NOT purged AND purge_time <= %(at)s AND model_id > %(after)s
UNION
SELECT model_id FROM registry.models
WHERE delete_time IS NOT NULL AND NOT purged AND purge_time <= %(at)s AND model_id > %(after)s
ORDER BY model_id LIMIT %(limit)s
"""
_LOCK = "SELECT 1 FROM registry.models WHERE model_id = %(model_id)s FOR UPDATE"
_PURGE_VERSIONS = """
UPDATE registry.versions SET purged = true
WHERE model_id = %(model_id)s AND delete_time IS NOT NULL AND NOT purged AND purge_time <= %(at)s
RETURNING version_id, version, deployment_number
"""
_PURGE_MODEL = """
UPDATE registry.models SET purged = true
WHERE model_id = %(model_id)s AND delete_time IS NOT NULL AND NOT purged AND purge_time <= %(at)s
RETURNING name
"""
_FORGET_ALIASES = "DELETE FROM registry.aliases WHERE model_id = %(model_id)s"
_COUNT_DUE = """
SELECT (SELECT count(*) FROM registry.versions
        WHERE delete_time IS NOT NULL AND NOT purged AND purge_time <= %(at)s) AS versions,
       (SELECT count(*) FROM registry.models
        WHERE delete_time IS NOT NULL AND NOT purged AND purge_time <= %(at)s) AS models
"""


@dataclass(frozen=True, slots=True)
class PurgedVersion:
    """A version whose files went for good."""

    version: str
    deployment_number: int


class DeletionTable:
    """What is deleted among the models and versions. Every change of a version is noted for the watchers."""

    def __init__(self, connection: Connection[DictRow], changes: ChangeTable) -> None:
        self._connection = connection
        self._changes = changes

    def delete_version(self, version_id: int, *, deleted_by: str, retention_s: float) -> None:
        """Hide a version, and let no validator go on with it."""
        row = {"version_id": version_id, "deleted_by": deleted_by, "retention_s": retention_s}
        self._connection.execute(_DELETE_VERSION, row)
        self._drop_validations([version_id])
        self._changes.note(version_id)

    def restore_version(self, version_id: int) -> None:
        """Bring a version back; raises AlreadyExists (VERSION_EXISTS) where its name was given again."""
        self._connection.execute(_RESTORE_VERSION, {"version_id": version_id})
        self._changes.note(version_id)

    def find_version(self, model: Model, version: str) -> int | None:
        """Find the id of the deleted version of a name that can be restored; of several the last that was deleted."""
        row = self._connection.execute(_FIND_DELETED, {"model_id": model.model_id, "version": version}).fetchone()
        return None if row is None else int(row["version_id"])

    def delete_model(self, model_id: int, *, deleted_by: str, retention_s: float) -> None:
        """Hide a model with all its versions."""
        row = {"model_id": model_id, "deleted_by": deleted_by, "retention_s": retention_s}
        self._connection.execute(_DELETE_MODEL, row)
        version_ids = [each["version_id"] for each in self._connection.execute(_DELETE_VERSIONS_OF, row)]
        self._drop_validations(version_ids)
        self._changes.note(*version_ids)

    def restore_model(self, model_id: int) -> list[int]:
        """Bring a model back with the versions that went with it; gives the ids of those in VALIDATING."""
        self._connection.execute(_RESTORE_MODEL, {"model_id": model_id})
        restored = self._connection.execute(_RESTORE_VERSIONS_OF, {"model_id": model_id}).fetchall()
        self._changes.note(*(row["version_id"] for row in restored))
        return [row["version_id"] for row in restored if row["state"] == "VALIDATING"]

    def models_with_due(self, at: datetime, *, after: int, limit: int) -> list[int]:
        """Read which models are due to be purged by a time, or have versions that are; those after an id, unlocked."""
        rows = self._connection.execute(_DUE_MODELS, {"at": at, "after": after, "limit": limit})
        return [row["model_id"] for row in rows]

    def lock_model(self, model_id: int) -> None:
        """Wait for a model's lock."""
        self._connection.execute(_LOCK, {"model_id": model_id})

    def purge_versions(self, model_id: int, at: datetime) -> list[PurgedVersion]:
        """Let go of the files of a model's versions that are due; their rows stay for the logs."""
        rows = self._connection.execute(_PURGE_VERSIONS, {"model_id": model_id, "at": at})
        return [PurgedVersion(row["version"], row["deployment_number"]) for row in rows]

    def purge_model(self, model_id: int, at: datetime) -> str | None:
        """Free the name of a model that is due, and give it; None: it is not due."""
        row = self._connection.execute(_PURGE_MODEL, {"model_id": model_id, "at": at}).fetchone()
        if row is not None:
            self._connection.execute(_FORGET_ALIASES, {"model_id": model_id})
        return None if row is None else str(row["name"])

    def count_due(self, at: datetime) -> tuple[int, int]:
        """Count the versions, and the models, that are due by a time."""
        row = self._connection.execute(_COUNT_DUE, {"at": at}).fetchone() or {}
        return row["versions"], row["models"]

    def _drop_validations(self, version_ids: list[int]) -> None:
        self._connection.execute(_DROP_VALIDATIONS, {"version_ids": version_ids})
