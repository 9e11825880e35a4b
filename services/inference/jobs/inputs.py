"""Files of rows: taken in from callers, and brought to a folder of the worker's own to be read."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit
from uuid import UUID

from penstock.ids import uuid7
from services.common.blobs import Blob, BlobStore
from services.common.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from services.common.keys import Principal, Role
from services.inference.jobs.models import FileInput
from services.inference.jobs.store.files import FileStore

UPLOADED = "penstock://inputs/"
CHUNK_BYTES = 1024 * 1024
_NO_SUCH_FILE = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
)
OpenObject = Callable[[str, str], Any]
"""Opens an object of a bucket, by its name and key; gives what `stream` and `close` are called on."""


class InputFiles:
    """The files that jobs read: uploaded ones, and those inside the roots that a setting allows."""

    def __init__(
        self,
        files: FileStore,
        blobs: BlobStore,
        *,
        roots: Iterable[str],
        max_bytes: int,
        max_unused_bytes: int,
        folder: Path | None,
        open_object: OpenObject | None = None,
    ) -> None:
        self._files = files
        self._blobs = blobs
        self._roots = tuple(sorted(root.rstrip("/") for root in roots))
        self._max_bytes = max_bytes
        self._max_unused_bytes = max_unused_bytes
        self._folder = folder
        self._open_object = open_object

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
            before_publish=lambda coming: self._files.keep(coming.sha256),
        )
        input_id = uuid7()
        self._files.add_input(UUID(input_id), blob, principal.name, max_unused_bytes=self._max_unused_bytes)
        return UPLOADED + input_id, blob

    def check(self, file: FileInput, principal: Principal) -> None:
        """See that a caller may read a file, before a job is made of it.

        Raises:
            InvalidArgument: URI_NOT_ALLOWED, DIGEST_MISMATCH.
            NotFound: INPUT_NOT_FOUND.
        """
        if file.uri.startswith(UPLOADED):
            self._check_uploaded(file, principal)
        elif not self._allowed(file.uri):
            allowed = ", ".join(self._roots) or "none is"
            raise InvalidArgument.field(
                "file.uri",
                "a file is named as UploadPredictionInput gave it, or lies in a place that PENSTOCK_JOB_INPUT_ROOTS "
                f"allows ({allowed})",
                reason="URI_NOT_ALLOWED",
            )

    @contextmanager
    def brought(self, file: FileInput, check: Callable[[], None]) -> Iterator[Path]:
        """Copy a file to where it can be read at will, its digest checked; `check` is called meanwhile, and may raise.

        Raises:
            FailedPrecondition: DIGEST_MISMATCH, INPUT_TOO_LARGE, INPUT_UNREADABLE, and what stores raise.
            Unavailable: INPUT_UNAVAILABLE (where it lies does not answer now), SCRATCH_FULL (no room for the copy).
        """
        with tempfile.TemporaryDirectory(prefix="penstock-job-", dir=self._folder) as folder:
            path = Path(folder) / "input"
            digest, size_bytes = hashlib.sha256(), 0
            with path.open("xb") as out:
                for chunk in self._chunks(file):
                    check()
                    size_bytes += len(chunk)
                    if size_bytes > self._max_bytes:
                        sentence = f"the file has more than the {self._max_bytes:,} bytes that are allowed"
                        raise FailedPrecondition(sentence, reason="INPUT_TOO_LARGE")
                    digest.update(chunk)
                    _write(out, chunk)
            if digest.hexdigest() != file.sha256:
                # What they hash to is not said: whoever knows the digest of a file in the roots may read it.
                sentence = f"the bytes of {file.uri} do not hash to {file.sha256}, which was declared"
                raise FailedPrecondition(sentence, reason="DIGEST_MISMATCH")
            yield path

    def _chunks(self, file: FileInput) -> Iterator[bytes]:
        if file.uri.startswith(UPLOADED):
            with self._blobs.open(file.sha256) as reader:
                yield from reader
            return
        if not self._allowed(file.uri):  # the setting may have changed since
            raise FailedPrecondition(f"{file.uri} lies in no place that is allowed any more", reason="URI_NOT_ALLOWED")
        parts = urlsplit(file.uri)
        if parts.scheme == "s3":
            yield from self._object_chunks(parts.netloc, unquote(parts.path).lstrip("/"))
        else:
            yield from self._file_chunks(Path(unquote(parts.path)))

    def _file_chunks(self, path: Path) -> Iterator[bytes]:
        try:
            # Neither a pipe, which would be waited for without end, nor what a link has come to point to since.
            handle = os.open(path.resolve(strict=True), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            with os.fdopen(handle, "rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            sentence = f"the file cannot be read ({error.strerror or type(error).__name__})"
            if error.errno in _NO_SUCH_FILE:
                raise FailedPrecondition(sentence, reason="INPUT_UNREADABLE") from error
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error

    def _object_chunks(self, bucket: str, key: str) -> Iterator[bytes]:
        if self._open_object is None:
            sentence = "this service keeps its blobs in a folder, and knows no S3 server to read from"
            raise FailedPrecondition(sentence, reason="INPUT_UNREADABLE")
        from urllib3.exceptions import HTTPError

        answer = self._open_object(bucket, key)
        try:
            yield from answer.stream(CHUNK_BYTES)
        except (HTTPError, OSError) as error:
            sentence = f"s3://{bucket}/{key} ended before all of it came ({type(error).__name__})"
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error
        finally:
            answer.close()

    def _allowed(self, uri: str) -> bool:
        parts = urlsplit(uri)
        if parts.query or parts.fragment:
            return False
        if parts.scheme == "file" and not parts.netloc:
            path = Path(unquote(parts.path))
            return any(_lies_in(path, root) for root in self._roots if root.startswith("file:"))
        if parts.scheme == "s3" and ".." not in unquote(parts.path).split("/"):
            return any(uri.startswith(f"{root}/") for root in self._roots if root.startswith("s3:"))
        return False

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


def _write(out: IO[bytes], chunk: bytes) -> None:
    try:
        out.write(chunk)
    except OSError as error:
        sentence = f"the input cannot be copied to be read ({error.strerror or type(error).__name__})"
        raise Unavailable(sentence, reason="SCRATCH_FULL") from error


def _lies_in(path: Path, root: str) -> bool:
    """Say whether a path lies in a root, wherever links lead."""
    try:
        return path.resolve().is_relative_to(Path(unquote(urlsplit(root).path)).resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL, or links in a circle
        return False
