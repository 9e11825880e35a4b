"""Files of rows: taken in from callers, and brought to a folder of the worker's own to be read."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from penstock.ids import uuid7
from services.common.allowed_files import AllowedFiles, write_scratch
from services.common.blobs import Blob, BlobStore
from services.common.datasets import NO_DATASETS, SCHEME, NamedDatasets
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound
from services.common.keys import Principal, Role
from services.inference.jobs.models import FileFormat, FileInput
from services.inference.jobs.store.files import FileStore

UPLOADED = "penstock://inputs/"


class InputFiles:
    """The files that jobs read: uploaded ones, and those inside the roots that a setting allows."""

    def __init__(
        self,
        files: FileStore,
        blobs: BlobStore,
        *,
        allowed: AllowedFiles,
        max_bytes: int,
        max_unused_bytes: int,
        folder: Path | None,
        datasets: NamedDatasets = NO_DATASETS,
    ) -> None:
        self._files = files
        self._blobs = blobs
        self._allowed = allowed
        self._max_bytes = max_bytes
        self._max_unused_bytes = max_unused_bytes
        self._folder = folder
        self._datasets = datasets

    def upload(
        self, chunks: Iterable[bytes], *, sha256: str, size_bytes: int | None, principal: Principal
    ) -> tuple[str, Blob]:
        """Store a file, and give the URI that a job names it by, with the blob.

        Raises:
            ResourceExhausted: the caller has as much uploaded as it may without a job of it (TOO_MANY_INPUT_BYTES).
            DomainError: as `BlobStore.put` does.
        """
        self._files.check_unused(principal.name, self._max_unused_bytes, coming_bytes=size_bytes or 1)
        blob = self._blobs.put(
            chunks,
            sha256=sha256,
            size_bytes=size_bytes,
            max_bytes=self._max_bytes,
            before_publish=lambda coming: self._files.ledger.keep(coming.sha256),
        )
        input_id = uuid7()
        self._files.add_input(UUID(input_id), blob, principal.name, max_unused_bytes=self._max_unused_bytes)
        return UPLOADED + input_id, blob

    def check(self, file: FileInput, principal: Principal) -> FileInput:
        """See that a caller may read a file, before a job is made of it; gives it as the job keeps it: of a dataset
        with the version that is meant now and the digest of its rows.

        Raises:
            InvalidArgument: URI_NOT_ALLOWED, DIGEST_MISMATCH, INVALID_NAME.
            NotFound: INPUT_NOT_FOUND, DATASET_NOT_FOUND, DATASET_VERSION_NOT_FOUND.
            FailedPrecondition: TRAINER_NOT_CONFIGURED, DATASET_NOT_READY.
        """
        if file.uri.startswith(SCHEME):
            found = self._datasets.find("file.uri", file.uri)
            return FileInput(found.uri, found.digest, FileFormat.PARQUET)
        if file.uri.startswith(UPLOADED):
            self._check_uploaded(file, principal)
        elif not self._allowed.allows(file.uri):
            raise InvalidArgument.field(
                "file.uri",
                "a file is named as UploadPredictionInput gave it, or lies in a place that PENSTOCK_JOB_INPUT_ROOTS "
                f"allows ({self._allowed.places})",
                reason="URI_NOT_ALLOWED",
            )
        return file

    @contextmanager
    def brought(self, file: FileInput, check: Callable[[], None], columns: Collection[str] = ()) -> Iterator[Path]:
        """Copy a file to where it can be read at will, its digest checked; `check` is called meanwhile, and may raise.

        Of a dataset, which has a label and more beside what the model takes, only these columns are brought.

        Raises:
            FailedPrecondition: DIGEST_MISMATCH, INPUT_TOO_LARGE, INPUT_UNREADABLE, and what stores and datasets raise.
            Unavailable: INPUT_UNAVAILABLE (where it lies does not answer now), SCRATCH_FULL (no room for the copy).
        """
        with tempfile.TemporaryDirectory(prefix="penstock-job-", dir=self._folder) as folder:
            path = Path(folder) / "input"
            digest, size_bytes = hashlib.sha256(), 0
            with path.open("xb") as out:
                for chunk in self._chunks(file, columns):
                    check()
                    size_bytes += len(chunk)
                    if size_bytes > self._max_bytes:
                        sentence = f"the file has more than the {self._max_bytes:,} bytes that are allowed"
                        raise FailedPrecondition(sentence, reason="INPUT_TOO_LARGE")
                    digest.update(chunk)
                    write_scratch(out, chunk)
            if not file.uri.startswith(SCHEME) and digest.hexdigest() != file.sha256:
                # What they hash to is not said: whoever knows the digest of a file in the roots may read it.
                sentence = f"the bytes of {file.uri} do not hash to {file.sha256}, which was declared"
                raise FailedPrecondition(sentence, reason="DIGEST_MISMATCH")
            yield path

    def _chunks(self, file: FileInput, columns: Collection[str]) -> Iterator[bytes]:
        if file.uri.startswith(SCHEME):
            found = self._datasets.find("file.uri", file.uri)
            known = [column.name for column in found.columns if column.name in columns]
            yield from self._datasets.chunks(found, known)
            return
        if file.uri.startswith(UPLOADED):
            with self._blobs.open(file.sha256) as reader:
                yield from reader
            return
        if not self._allowed.allows(file.uri):  # the setting may have changed since
            raise FailedPrecondition(f"{file.uri} lies in no place that is allowed any more", reason="URI_NOT_ALLOWED")
        yield from self._allowed.chunks(file.uri)

    def _check_uploaded(self, file: FileInput, principal: Principal) -> None:
        try:
            found = self._files.find_input(UUID(file.uri.removeprefix(UPLOADED)))
        except ValueError:
            found = None
        if found is None or (found.created_by != principal.name and principal.role < Role.OPERATOR):
            raise NotFound(f"there is no input {file.uri}; upload it first", reason="INPUT_NOT_FOUND")
        if found.sha256 != file.sha256:
            raise InvalidArgument.field(
                "file.sha256", f"the file that was uploaded hashes to {found.sha256}", reason="DIGEST_MISMATCH"
            )
