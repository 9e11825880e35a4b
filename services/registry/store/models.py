"""Models: their rows, and the lock that everyone who changes a version holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from services.common.errors import NotFound
from services.registry.filters import ModelFilters
from services.registry.models import Model
from services.registry.serving import json_of

_SELECT = """
SELECT m.model_id, m.name, m.description, m.tags, m.labels, m.training_config, m.serving_settings, m.capture_policy,
       m.version_count, m.live_transition_id, m.latest_version_id, m.create_time, m.created_by, m.update_time,
       m.edit_count, m.delete_time, m.purge_time,
       coalesce((SELECT v.version FROM registry.versions v
                 WHERE v.model_id = m.model_id AND v.stage = 'PRODUCTION'), '') AS production_version,
       coalesce((SELECT v.version FROM registry.versions v
                 WHERE v.version_id = m.latest_version_id), '') AS latest_version,
       coalesce((SELECT jsonb_object_agg(a.alias, v.version)
                 FROM registry.aliases a JOIN registry.versions v USING (version_id)
                 WHERE a.model_id = m.model_id), '{}') AS aliases
FROM registry.models m
"""
_FIND = f"{_SELECT} WHERE m.name = %(name)s AND NOT m.purged AND (m.delete_time IS NULL OR %(deleted)s)"
_FIND_BY_ID = f"{_SELECT} WHERE m.model_id = %(model_id)s"
_NARROWED = {
    "after": "m.name > %(after)s",
    "labels": "m.labels @> %(labels)s",
    "query": "m.search @@ registry.word_beginnings(%(query)s)",
    "show_deleted": "NOT m.purged",
}
_LOCK = "SELECT 1 FROM registry.models WHERE name = %(name)s AND NOT purged FOR UPDATE"
_INSERT = """
INSERT INTO registry.models (name, description, labels, tags, created_by, search)
VALUES (%(name)s, %(description)s, %(labels)s, %(tags)s, %(created_by)s, registry.words(%(words)s))
ON CONFLICT (name) WHERE NOT purged DO NOTHING
"""
_COUNT_ON = """
UPDATE registry.models SET version_count = version_count + 1 WHERE model_id = %(model_id)s RETURNING version_count
"""
_UPDATE = """
UPDATE registry.models SET
    description = %(description)s, tags = %(tags)s, labels = %(labels)s, training_config = %(training_config)s,
    serving_settings = %(serving_settings)s, capture_policy = %(capture_policy)s, edit_count = edit_count + 1,
    update_time = clock_timestamp(), search = registry.words(%(words)s)
WHERE model_id = %(model_id)s
"""
_SET_LIVE = """
UPDATE registry.models SET live_transition_id = %(transition_id)s WHERE model_id = %(model_id)s
"""

_MODEL = TypeAdapter(Model)


class ModelTable:
    """The table of models."""

    def __init__(self, connection: Connection[DictRow]) -> None:
        self._connection = connection

    def find(self, name: str, *, deleted: bool = False) -> Model | None:
        """Find a model by its name; a deleted one only where it was asked for."""
        row = self._connection.execute(_FIND, {"name": name, "deleted": deleted}).fetchone()
        return None if row is None else _MODEL.validate_python(row)

    def get(self, name: str, *, deleted: bool = False) -> Model:
        """Find a model by its name, as `find` does; raises NotFound (MODEL_NOT_FOUND)."""
        model = self.find(name, deleted=deleted)
        if model is None:
            raise self._missing(name)
        return model

    def get_by_id(self, model_id: int) -> Model:
        """Read the model that a row of ours points to, deleted or not."""
        row = self._connection.execute(_FIND_BY_ID, {"model_id": model_id}).fetchone()
        return _MODEL.validate_python(row)

    def lock(self, name: str, *, deleted: bool = False) -> Model:
        """Wait for the model's lock, and read it as it stands then, as `get` does; raises NotFound."""
        self._connection.execute(_LOCK, {"name": name})
        return self.get(name, deleted=deleted)

    def page(self, filters: ModelFilters, *, after: str, limit: int) -> tuple[Model, ...]:
        """Read up to `limit` models by name, those after a name."""
        wanted = {
            "after": after,
            "labels": Jsonb(dict(filters.labels)) if filters.labels else None,
            "query": filters.query or None,
            "show_deleted": filters.show_deleted or None,
        }
        where = [condition for name, condition in _NARROWED.items() if wanted[name] is not None]
        where += [] if filters.show_deleted else ["m.delete_time IS NULL"]
        statement = f"{_SELECT} WHERE {' AND '.join(where)} ORDER BY m.name LIMIT %(limit)s"
        rows = self._connection.execute(statement, {**wanted, "limit": limit})
        return tuple(_MODEL.validate_python(row) for row in rows)

    def insert(
        self,
        name: str,
        description: str = "",
        *,
        labels: Mapping[str, str] = MappingProxyType({}),
        tags: Sequence[str] = (),
        created_by: str = "",
    ) -> bool:
        """Create a model, and say whether it was missing. One that another is creating is waited for."""
        row = {
            "name": name,
            "description": description,
            "labels": Jsonb(dict(labels)),
            "tags": list(tags),
            "created_by": created_by,
            "words": _words(name, description, tags),
        }
        return self._connection.execute(_INSERT, row).rowcount == 1

    def update(self, model: Model) -> None:
        """Write what may be changed of a model, as this one has it; its etag changes."""
        self._connection.execute(
            _UPDATE,
            {
                "model_id": model.model_id,
                "description": model.description,
                "tags": list(model.tags),
                "labels": Jsonb(dict(model.labels)),
                "training_config": Jsonb(dataclasses.asdict(model.training_config)),
                "serving_settings": Jsonb(json_of(model.serving_settings)),
                "capture_policy": Jsonb(dataclasses.asdict(model.capture_policy)),
                "words": _words(model.name, model.description, model.tags),
            },
        )

    def next_deployment_number(self, model_id: int) -> int:
        """Count on; the lock on the row lasts until the commit, so no number is lost or given twice."""
        row = self._connection.execute(_COUNT_ON, {"model_id": model_id}).fetchone()
        return int((row or {})["version_count"])

    def _missing(self, name: str) -> NotFound:
        gone = self.find(name, deleted=True)
        if gone is None or gone.purge_time is None:
            what = "ListModels shows which there are, and registering a version makes one"
        else:
            what = f"it was deleted, and RestoreModel brings it back until {gone.purge_time.isoformat()}"
        return NotFound(f"no model {name!r}; {what}", reason="MODEL_NOT_FOUND")

    def set_live(self, model_id: int, transition_id: int) -> None:
        """Say which promotion is in force."""
        self._connection.execute(_SET_LIVE, {"model_id": model_id, "transition_id": transition_id})


def _words(name: str, description: str, tags: Sequence[str]) -> str:
    """Put together what search looks in; see ListModelsRequest.query."""
    return " ".join((name, description, *tags))
