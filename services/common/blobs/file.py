"""Blobs in a folder: one file each, made visible by a rename once it is whole, checked and on the disk."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, Final, ParamSpec, TypeVar

from services.common.blobs.blob import BeforePublish, Blob, OnTaken, checked_sha256, is_sha256
from services.common.blobs.flow import READ_BYTES, BlobReader, Chunk, DigestName, Inflow, check_offset, hash_of
from services.common.errors import DomainError, FailedPrecondition, NotFound, ResourceExhausted, Unavailable

STALE_AFTER_S: Final = 24 * 60 * 60
PIECE_BYTES: Final = 64 * 1024
_FULL: Final = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_DENIED: Final = {errno.EACCES, errno.EPERM, errno.EROFS}
_FOLDER_OF_BLOBS: Final = re.compile(r"[0-9a-f]{2}")

P = ParamSpec("P")
T = TypeVar("T")


class FileBlobStore:
    """A `BlobStore` under `root`: `<root>/ab/abcd…` are blobs, `<root>/incoming/` is what still arrives.

    Both lie on one file system, since only there is a rename one step. Processes may share a root.
    `digest` is what addresses are. Not `cached`: chunks that begin with a page of memory go past the system's cache.
    """

    def __init__(self, root: Path, *, digest: DigestName = "sha256", cached: bool = True) -> None:
        self._root = root
        self._new_hash = hash_of(digest)
        self._cached = cached
        self._incoming = root / "incoming"
        self._lasting: set[str] = set()

    def prepare(self) -> None:
        """Make the folders, and sweep what killed processes left there more than a day ago."""
        _call(self._incoming.mkdir, parents=True, exist_ok=True)
        oldest = time.time() - STALE_AFTER_S
        for path in _call(_listed, self._incoming):
            if _modified(path) < oldest:
                _call(path.unlink, missing_ok=True)

    def put(
        self,
        chunks: Iterable[Chunk],
        *,
        sha256: str | None = None,
        size_bytes: int | None = None,
        max_bytes: int,
        before_publish: BeforePublish | None = None,
        on_taken: OnTaken | None = None,
    ) -> Blob:
        """Store the bytes: temporary file, fsync, rename, fsync of the folder. See `BlobStore.put`."""
        declared = None if sha256 is None else checked_sha256(sha256)
        pieces = _pieces(chunks) if self._cached else chunks
        inflow = Inflow(pieces, sha256=declared, size_bytes=size_bytes, max_bytes=max_bytes, new_hash=self._new_hash)
        temporary = self._incoming / f"{uuid.uuid4().hex}.part"
        try:
            file: BinaryIO = _call(temporary.open, "xb", buffering=0)
            try:
                if not self._cached:
                    _go_direct(file, direct=True)
                for chunk in inflow:
                    _call(_write, file, chunk)
                if on_taken is not None:
                    on_taken()
                _call(os.fsync, file.fileno())
            finally:
                _call(file.close)
            blob = Blob(inflow.sha256, inflow.size_bytes)
            if before_publish is not None:
                before_publish(blob)
            _call(self._publish, temporary, blob.sha256)
        finally:
            _call(temporary.unlink, missing_ok=True)
        return blob

    def open(self, sha256: str, *, offset: int = 0) -> BlobReader:
        """Open the file. See `BlobStore.open`."""
        path = self._path(sha256)
        file: BinaryIO = _look_up(sha256, path.open, "rb", buffering=0)
        try:
            size_bytes = _call(os.fstat, file.fileno()).st_size
            check_offset(offset, size_bytes=size_bytes)
            _call(file.seek, offset)
        except BaseException:
            file.close()
            raise
        return BlobReader(
            sha256,
            size_bytes=size_bytes,
            offset=offset,
            read=lambda: _call(file.read, READ_BYTES),
            release=file.close,
            new_hash=self._new_hash,
        )

    def stat(self, sha256: str) -> Blob:
        """See `BlobStore.stat`."""
        return Blob(sha256, _look_up(sha256, self._path(sha256).stat).st_size)

    def exists(self, sha256: str) -> bool:
        """See `BlobStore.exists`."""
        return _call(self._path(sha256).is_file)

    def delete(self, sha256: str) -> None:
        """See `BlobStore.delete`."""
        _call(self._path(sha256).unlink, missing_ok=True)

    def list(self) -> Iterator[tuple[Blob, datetime]]:
        """Walk the folders. See `BlobStore.list`."""
        for folder in _call(_listed, self._root):
            if not _FOLDER_OF_BLOBS.fullmatch(folder.name) or not _call(folder.is_dir):
                continue
            for path in _call(_listed, folder):
                if not is_sha256(path.name) or not path.name.startswith(folder.name):
                    continue
                try:
                    found = _look_up(path.name, path.stat)
                except NotFound:
                    continue  # deleted since
                yield Blob(path.name, found.st_size), datetime.fromtimestamp(found.st_mtime, UTC)

    def presign(self, sha256: str, *, lifetime_s: int, file_name: str) -> str | None:  # noqa: ARG002 -- the protocol's
        """None: a folder answers no HTTP. See `BlobStore.presign`."""
        checked_sha256(sha256)
        return None

    def free_bytes(self) -> int | None:
        """What the file system leaves to this user. See `BlobStore.free_bytes`."""
        return _call(shutil.disk_usage, self._incoming).free

    def check(self) -> None:
        """Raise unless the folder is there and can be written to. See `BlobStore.check`."""
        if not _call(self._incoming.is_dir):
            message = f"the blob folder {self._root} is gone; is its volume mounted?"
            raise Unavailable(message, reason="BLOB_STORE_UNAVAILABLE")
        if not os.access(self._incoming, os.W_OK | os.X_OK):
            raise _fault_of(PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self._incoming)))

    def close(self) -> None:
        """Nothing is held open between calls."""

    def _path(self, sha256: str) -> Path:
        return self._root / checked_sha256(sha256)[:2] / sha256

    def _publish(self, temporary: Path, sha256: str) -> None:
        target = self._path(sha256)
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        # The rename, and the folder it went into, survive a power cut only when their folders are synced too. Who made
        # the folder may not have come to that, so each process does it once.
        _sync_folder(target.parent)
        if target.parent.name not in self._lasting:
            _sync_folder(self._root)
            self._lasting.add(target.parent.name)


def _call(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make one call to the file system, with what it raises said in our terms."""
    try:
        return call(*args, **kwargs)
    except OSError as error:
        raise _fault_of(error) from error


def _look_up(sha256: str, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make one call that finds the blob, or raises NotFound."""
    try:
        return call(*args, **kwargs)
    except FileNotFoundError:
        message = f"no blob {sha256} is stored; upload it first"
        raise NotFound(message, reason="BLOB_NOT_FOUND") from None
    except OSError as error:
        raise _fault_of(error) from error


def _fault_of(error: OSError) -> DomainError:
    cause = error.strerror or type(error).__name__
    if error.errno in _FULL:
        message = f"the blob store is full ({cause}); free space or enlarge its volume, then try again"
        return ResourceExhausted(message, reason="BLOB_STORE_FULL")
    if error.errno in _DENIED:
        message = f"the blob folder can't be used ({cause}); give this service's user the right to read and write"
        return FailedPrecondition(message, reason="BLOB_STORE_DENIED")
    return Unavailable(f"the blob store can't be reached ({cause})", reason="BLOB_STORE_UNAVAILABLE")


def _pieces(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """Cut large chunks: what is hashed is still in the processor's cache when it is written.

    Small writes also go into small pages, which the kernel has at hand; for large ones it takes memory that nobody has
    touched for long (seen in a virtual machine: writes of 512 KiB took six times the processor time of 64 KiB).
    """
    for chunk in chunks:
        if len(chunk) <= PIECE_BYTES:
            yield chunk
            continue
        with memoryview(chunk) as whole:
            for start in range(0, len(whole), PIECE_BYTES):
                yield whole[start : start + PIECE_BYTES]


def _write(file: BinaryIO, chunk: Chunk) -> None:
    # An unbuffered write may take less than it was given (a disk that fills up does that first).
    with memoryview(chunk) as rest:
        done = 0
        while done < len(rest):
            try:
                done += file.write(rest[done:])
            except OSError as error:
                # What does not fill blocks of the disk, such as a file's last bytes, goes by way of the cache.
                if error.errno != errno.EINVAL or not _go_direct(file, direct=False):
                    raise


def _go_direct(file: BinaryIO, *, direct: bool) -> bool:
    """Have writes go straight from the caller's memory to the disk, or not; False where that changes nothing."""
    way: int = getattr(os, "O_DIRECT", 0)  # Linux has it, and there not every file system
    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    wanted = flags | way if direct else flags & ~way
    if wanted == flags:
        return False
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, wanted)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return False
    return True


def _listed(folder: Path) -> list[Path]:
    return list(folder.iterdir())


def _modified(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()  # its upload has just ended


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
