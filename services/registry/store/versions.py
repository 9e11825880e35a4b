"""Versions and their files. Every change here is noted for the watchers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

from psycopg import Connection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import TypeAdapter

from services.common.errors import NotFound
from services.registry.filters import VersionFilters
from services.registry.models import (
    File,
    Model,
    ModelVersion,
    NewVersion,
    Signature,
    Stage,
    Validation,
    VersionState,
)
from services.registry.serving import json_of
from services.registry.store.batches import in_batches
from services.registry.store.changes import ChangeTable

_COLUMNS = """
SELECT v.version_id, v.model_id, m.name AS model, v.version, v.deployment_number, v.framework, v.state,
       v.failure_reason, v.failure_message, v.stage, v.requested_stage, v.requested_approved_by, v.requested_note,
       v.declared_signature, v.signature, v.validation, v.source_version, v.source, v.training_run_id,
       v.parent_deployment_number, v.metadata, v.serving_settings, v.capture_policy, v.create_time, v.created_by,
       v.ready_time, v.promoted_time, v.promoted_by, v.revision, v.description, v.labels, v.ollama, v.delete_time,
       v.deleted_by, v.purge_time,
       array(SELECT a.alias FROM registry.aliases a WHERE a.version_id = v.version_id ORDER BY a.alias) AS aliases,
       coalesce((SELECT jsonb_agg(jsonb_build_object('path', f.path, 'sha256', f.sha256, 'size_bytes', f.size_bytes)
                                  ORDER BY f.path)
                 FROM registry.files f WHERE f.version_id = v.version_id), '[]') AS files
"""
_SELECT = f"{_COLUMNS} FROM registry.versions v JOIN registry.models m USING (model_id)"
# Of several deleted ones of a name the last to go; one that is there before all of them.
_FIND = f"""
{_SELECT}
WHERE v.model_id = %(model_id)s AND v.version = %(version)s AND (v.delete_time IS NULL OR %(deleted)s AND NOT v.purged)
ORDER BY v.delete_time DESC NULLS FIRST LIMIT 1
"""
# As versions_version_key has it.
_TAKEN = """
SELECT 1 FROM registry.versions
WHERE model_id = %(model_id)s AND version = %(version)s AND NOT (state <> 'READY' AND delete_time IS NOT NULL)
"""
_GET = f"{_SELECT} WHERE v.version_id = %(version_id)s"
_ALL = f"{_SELECT} WHERE v.delete_time IS NULL ORDER BY v.version_id"
_SOME = f"{_SELECT} WHERE v.version_id = ANY(%(version_ids)s) ORDER BY v.version_id"
_NARROWED = {
    "before": "version_id < %(before)s",
    "model_id": "model_id = %(model_id)s",
    "stage": "stage = %(stage)s",
    "state": "state = %(state)s",
    "framework": "framework = %(framework)s",
    "query": "search @@ registry.word_beginnings(%(query)s)",
    "show_deleted": "NOT purged",
}
_LABELLED = """
(labels @> %({0})s OR model_id = ANY(array(SELECT model_id FROM registry.models WHERE labels @> %({0})s)))
"""
# The few that are shown are chosen first, so that nothing is put together for the others.
_CHOSEN = "SELECT version_id FROM registry.versions WHERE {where} ORDER BY version_id DESC LIMIT %(limit)s"
_PAGE = f"{_SELECT} WHERE v.version_id = ANY(%(version_ids)s) ORDER BY v.version_id DESC"
_NEWEST_IN_STAGE = """
SELECT version_id FROM registry.versions
WHERE model_id = %(model_id)s AND stage = %(stage)s AND state = 'READY' AND delete_time IS NULL
ORDER BY version_id DESC LIMIT 1
"""
_LIVE_NUMBER = """
SELECT deployment_number FROM registry.versions WHERE model_id = %(model_id)s AND stage = 'PRODUCTION'
"""
_INSERT = """
INSERT INTO registry.versions
    (model_id, version, deployment_number, framework, state, stage, requested_stage, requested_approved_by,
     requested_note, declared_signature, source_version, source, training_run_id, parent_deployment_number,
     metadata, serving_settings, capture_policy, created_by, promoted_by, description, labels, ollama, search)
VALUES
    (%(model_id)s, %(version)s, %(deployment_number)s, %(framework)s, %(state)s, %(stage)s, %(requested_stage)s,
     %(approved_by)s, %(note)s, %(declared_signature)s, %(source_version)s, %(source)s, %(training_run_id)s,
     %(parent_deployment_number)s, %(metadata)s, %(serving_settings)s, %(capture_policy)s, %(created_by)s,
     %(created_by)s, %(description)s, %(labels)s, %(ollama)s, registry.words(%(words)s))
RETURNING version_id
"""
_INSERT_FILE = """
INSERT INTO registry.files (version_id, path, sha256, size_bytes)
VALUES (%(version_id)s, %(path)s, %(sha256)s, %(size_bytes)s)
"""
_MOVE = """
UPDATE registry.versions v
SET stage = t.to_stage, promoted_by = t.promoted_by, promoted_time = t.promoted_time
FROM registry.transitions t
WHERE v.version_id = %(version_id)s AND t.transition_id = %(transition_id)s
"""
_SET_READY = """
UPDATE registry.versions SET state = 'READY', signature = %(signature)s, validation = %(validation)s,
       failure_reason = '', failure_message = '', ready_time = clock_timestamp()
WHERE version_id = %(version_id)s
"""
_SET_FAILED = """
UPDATE registry.versions SET state = 'FAILED', failure_reason = %(reason)s, failure_message = %(message)s
WHERE version_id = %(version_id)s
"""
_UPDATE = """
UPDATE registry.versions SET description = %(description)s, labels = %(labels)s,
       serving_settings = %(serving_settings)s, capture_policy = %(capture_policy)s, search = registry.words(%(words)s)
WHERE version_id = %(version_id)s
"""
_SET_VALIDATING = """
UPDATE registry.versions SET state = 'VALIDATING', failure_reason = '', failure_message = ''
WHERE version_id = %(version_id)s
"""
_REFRESH_LATEST = """
UPDATE registry.models SET latest_version_id = registry.latest_of(model_id) WHERE model_id = %(model_id)s
"""
_COUNT_BY_STATE = "SELECT state, count(*) AS count FROM registry.versions WHERE delete_time IS NULL GROUP BY state"

_VERSION = TypeAdapter(ModelVersion)
_VALIDATION = TypeAdapter(Validation)


def _version_from(row: DictRow) -> ModelVersion:
    return _VERSION.validate_python(row)


class VersionTable:
    """The table of versions, with their files."""

    def __init__(self, connection: Connection[DictRow], changes: ChangeTable) -> None:
        self._connection = connection
        self._changes = changes

    def find(self, model: Model, version: str, *, deleted: bool = False) -> ModelVersion | None:
        """Find a version by its exact name; a deleted one only where it was asked for."""
        wanted = {"model_id": model.model_id, "version": version, "deleted": deleted}
        row = self._connection.execute(_FIND, wanted).fetchone()
        return None if row is None else _version_from(row)

    def is_taken(self, model: Model, version: str) -> bool:
        """Say whether a new version can not have this name, as one has it, or was READY under it, purged or not."""
        wanted = {"model_id": model.model_id, "version": version}
        return self._connection.execute(_TAKEN, wanted).fetchone() is not None

    def get(self, model: Model, version: str, *, deleted: bool = False) -> ModelVersion:
        """Find a version by its exact name, as `find` does; raises NotFound (VERSION_NOT_FOUND)."""
        found = self.find(model, version, deleted=deleted)
        if found is None:
            raise self._missing(model, version)
        return found

    def get_by_id(self, version_id: int) -> ModelVersion:
        """Read the version that a row of ours points to, deleted or not."""
        row = self._connection.execute(_GET, {"version_id": version_id}).fetchone()
        return _version_from(row or {})

    def batches(self, count: int) -> Iterator[tuple[ModelVersion, ...]]:
        """Read every version of every model, but for the deleted ones, so many at a time; the last batch has fewer."""
        with self._connection.cursor(name="versions") as cursor:
            cursor.execute(_ALL)
            while len(batch := tuple(map(_version_from, cursor.fetchmany(count)))) == count:
                yield batch
            yield batch

    def some(self, version_ids: list[int]) -> tuple[ModelVersion, ...]:
        """Read some versions, deleted or not, in the order of their ids."""
        rows = self._connection.execute(_SOME, {"version_ids": version_ids})
        return tuple(_version_from(row) for row in rows)

    def page(
        self, filters: VersionFilters, *, model: Model | None, before: int | None, limit: int
    ) -> tuple[tuple[ModelVersion, ...], bool]:
        """Read up to `limit` versions of a model, None: of all; the newest first, those before an id.

        Returns:
            The versions, and whether there are more of them, which is also so where they are too wide for one page.
        """
        wanted: dict[str, object] = {
            "before": before,
            "model_id": model and model.model_id,
            "stage": filters.stage,
            "state": filters.state,
            "framework": filters.framework,
            "query": filters.query or None,
            "show_deleted": filters.show_deleted or None,
        }
        where = [condition for name, condition in _NARROWED.items() if wanted[name] is not None]
        where += ["true"] if filters.show_deleted else ["delete_time IS NULL"]
        for number, (key, value) in enumerate(filters.labels.items()):
            wanted[f"label{number}"] = Jsonb({key: value})
            where.append(_LABELLED.format(f"label{number}"))
        # A plan for any word or label at all reads every version that has a common one: such pages are planned anew.
        prepare = False if filters.query or filters.labels else None
        chosen = _CHOSEN.format(where=" AND ".join(where))
        found = self._connection.execute(chosen, {**wanted, "limit": limit + 1}, prepare=prepare)
        ids = [row["version_id"] for row in found]
        rows = in_batches(ids[:limit], lambda batch: self._connection.execute(_PAGE, {"version_ids": batch}).fetchall())
        return tuple(_version_from(row) for row in rows), len(ids) > len(rows)

    def find_newest_in(self, model: Model, stage: Stage) -> int | None:
        """Find the id of the newest READY version in a stage."""
        row = self._connection.execute(_NEWEST_IN_STAGE, {"model_id": model.model_id, "stage": stage}).fetchone()
        return None if row is None else int(row["version_id"])

    def find_live_number(self, model: Model) -> int | None:
        """Find the deployment number of what is live."""
        row = self._connection.execute(_LIVE_NUMBER, {"model_id": model.model_id}).fetchone()
        return None if row is None else int(row["deployment_number"])

    def insert(
        self,
        model: Model,
        new: NewVersion,
        *,
        deployment_number: int,
        parent_deployment_number: int,
        stage: Stage,
        created_by: str,
        files: Iterable[File],
    ) -> int:
        """Write a new version in VALIDATING, and give its id; raises AlreadyExists (VERSION_EXISTS)."""
        row = self._connection.execute(
            _INSERT,
            {
                "model_id": model.model_id,
                "version": new.version,
                "deployment_number": deployment_number,
                "framework": new.framework,
                "state": VersionState.UPLOADING.after(VersionState.VALIDATING),
                "stage": stage,
                "requested_stage": new.stage or stage,
                "approved_by": new.approved_by,
                "note": new.note,
                "declared_signature": _json(new.declared_signature),
                "source_version": new.source_version,
                "source": _json(new.source),
                "training_run_id": new.training_run_id,
                "parent_deployment_number": parent_deployment_number,
                "metadata": _json(new.metadata),
                "serving_settings": Jsonb(json_of(new.serving_settings or model.serving_settings)),
                "capture_policy": _json(new.capture_policy or model.capture_policy),
                "created_by": created_by,
                "description": new.description,
                "labels": Jsonb(dict(new.labels)),
                "ollama": _json(new.ollama),
                "words": _words(model.name, new),
            },
        ).fetchone()
        version_id = int((row or {})["version_id"])
        for file in files:
            self._connection.execute(_INSERT_FILE, {"version_id": version_id, **dataclasses.asdict(file)})
        self._changes.note(version_id)
        return version_id

    def move(self, version_id: int, transition_id: int) -> None:
        """Put a version where a move of it, already in the log, leads."""
        self._update(_MOVE, version_id, transition_id=transition_id)

    def update(self, version: ModelVersion) -> None:
        """Write what may be changed of a version, as this one has it."""
        self._update(
            _UPDATE,
            version.version_id,
            description=version.description,
            labels=Jsonb(dict(version.labels)),
            serving_settings=Jsonb(json_of(version.serving_settings)),
            capture_policy=_json(version.capture_policy),
            words=_words(version.model, version),
        )

    def set_ready(self, version_id: int, signature: Signature, validation: Validation | None) -> None:
        """Write what the validator found; from now on it cannot change. It may be the model's latest now."""
        found = validation and Jsonb(_VALIDATION.dump_python(validation, mode="json"))
        self._update(_SET_READY, version_id, signature=_json(signature), validation=found)
        self._refresh_latest(self.get_by_id(version_id).model_id)

    def refresh_latest(self, model: Model) -> None:
        """Find out anew what `latest` means; for whoever changes which versions are READY and there."""
        self._refresh_latest(model.model_id)

    def set_failed(self, version_id: int, reason: str, message: str) -> None:
        """Write why the validator refused it."""
        self._update(_SET_FAILED, version_id, reason=reason, message=message)

    def set_validating(self, version_id: int) -> None:
        """Have it validated again."""
        self._update(_SET_VALIDATING, version_id)

    def count_by_state(self) -> dict[str, int]:
        """Count the versions in each state, but for the deleted ones."""
        return {row["state"]: row["count"] for row in self._connection.execute(_COUNT_BY_STATE)}

    def _refresh_latest(self, model_id: int) -> None:
        self._connection.execute(_REFRESH_LATEST, {"model_id": model_id})

    def _missing(self, model: Model, version: str) -> NotFound:
        gone = self.find(model, version, deleted=True)
        if gone is None or gone.purge_time is None:
            what = "ListVersions shows which it has"
        else:
            what = f"it was deleted, and RestoreVersion brings it back until {gone.purge_time.isoformat()}"
        return NotFound(f"model {model.name!r} has no version {version!r}; {what}", reason="VERSION_NOT_FOUND")

    def _update(self, statement: str, version_id: int, **values: object) -> None:
        self._connection.execute(statement, {"version_id": version_id, **values})
        self._changes.note(version_id)


def _words(model: str, of: NewVersion | ModelVersion) -> str:
    """Put together what search looks in; see ListVersionsRequest.query."""
    said = (of.description, of.metadata.task_type, of.source.origin, of.source.reference, of.source.revision)
    return " ".join((model, of.version, *of.metadata.tags, *said, of.source_version))


def _json(value: Any) -> Jsonb | None:
    return None if value is None else Jsonb(dataclasses.asdict(value))
