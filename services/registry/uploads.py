"""Registering a version: its files first, then all its rows in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from services.common.errors import AlreadyExists
from services.common.keys import caller
from services.registry import references
from services.registry.aliases import check_no_alias
from services.registry.auditing import version_changed
from services.registry.catalog import check_not_deleted, open_model
from services.registry.file_stream import FileStream
from services.registry.frameworks import check_validator
from services.registry.intake import Intake
from services.registry.models import (
    Approval,
    File,
    Model,
    ModelVersion,
    NewFile,
    NewVersion,
    RequestKey,
    TransitionKind,
    UploadPart,
)
from services.registry.promotions import check_going_live
from services.registry.serving_features import check_inputs
from services.registry.signatures import check_warm_ups
from services.registry.stages import birth_stage
from services.registry.store import Store, Tables

_REGISTER = "RegisterVersion"


class Uploads:
    """Takes new versions in."""

    def __init__(self, store: Store, intake: Intake) -> None:
        self._store = store
        self._intake = intake

    def register(self, new: NewVersion, parts: Iterator[UploadPart]) -> ModelVersion:
        """Store a version's files and then its rows; give the version, in VALIDATING, or a reference READY.

        Whatever breaks off before the end leaves no row of a version, and no blob that one names.

        Args:
            new: the version.
            parts: each file's header and then its bytes, as they arrive.

        Raises:
            AlreadyExists: VERSION_EXISTS; before any byte is taken, where that is known then.
            InvalidArgument: UNSUPPORTED_FRAMEWORK, FILES_NOT_ALLOWED, APPROVAL_REQUIRED, INVALID_STAGE, those of
                `Editing.update_version`, and those of `Intake.take`; so for the other errors.
            PermissionDenied: it asks for PRODUCTION, and the caller is no admin (ROLE_TOO_WEAK).
            FailedPrecondition: REQUEST_ID_REUSED, NO_VALIDATOR, MODEL_DELETED, VERSION_IS_ALIAS.
            Aborted: BLOB_COLLECTED.
        """
        self._check(new)
        self._refuse_early(new)
        if references.is_reference(new):
            return self._insert(new, _no_files(new, parts))
        return self._insert(new, self._intake.take(FileStream(parts, count=new.file_count or 1)))

    def _check(self, new: NewVersion) -> None:
        references.check_framework(new)
        if new.serving_settings is not None:
            new.serving_settings.check()
            signature = references.reference_signature(new.ollama.mode) if new.ollama else new.declared_signature
            check_warm_ups(new.serving_settings, signature)
            check_inputs(new.serving_settings, signature)
        birth_stage(new.stage)
        if new.stage is not None:
            check_going_live(new.stage, Approval(caller().name, new.approved_by, new.note))

    def _refuse_early(self, new: NewVersion) -> None:
        """Raise before any byte is taken what is known then, unless this request may have made the version before."""
        with self._store.read() as tables:
            if tables.requests.known(caller().name, _REGISTER, new.request_id):
                return
            model = tables.models.find(new.model, deleted=True)
            if model is not None:
                _refuse_in(tables, model, new.version)
            if not references.is_reference(new):
                check_validator(tables, new.framework)

    def _insert(self, new: NewVersion, files: tuple[File, ...]) -> ModelVersion:
        key = RequestKey(caller().name, _REGISTER, new.request_id, _digest(new.body_sha256, files))
        stage = birth_stage(new.stage)
        with self._store.write() as tables:
            # Looked for before the lock, for the model may be gone since; and again, for others may have made it now.
            made = tables.requests.find_version(key)
            if made is not None:
                return tables.versions.get_by_id(made)
            model = open_model(tables, new.model)
            made = tables.requests.find_version(key)
            if made is not None:
                return tables.versions.get_by_id(made)
            check_no_alias(model, new.version)
            tables.blobs.hold(file.sha256 for file in files)
            version_id = tables.versions.insert(
                model,
                new,
                deployment_number=tables.models.next_deployment_number(model.model_id),
                parent_deployment_number=tables.versions.find_live_number(model) or 0,
                stage=stage,
                created_by=caller().name,
                files=files,
            )
            born = tables.versions.get_by_id(version_id)
            approval = Approval(caller().name, new.approved_by, new.note)
            tables.versions.move(version_id, tables.transitions.append(born, stage, TransitionKind.REGISTER, approval))
            version_changed(tables, _REGISTER, None, born, note=new.note)
            self._send_on(tables, new, born)
            tables.requests.insert(key, model.model_id, version_id)
            tables.changes.record()
            return tables.versions.get_by_id(version_id)

    def _send_on(self, tables: Tables, new: NewVersion, born: ModelVersion) -> None:
        """Queue it for a validator; a reference, which has nothing to open, is READY at once."""
        if references.is_reference(new):
            references.become_ready(tables, tables.models.get_by_id(born.model_id), born)
        else:
            tables.validations.insert(born.version_id)


def _refuse_in(tables: Tables, model: Model, version: str) -> None:
    check_not_deleted(model)
    check_no_alias(model, version)
    if tables.versions.is_taken(model, version):
        raise AlreadyExists(
            f"model {model.name!r} has, or had, a version {version!r} already; choose another version, for a name that "
            "was ever READY means its bytes for good (that of a FAILED one is free once DeleteVersion has hidden it)",
            reason="VERSION_EXISTS",
        )


def _no_files(new: NewVersion, parts: Iterator[UploadPart]) -> tuple[File, ...]:
    part = next(parts, None)
    if part is not None or new.file_count:
        raise references.refuse_files(part.path if isinstance(part, NewFile) else "a file")
    return ()


def _digest(body_sha256: str, files: tuple[File, ...]) -> str:
    told = "".join(f" {file.path} {file.sha256} {file.size_bytes}" for file in files)
    return hashlib.sha256(f"{body_sha256}{told}".encode()).hexdigest()
