"""Files that users name by URI, read from the places that a setting allows: folders, and buckets of the blob store."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from io import FileIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Protocol
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import SecretStr

from services.common.errors import DomainError, Unavailable

if TYPE_CHECKING:
    from minio import Minio

CHUNK_BYTES: Final = 1024 * 1024
CONNECT_TIMEOUT_S: Final = 3.0
ANSWER_TIMEOUT_S: Final = 30.0
RETRIES: Final = 2
_NO_SUCH_FILE: Final = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENAMETOOLONG}
)
_FOLDER: Final = os.O_DIRECTORY | os.O_NOFOLLOW | getattr(os, "O_PATH", os.O_RDONLY)
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK  # or else a pipe would be waited for without end
_NO_SUCH_OBJECT: Final = frozenset(
    {"NoSuchKey", "NoSuchBucket", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"}
)


class BlobSettings(Protocol):
    """What names the blob store's server, and the keys for it."""

    blob_url: str
    blob_access_key: SecretStr | None
    blob_secret_key: SecretStr | None


class AllowedFiles:
    """The files inside `roots` (file:///folder, s3://bucket/folder): nothing else is read, wherever links lead.

    `unreadable` makes the error for what cannot be read, however often it is tried, out of a sentence.
    """

    def __init__(self, roots: Iterable[str], store: BlobSettings, *, unreadable: Callable[[str], DomainError]) -> None:
        self._roots = tuple(sorted(root if root == "file:///" else root.rstrip("/") for root in roots))
        self._unreadable = unreadable
        buckets = any(root.startswith("s3:") for root in self._roots)
        self._client = _client(store) if buckets and store.blob_url.startswith("s3:") else None

    @property
    def places(self) -> str:
        """The roots, for a sentence."""
        return ", ".join(self._roots) or "none is"

    def allows(self, uri: str) -> bool:
        """Say whether a URI names a file inside the roots."""
        try:
            parts = urlsplit(uri)
        except ValueError:
            return False
        if parts.query or parts.fragment:
            return False
        if parts.scheme == "file" and not parts.netloc:
            try:
                return self._folder_around(Path(unquote(parts.path)).resolve()) is not None
            except (OSError, ValueError, RuntimeError):  # a NUL, or links in a circle
                return False
        if parts.scheme == "s3" and ".." not in unquote(parts.path).split("/"):
            return any(uri.startswith(f"{root}/") for root in self._roots if root.startswith("s3:"))
        return False

    def chunks(self, uri: str) -> Iterator[bytes]:
        """Read a file that is allowed, by the megabyte at most.

        Raises:
            DomainError: what `unreadable` makes; Unavailable (INPUT_UNAVAILABLE) where another try may do.
        """
        parts = urlsplit(uri)
        path = unquote(parts.path)
        return self._object_chunks(parts.netloc, path.lstrip("/")) if parts.scheme == "s3" else self._file_chunks(path)

    def _file_chunks(self, path: str) -> Iterator[bytes]:
        try:
            with FileIO(path, opener=self._open) as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
        except OSError as error:
            sentence = f"the file cannot be read ({error.strerror or type(error).__name__})"
            if error.errno in _NO_SUCH_FILE:
                raise self._unreadable(sentence) from error
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error

    def _open(self, path: str, _: int) -> int:
        """Open a file of a root, folder by folder: where a folder has become a link since it was resolved, none is."""
        found = Path(path).resolve(strict=True)
        root = self._folder_around(found)
        if root is None:
            raise PermissionError(errno.EACCES, "it lies in no place that is allowed any more")
        *folders, name = found.relative_to(root.parent).parts or (".",)
        handle = os.open(root.parent, _FOLDER)
        try:
            for folder in folders:
                outer, handle = handle, os.open(folder, _FOLDER, dir_fd=handle)
                os.close(outer)
            return os.open(name, _FILE, dir_fd=handle)
        finally:
            os.close(handle)

    def _folder_around(self, path: Path) -> Path | None:
        """Give the root, without links, that a path without links lies in."""
        roots = (Path(unquote(urlsplit(root).path)).resolve() for root in self._roots if root.startswith("file:"))
        return next((root for root in roots if path.is_relative_to(root)), None)

    def _object_chunks(self, bucket: str, key: str) -> Iterator[bytes]:
        if self._client is None:
            raise self._unreadable("this service keeps its blobs in a folder, and knows no S3 server to read from")
        from minio.error import MinioException, S3Error
        from urllib3.exceptions import HTTPError

        answer = None
        try:
            answer = self._client.get_object(bucket, key)
            yield from answer.stream(CHUNK_BYTES)
        except (MinioException, HTTPError, OSError, ValueError) as error:
            code = error.code if isinstance(error, S3Error) else type(error).__name__
            sentence = f"the object cannot be read ({code})"
            if code in _NO_SUCH_OBJECT or isinstance(error, ValueError):
                raise self._unreadable(sentence) from error
            raise Unavailable(sentence, reason="INPUT_UNAVAILABLE") from error
        finally:
            if answer is not None:
                answer.close()


def write_scratch(out: IO[bytes], chunk: bytes) -> None:
    """Write to a file of our own; raises Unavailable (SCRATCH_FULL) where there is no room."""
    try:
        out.write(chunk)
    except OSError as error:
        sentence = f"there is no room to read the file in ({error.strerror or type(error).__name__})"
        raise Unavailable(sentence, reason="SCRATCH_FULL") from error


def _client(store: BlobSettings) -> Minio:
    from minio import Minio

    from services.common.blobs.s3 import bounded_http

    parts = urlsplit(store.blob_url)
    options = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    endpoint = urlsplit(options.get("endpoint", "https://s3.amazonaws.com"))
    access_key, secret_key = store.blob_access_key, store.blob_secret_key
    return Minio(
        endpoint.netloc,
        access_key=access_key.get_secret_value() if access_key else None,
        secret_key=secret_key.get_secret_value() if secret_key else None,
        secure=endpoint.scheme == "https",
        region=options.get("region", "us-east-1"),
        http_client=bounded_http(CONNECT_TIMEOUT_S, ANSWER_TIMEOUT_S, retries=RETRIES),
    )
