"""Reading the files of a version back."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from services.common import checks
from services.common.blobs import MAX_URL_LIFETIME_S, BlobStore
from services.common.errors import DataLoss, InvalidArgument, NotFound
from services.registry.models import File, ModelVersion
from services.registry.store import Store

USUAL_LIFETIME_S: Final = 900


@dataclass(frozen=True, slots=True)
class DownloadUrl:
    """Where a file can be read without a key, and until when; `url` is None where it can only be streamed."""

    file: File
    url: str | None
    expire_time: datetime


class Downloads:
    """Gives stored files."""

    def __init__(self, store: Store, blobs: BlobStore) -> None:
        self._store = store
        self._blobs = blobs

    def read(self, model: str, version: str, path: str, offset: int) -> Iterator[File | bytes]:
        """Give one file of a version: first what it is, then its bytes from `offset` on, in chunks up to 1 MiB.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND, FILE_NOT_FOUND.
            InvalidArgument: no path, and more than one file (PATH_REQUIRED).
            OutOfRange: OFFSET_OUT_OF_RANGE.
            DataLoss: the stored bytes are damaged (BLOB_CORRUPT) or gone (BLOB_LOST).
            Unavailable: the whole blob store is away.
        """
        with self._store.read() as tables:
            file = _chosen(tables.versions.get(tables.models.get(model), version), path)
        try:
            reader = self._blobs.open(file.sha256, offset=offset)
        except NotFound as error:
            self._blobs.check()
            raise DataLoss(f"the stored bytes of {file.path!r} are gone", reason="BLOB_LOST") from error
        with reader:
            yield file
            yield from reader

    def create_url(self, model: str, version: str, path: str, lifetime_s: int) -> DownloadUrl:
        """Make a URL that reads one file of a version from the blob store itself, for 1 to 604,800 s; 0: 900 s.

        Raises:
            NotFound: MODEL_NOT_FOUND, VERSION_NOT_FOUND, FILE_NOT_FOUND.
            InvalidArgument: PATH_REQUIRED, OUT_OF_BOUNDS.
        """
        checks.between("lifetime_s", lifetime_s, 0, MAX_URL_LIFETIME_S)
        lifetime_s = lifetime_s or USUAL_LIFETIME_S
        with self._store.read() as tables:
            file = _chosen(tables.versions.get(tables.models.get(model), version), path)
        expire_time = datetime.now(UTC) + timedelta(seconds=lifetime_s)
        url = self._blobs.presign(file.sha256, lifetime_s=lifetime_s, file_name=file.path.rpartition("/")[2])
        return DownloadUrl(file, url, expire_time)


def _chosen(version: ModelVersion, path: str) -> File:
    paths = ", ".join(repr(file.path) for file in version.files[:20])
    if not path:
        if len(version.files) == 1:
            return version.files[0]
        raise InvalidArgument.field(
            "path", f"this version has {len(version.files)} files: {paths}; name one", reason="PATH_REQUIRED"
        )
    for file in version.files:
        if file.path == path:
            return file
    raise NotFound(f"version {version.version!r} has no file {path!r}; it has {paths}", reason="FILE_NOT_FOUND")
