"""Uploading a version: the bytes first, then all its rows in one transaction."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from prometheus_client import Counter

from services.common.blobs import BlobStore
from services.common.errors import AlreadyExists, InvalidArgument
from services.common.keys import caller
from services.registry.auditing import version_changed
from services.registry.catalog import open_model
from services.registry.models import (
    Approval,
    File,
    FileEnd,
    Framework,
    ModelVersion,
    NewFile,
    NewVersion,
    RequestKey,
    TransitionKind,
    UploadPart,
)
from services.registry.promotions import check_going_live
from services.registry.references import become_ready, check_framework, is_reference, refuse_files
from services.registry.stages import birth_stage
from services.registry.store import Store

SUPPORTED = (Framework.ONNX, Framework.OLLAMA)
_REGISTER = "RegisterVersion"


class Uploads:
    """Takes new versions in. `max_bytes` is the largest file taken."""

    def __init__(self, store: Store, blobs: BlobStore, *, max_bytes: int, uploaded_bytes: Counter) -> None:
        self._store = store
        self._blobs = blobs
        self._max_bytes = max_bytes
        self._uploaded_bytes = uploaded_bytes

    def register(self, new: NewVersion, parts: Iterator[UploadPart]) -> ModelVersion:
        """Store a version's file and then its rows; give the version, in VALIDATING; a reference is READY at once.

        Whatever breaks off before the end leaves no row, and no blob that any row names.

        Args:
            new: the version.
            parts: the file's header and then its bytes, as they arrive.

        Raises:
            AlreadyExists: VERSION_EXISTS; before any byte is taken, where that is known then.
            InvalidArgument: UNSUPPORTED_FRAMEWORK, INVALID_REFERENCE, FILES_NOT_ALLOWED, INCOMPLETE_UPLOAD, EMPTY_FILE,
                TOO_MANY_FILES, TOO_LARGE,
                DIGEST_MISMATCH, SIZE_MISMATCH, APPROVAL_REQUIRED, INVALID_STAGE.
            PermissionDenied: it asks for PRODUCTION, and the caller is no admin (ROLE_TOO_WEAK).
            FailedPrecondition: REQUEST_ID_REUSED.
        """
        self._check(new)
        self._refuse_existing(new)
        header = next(parts, None)
        if is_reference(new):
            if header is not None:
                raise refuse_files(header.path if isinstance(header, NewFile) else "bytes")
            return self._insert(new, ())
        if not isinstance(header, NewFile):
            raise InvalidArgument(
                "the upload ended before a file began; send the header, a file header, then the file's bytes",
                reason="INCOMPLETE_UPLOAD",
            )
        return self._insert(new, (self._stored(header, _bytes_of(header, parts)),))

    def _check(self, new: NewVersion) -> None:
        check_framework(new)
        if new.framework not in SUPPORTED:
            raise InvalidArgument.field(
                "framework",
                f"got {new.framework}; this release takes {', '.join(SUPPORTED)}",
                reason="UNSUPPORTED_FRAMEWORK",
            )
        birth_stage(new.stage)
        if new.stage is not None:
            check_going_live(new.stage, Approval(caller().name, new.approved_by, new.note))

    def _refuse_existing(self, new: NewVersion) -> None:
        """Raise AlreadyExists before any byte is taken, unless this request may be the one that made the version."""
        with self._store.read() as tables:
            if tables.requests.known(caller().name, _REGISTER, new.request_id):
                return
            model = tables.models.find(new.model)
            if model is not None and tables.versions.find(model, new.version) is not None:
                raise AlreadyExists(
                    f"model {new.model!r} has a version {new.version!r} already, which stays as it is; choose "
                    "another version",
                    reason="VERSION_EXISTS",
                )

    def _stored(self, header: NewFile, chunks: Iterator[bytes]) -> File:
        blob = self._blobs.put(chunks, sha256=header.sha256, size_bytes=header.size_bytes, max_bytes=self._max_bytes)
        self._uploaded_bytes.inc(blob.size_bytes)
        return File(header.path, blob.sha256, blob.size_bytes)

    def _insert(self, new: NewVersion, files: tuple[File, ...]) -> ModelVersion:
        key = RequestKey(caller().name, _REGISTER, new.request_id, _digest(new.body_sha256, files))
        stage = birth_stage(new.stage)
        with self._store.write() as tables:
            model = open_model(tables, new.model)
            _, version_id = tables.requests.find_result(key) or (None, None)
            if version_id is not None:
                return tables.versions.get_by_id(version_id)
            version_id = tables.versions.insert(
                model,
                new,
                deployment_number=tables.models.next_deployment_number(model.model_id),
                parent_deployment_number=tables.versions.find_live_number(model) or 0,
                stage=stage,
                created_by=caller().name,
                files=files,
            )
            approval = Approval(caller().name, new.approved_by, new.note)
            born = tables.versions.get_by_id(version_id)
            birth = tables.transitions.append(born, stage, TransitionKind.REGISTER, approval)
            tables.versions.move(version_id, birth)
            if is_reference(new):
                become_ready(tables, model, born)
            else:
                tables.validations.insert(version_id)
            tables.requests.insert(key, model.model_id, version_id)
            tables.changes.record()
            registered = tables.versions.get_by_id(version_id)
            version_changed(tables, _REGISTER, None, registered, note=new.note)
            return registered


def _bytes_of(header: NewFile, parts: Iterator[UploadPart]) -> Iterator[bytes]:
    """Give the bytes of the one file, and raise in place of the end unless they are all there.

    A stream that was cancelled can look like one that is complete. The size or the digest tells them apart: it came
    with the header, where the blob store checks it, or it comes with the file's end.
    """
    empty = True
    end: FileEnd | None = None
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, NewFile):
            raise InvalidArgument(
                f"a second file, {part.path!r}, came; an ONNX version is one file, with its weights inside",
                reason="TOO_MANY_FILES",
            )
        if end is not None:
            raise InvalidArgument("more came after the file's end; it is the last message", reason="INCOMPLETE_UPLOAD")
        if isinstance(part, FileEnd):
            end = part
            continue
        empty = empty and not part
        if header.sha256 is None:
            digest.update(part)
        yield part
    if empty:
        raise InvalidArgument("no bytes came for the file; send the model itself", reason="EMPTY_FILE")
    _check_end(header, end, header.sha256 or digest.hexdigest())


def _check_end(header: NewFile, end: FileEnd | None, sha256: str) -> None:
    if end is not None and end.sha256 != sha256:
        raise InvalidArgument.field(
            "sha256", f"the bytes that came hash to {sha256}, and their end says otherwise", reason="DIGEST_MISMATCH"
        )
    if end is None and header.sha256 is None and header.size_bytes is None:
        raise InvalidArgument(
            "the upload ended without the file's end, so it may be cut short; send its size or digest in the file "
            "header, or its digest in a FileEnd after its last bytes",
            reason="INCOMPLETE_UPLOAD",
        )


def _digest(body_sha256: str, files: tuple[File, ...]) -> str:
    said = (f"{file.path} {file.sha256} {file.size_bytes}" for file in files)
    return hashlib.sha256(" ".join((body_sha256, *said)).encode()).hexdigest()
