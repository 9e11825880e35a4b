"""Changing what may be changed of models and versions."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from services.common.errors import EtagMismatch
from services.registry.auditing import model_changed, version_changed
from services.registry.edits import ModelEdit, VersionEdit
from services.registry.models import Model, ModelVersion
from services.registry.serving_features import check_inputs
from services.registry.signatures import check_warm_ups
from services.registry.store import Store
from services.registry.training import TrainingConfig

Edited = TypeVar("Edited", Model, ModelVersion)


class Editing:
    """Changes models and versions. A change that changes nothing leaves no trace."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def update_model(self, edit: ModelEdit) -> Model:
        """Change a model.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            InvalidArgument: a setting does not go with the others (OUT_OF_BOUNDS).
            Aborted: it is no longer what the caller read (ETAG_MISMATCH).
        """
        with self._store.write() as tables:
            found = tables.models.lock(edit.name)
            check_etag(f"model {found.name!r}", edit.etag, found.etag)
            wanted = _counted(found.training_config, _edited(found, edit.values))
            if wanted == found:
                return found
            wanted.serving_settings.check()
            tables.models.update(wanted)
            changed = tables.models.get_by_id(found.model_id)
            model_changed(tables, "UpdateModel", found, changed)
            return changed

    def update_version(self, edit: VersionEdit) -> ModelVersion:
        """Change a version; watchers hear of it.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND.
            InvalidArgument: a setting does not go with the others (OUT_OF_BOUNDS), or a warm-up request with the
                signature (SIGNATURE_MISMATCH).
            Aborted: it is no longer what the caller read (ETAG_MISMATCH).
        """
        with self._store.write() as tables:
            found = tables.versions.get(tables.models.lock(edit.model), edit.version)
            check_etag(f"version {found.version!r} of model {found.model!r}", edit.etag, found.etag)
            wanted = _edited(found, edit.values)
            if wanted == found:
                return found
            if wanted.serving_settings != found.serving_settings:
                wanted.serving_settings.check()
                signature = found.signature or found.declared_signature
                check_warm_ups(wanted.serving_settings, signature)
                check_inputs(wanted.serving_settings, signature)
            tables.versions.update(wanted)
            version_changed(tables, "UpdateVersion", found, wanted)
            tables.changes.record()
            return tables.versions.get_by_id(found.version_id)


def check_etag(what: str, sent: str, present: str) -> None:
    """Let a change pass that was decided on what is there now, or says nothing of it; raises EtagMismatch."""
    if sent not in ("", present):
        raise EtagMismatch(what)


def _edited(found: Edited, values: Mapping[str, Any]) -> Edited:
    """Put new values in place, whole fields before the fields in them."""
    for path in sorted(values):
        found = _replaced(found, path, values[path])
    return found


def _replaced(found: Any, path: str, value: Any) -> Any:
    field, _, inner = path.partition(".")
    return dataclasses.replace(found, **{field: _replaced(getattr(found, field), inner, value) if inner else value})


def _counted(before: TrainingConfig, wanted: Model) -> Model:
    """Give a changed training config the next number, whatever number came with it."""
    config = dataclasses.replace(wanted.training_config, number=before.number)
    if config != before:
        config = dataclasses.replace(config, number=before.number + 1)
    return dataclasses.replace(wanted, training_config=config)
