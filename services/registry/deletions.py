"""Deleting models and versions, and bringing them back while they are kept."""

from __future__ import annotations

from services.common.errors import AlreadyExists, FailedPrecondition
from services.common.keys import caller
from services.registry.aliases import check_no_alias
from services.registry.auditing import model_changed, version_changed
from services.registry.editing import check_etag
from services.registry.models import Model, ModelVersion, Stage, VersionState
from services.registry.store import Store


class Deletions:
    """Hides what is deleted, and keeps it restorable for `retention_s`; then garbage collection takes its files.

    The logs go on telling of it.
    """

    def __init__(self, store: Store, *, retention_s: float) -> None:
        self._store = store
        self._retention_s = retention_s

    def delete_version(self, model: str, version: str, etag: str) -> ModelVersion:
        """Hide a version; its aliases go. Gives it with its `delete_time`.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND.
            FailedPrecondition: it is in PRODUCTION (VERSION_LIVE).
            Aborted: it is no longer what the caller read (ETAG_MISMATCH).
        """
        with self._store.write() as tables:
            locked = tables.models.lock(model)
            found = tables.versions.get(locked, version)
            check_etag(f"version {found.version!r} of model {found.model!r}", etag, found.etag)
            if found.stage is Stage.PRODUCTION:
                raise FailedPrecondition(
                    f"version {version!r} of model {model!r} is live; promote another or roll back first, or delete "
                    "the model",
                    reason="VERSION_LIVE",
                )
            tables.aliases.delete_of_version(found.version_id)
            tables.deletions.delete_version(found.version_id, deleted_by=caller().name, retention_s=self._retention_s)
            tables.versions.refresh_latest(locked)
            version_changed(tables, "DeleteVersion", found, tables.versions.get_by_id(found.version_id))
            tables.changes.record()
            return tables.versions.get_by_id(found.version_id)

    def restore_version(self, model: str, version: str) -> ModelVersion:
        """Bring a deleted version back, in the stage it had; its aliases stay gone.

        Raises:
            NotFound: MODEL_NOT_FOUND; VERSION_NOT_FOUND, also once it was purged.
            FailedPrecondition: MODEL_DELETED, NOT_DELETED; its name is an alias by now (VERSION_IS_ALIAS).
            AlreadyExists: its name was given again (VERSION_EXISTS).
        """
        with self._store.write() as tables:
            locked = tables.models.lock(model, deleted=True)
            if locked.delete_time is not None:
                raise FailedPrecondition(
                    f"model {model!r} itself was deleted; call RestoreModel, which brings its versions along",
                    reason="MODEL_DELETED",
                )
            version_id = tables.deletions.find_version(locked, version)
            if version_id is None:
                tables.versions.get(locked, version)
                raise FailedPrecondition(f"version {version!r} of model {model!r} is there", reason="NOT_DELETED")
            if tables.versions.find(locked, version) is not None:
                raise AlreadyExists(
                    f"the name {version!r} was given to another version of model {model!r} since; delete that one "
                    "first, or leave this one",
                    reason="VERSION_EXISTS",
                )
            check_no_alias(locked, version)
            before = tables.versions.get_by_id(version_id)
            tables.deletions.restore_version(version_id)
            if before.state is VersionState.VALIDATING:
                tables.validations.insert(version_id)
            tables.versions.refresh_latest(locked)
            version_changed(tables, "RestoreVersion", before, tables.versions.get_by_id(version_id))
            tables.changes.record()
            return tables.versions.get_by_id(version_id)

    def delete_model(self, name: str, etag: str, *, force: bool) -> Model:
        """Hide a model with all its versions; with `force` also while one is live. Gives it with its `delete_time`.

        Raises:
            NotFound: MODEL_NOT_FOUND.
            FailedPrecondition: a version is live, and `force` was not said (MODEL_LIVE).
            Aborted: it is no longer what the caller read (ETAG_MISMATCH).
        """
        with self._store.write() as tables:
            found = tables.models.lock(name)
            check_etag(f"model {name!r}", etag, found.etag)
            if found.production_version and not force:
                raise FailedPrecondition(
                    f"version {found.production_version!r} of model {name!r} is live, and nothing would answer under "
                    "this name; say `force` to delete it all the same",
                    reason="MODEL_LIVE",
                )
            tables.deletions.delete_model(found.model_id, deleted_by=caller().name, retention_s=self._retention_s)
            deleted = tables.models.get_by_id(found.model_id)
            model_changed(tables, "DeleteModel", found, deleted)
            return deleted

    def restore_model(self, name: str) -> Model:
        """Bring a deleted model back, with the versions that went with it; what was live is live again.

        Raises:
            NotFound: MODEL_NOT_FOUND, also once it was purged.
            FailedPrecondition: NOT_DELETED.
        """
        with self._store.write() as tables:
            found = tables.models.lock(name, deleted=True)
            if found.delete_time is None:
                raise FailedPrecondition(f"model {name!r} is there", reason="NOT_DELETED")
            for version_id in tables.deletions.restore_model(found.model_id):
                tables.validations.insert(version_id)
            tables.versions.refresh_latest(found)
            restored = tables.models.get_by_id(found.model_id)
            model_changed(tables, "RestoreModel", found, restored)
            return restored
