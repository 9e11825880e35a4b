"""Taking the files of a version in: into the blob store, from a stream, an archive or an upload in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import Counter

from services.common.archives import MAX_ENTRIES, ArchiveLimits, Entry, entries, without_top_folder
from services.common.blobs import Blob, BlobStore
from services.common.errors import DataLoss, InvalidArgument
from services.registry.file_names import FileNames
from services.registry.file_stream import FileStream
from services.registry.models import File, NewFile
from services.registry.parts import ownership
from services.registry.reservations import Reservations
from services.registry.settings import RegistrySettings
from services.registry.spool import Spool
from services.registry.store import Store


@dataclass(frozen=True, slots=True)
class IntakeLimits:
    """How much is taken: of one file or archive, of a version's files together, and of entries in an archive."""

    max_file_bytes: int
    max_version_bytes: int
    max_archive_entries: int = MAX_ENTRIES


class Intake:
    """Stores files; each has its row in the table of blobs before it can be seen."""

    def __init__(
        self, store: Store, blobs: BlobStore, *, limits: IntakeLimits, spool_dir: Path | None, uploaded_bytes: Counter
    ) -> None:
        self._store = store
        self._blobs = blobs
        self._limits = limits
        self._spool = Spool(spool_dir)
        self._reservations = Reservations(store)
        self._uploaded_bytes = uploaded_bytes

    @classmethod
    def from_settings(
        cls, settings: RegistrySettings, store: Store, blobs: BlobStore, *, uploaded_bytes: Counter
    ) -> Intake:
        """Build from the registry's settings."""
        limits = IntakeLimits(
            max_file_bytes=settings.max_upload_bytes,
            max_version_bytes=settings.max_version_bytes,
            max_archive_entries=settings.max_archive_entries,
        )
        return cls(store, blobs, limits=limits, spool_dir=settings.upload_spool_dir, uploaded_bytes=uploaded_bytes)

    def take(self, stream: FileStream) -> tuple[File, ...]:
        """Store all the files of a stream, and give them by path.

        Where it breaks off, what is stored already is nobody's, and goes with the next garbage collection.

        Raises:
            InvalidArgument: see `FileStream`, `FileNames`, `archives.entries` and `BlobStore.put`; NO_FILES.
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: UPLOAD_NOT_FINISHED.
            ResourceExhausted: BLOB_STORE_FULL, SPOOL_FULL.
            DataLoss: a finished upload's bytes are gone (BLOB_LOST).
        """
        names = FileNames()
        files: list[File] = []
        room = self._limits.max_version_bytes
        for header in stream.headers():
            for file in self._files_of(header, stream, room):
                names.take(file.path)
                files.append(file)
            room = self._limits.max_version_bytes - sum(file.size_bytes for file in files)
        return tuple(sorted(files, key=lambda file: file.path))

    def _files_of(self, header: NewFile, stream: FileStream, room: int) -> Iterable[File]:
        if header.upload_id:
            stream.expect_no_bytes(header)
            blob = self._uploaded(header, room)
            if not header.unpack:
                return (File(header.path, blob.sha256, blob.size_bytes),)
            with self._blobs.open(blob.sha256) as reader:
                return self._unpacked(header, reader, room)
        if header.unpack:
            return self._unpacked(header, stream.chunks(header), room, check=stream.check_digest)
        return (self._stored(header, stream.chunks(header), room, check=stream.check_digest),)

    def _uploaded(self, header: NewFile, room: int) -> Blob:
        """Find what an upload in parts has brought, and keep garbage collection away from it."""
        upload_id = ownership.upload_id(header.upload_id)
        with self._store.write() as tables:
            upload = ownership.owned(tables.uploads.find(upload_id), upload_id).get_finished()
            tables.blobs.revive(upload.sha256)
        if header.sha256 not in (None, upload.sha256):
            raise InvalidArgument.field(
                "sha256", f"the upload's is {upload.sha256}, and the header says otherwise", reason="DIGEST_MISMATCH"
            )
        if header.size_bytes not in (None, upload.size_bytes):
            raise InvalidArgument.field(
                "size_bytes", f"the upload has {upload.size_bytes:,}, the header says otherwise", reason="SIZE_MISMATCH"
            )
        if upload.size_bytes > room:
            raise self._too_large()
        if not self._blobs.exists(upload.sha256):
            self._blobs.check()  # a volume that is not mounted has no blob either
            raise DataLoss(
                f"the bytes of the upload {upload.upload_id} are gone; create it again and send them",
                reason="BLOB_LOST",
            )
        return Blob(upload.sha256, upload.size_bytes)

    def _stored(
        self, header: NewFile, chunks: Iterator[bytes], room: int, check: Callable[[str], None] = lambda _: None
    ) -> File:
        def before_publish(blob: Blob) -> None:
            check(blob.sha256)
            self._reservations.reserve(blob)

        if room <= 0 or (header.size_bytes or 0) > room:
            raise self._too_large()
        blob = self._blobs.put(
            chunks,
            sha256=header.sha256,
            size_bytes=header.size_bytes,
            max_bytes=min(self._limits.max_file_bytes, room),
            before_publish=before_publish,
        )
        self._uploaded_bytes.inc(blob.size_bytes)
        return File(header.path, blob.sha256, blob.size_bytes)

    def _unpacked(
        self, header: NewFile, chunks: Iterable[bytes], room: int, check: Callable[[str], None] = lambda _: None
    ) -> list[File]:
        """Store what an archive holds, entry by entry. Nothing of it is written anywhere under a name of its own."""
        limits = ArchiveLimits(max_bytes=room, max_entries=self._limits.max_archive_entries)
        names = FileNames()
        files: list[File] = []
        with self._spool.received(
            chunks,
            sha256=header.sha256,
            size_bytes=header.size_bytes,
            max_bytes=self._limits.max_file_bytes,
            check=check,
        ) as archive:
            for entry in entries(archive, header.path, limits):
                names.take(entry.path)
                file = self._stored(NewFile(entry.path, None, None), _not_empty(entry, header.path), room)
                room -= file.size_bytes
                files.append(file)
        if not files:
            raise InvalidArgument(f"the archive {header.path!r} holds no file", reason="NO_FILES")
        paths = without_top_folder(file.path for file in files)
        return [File(paths[file.path], file.sha256, file.size_bytes) for file in files]

    def _too_large(self) -> InvalidArgument:
        return InvalidArgument(
            f"the version's files together are larger than {self._limits.max_version_bytes:,} bytes; send less, or "
            "raise PENSTOCK_MAX_VERSION_BYTES",
            reason="TOO_LARGE",
        )


def _not_empty(entry: Entry, archive: str) -> Iterator[bytes]:
    empty = True
    for chunk in entry.chunks:
        empty = False
        yield chunk
    if empty:
        raise InvalidArgument(
            f"{entry.path!r} in the archive {archive!r} is empty; a version has no empty files", reason="EMPTY_FILE"
        )
