"""Files that profiles are made of: those that are sent, and those in the places that a setting allows."""

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

from services.common.errors import InvalidArgument, NotFound, Unavailable
from services.monitoring.profiles.sources import FileSource

CHUNK_BYTES = 1024 * 1024
_NO_SUCH_FILE = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
)
OpenObject = Callable[[str, str], Any]
"""Opens an object of a bucket, by its name and key; gives what `stream` and `close` are called on.

It raises NotFound (INPUT_NOT_FOUND) and Unavailable (INPUT_UNAVAILABLE)."""


class RowFiles:
    """Brings files to a folder of our own, where they can be read at will."""

    def __init__(
        self, roots: Iterable[str], *, max_bytes: int, folder: Path | None, open_object: OpenObject | None = None
    ) -> None:
        self._roots = tuple(sorted(root.rstrip("/") for root in roots))
        self._max_bytes = max_bytes
        self._folder = folder
        self._open_object = open_object

    @contextmanager
    def sent(self, chunks: Iterable[bytes], *, sha256: str) -> Iterator[tuple[Path, str]]:
        """Take a file that is sent; lends its path, with its digest in hex. An empty `sha256` is not checked.

        Raises:
            InvalidArgument: TOO_LARGE, DIGEST_MISMATCH.
            Unavailable: there is no room for it (SCRATCH_FULL).
        """
        with self._written(chunks) as (path, digest):
            if sha256 and digest != sha256:
                sentence = f"the bytes that came hash to {digest}, not to {sha256}; send the file again"
                raise InvalidArgument.field("sha256", sentence, reason="DIGEST_MISMATCH")
            yield path, digest

    @contextmanager
    def brought(self, file: FileSource) -> Iterator[Path]:
        """Copy a file of an allowed place, its digest checked; lends its path.

        Raises:
            InvalidArgument: URI_NOT_ALLOWED, TOO_LARGE, DIGEST_MISMATCH.
            NotFound: INPUT_NOT_FOUND.
            Unavailable: INPUT_UNAVAILABLE (where it lies does not answer now), SCRATCH_FULL.
        """
        if not self._allowed(file.uri):
            allowed = ", ".join(self._roots) or "none is"
            sentence = f"the file lies in no place that PENSTOCK_PROFILE_INPUT_ROOTS allows ({allowed})"
            raise InvalidArgument.field("file.uri", sentence, reason="URI_NOT_ALLOWED")
        with self._written(self._chunks(file.uri)) as (path, digest):
            if digest != file.sha256:
                # What they hash to is not said: whoever knows the digest of a file in the roots may read it.
                sentence = f"the bytes of the file do not hash to {file.sha256}; look at the file, or at the digest"
                raise InvalidArgument.field("file.sha256", sentence, reason="DIGEST_MISMATCH")
            yield path

    @contextmanager
    def _written(self, chunks: Iterable[bytes]) -> Iterator[tuple[Path, str]]:
        with tempfile.TemporaryDirectory(prefix="penstock-profile-", dir=self._folder) as folder:
            path = Path(folder) / "rows"
            digest, size_bytes = hashlib.sha256(), 0
            with path.open("xb") as out:
                for chunk in chunks:
                    size_bytes += len(chunk)
                    if size_bytes > self._max_bytes:
                        sentence = f"the file has more than the {self._max_bytes:,} bytes that are allowed"
                        raise InvalidArgument(f"{sentence}; send a sample of its rows", reason="TOO_LARGE")
                    digest.update(chunk)
                    _write(out, chunk)
            yield path, digest.hexdigest()

    def _chunks(self, uri: str) -> Iterator[bytes]:
        parts = urlsplit(uri)
        if parts.scheme == "s3":
            return self._object_chunks(parts.netloc, unquote(parts.path).lstrip("/"))
        return _file_chunks(Path(unquote(parts.path)))

    def _object_chunks(self, bucket: str, key: str) -> Iterator[bytes]:
        if self._open_object is None:
            sentence = "this service knows no S3 server to read from; it is told by PENSTOCK_BLOB_URL"
            raise InvalidArgument.field("file.uri", sentence, reason="URI_NOT_ALLOWED")
        from urllib3.exceptions import HTTPError

        answer = self._open_object(bucket, key)
        try:
            yield from answer.stream(CHUNK_BYTES)
        except (HTTPError, OSError) as error:
            sentence = f"the object ended before all of it came ({type(error).__name__}); try again"
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error
        finally:
            answer.close()

    def _allowed(self, uri: str) -> bool:
        try:
            parts = urlsplit(uri)
        except ValueError:
            return False
        if parts.query or parts.fragment:
            return False
        if parts.scheme == "file" and not parts.netloc:
            path = Path(unquote(parts.path))
            return any(_lies_in(path, root) for root in self._roots if root.startswith("file:"))
        if parts.scheme == "s3" and ".." not in unquote(parts.path).split("/"):
            return any(uri.startswith(f"{root}/") for root in self._roots if root.startswith("s3:"))
        return False


def _file_chunks(path: Path) -> Iterator[bytes]:
    try:
        # Neither a pipe, which would be waited for without end, nor what a link has come to point to since.
        handle = os.open(path.resolve(strict=True), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(handle, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    except OSError as error:
        if error.errno in _NO_SUCH_FILE:
            raise NotFound("there is no such file to be read", reason="INPUT_NOT_FOUND") from error
        sentence = f"the file cannot be read ({error.strerror or type(error).__name__})"
        raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error


def _write(out: IO[bytes], chunk: bytes) -> None:
    try:
        out.write(chunk)
    except OSError as error:
        sentence = f"there is no room to read the file in ({error.strerror or type(error).__name__})"
        raise Unavailable(sentence, reason="SCRATCH_FULL") from error


def _lies_in(path: Path, root: str) -> bool:
    """Say whether a path lies in a root, wherever links lead."""
    try:
        return path.resolve().is_relative_to(Path(unquote(urlsplit(root).path)).resolve())
    except (OSError, ValueError, RuntimeError):  # a NUL, or links in a circle
        return False
