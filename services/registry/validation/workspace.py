"""Private copies of versions on disk, for the validator's child: a folder each, gone when the validation is over.

The lock on a copy's folder goes with the process that holds it, however that ends, so what a killed one left behind
is known and swept away.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.common.blobs import BlobStore
from services.common.errors import FailedPrecondition
from services.registry.models import File

from .report import FailureReason, Refusal

_PREFIX = "penstock-validate-"
# Names that this file system cannot hold, or cannot hold together: no other attempt would end otherwise.
_UNHOLDABLE = (errno.ENAMETOOLONG, errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.EINVAL, errno.EILSEQ)


class Workspace:
    """Makes the copies below `folder`; None takes the system's folder for temporary files."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder or Path(tempfile.gettempdir())

    def open(self) -> None:
        """Make the folder, and sweep away the copies of processes that are gone.

        Raises FailedPrecondition: it cannot be written to (VALIDATION_DIR_UNUSABLE).
        """
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=self._folder).close()
        except OSError as error:
            message = (
                f"versions cannot be copied to {self._folder} to be validated ({error.strerror}); "
                "PENSTOCK_VALIDATION_DIR names another folder"
            )
            raise FailedPrecondition(message, reason="VALIDATION_DIR_UNUSABLE") from error
        for left in self._folder.glob(f"{_PREFIX}*"):
            descriptor = _open_locked(left, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if descriptor is not None:
                shutil.rmtree(left, ignore_errors=True)
                os.close(descriptor)

    @contextmanager
    def copy(self, blobs: BlobStore, files: Iterable[File]) -> Iterator[Path]:
        """Copy a version's files into a folder of its own, verified; it goes when the block ends.

        Nobody else on this machine comes to it; who is put into it can read it under any uid.

        Raises:
            Refusal: a path leads out of the folder, or the file system cannot hold it (INVALID_LAYOUT).
            DataLoss, NotFound, Unavailable, FailedPrecondition: what the blob store raises.
            OSError: the disk is full, or its like.
        """
        private = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._folder))
        descriptor = _open_locked(private, fcntl.LOCK_SH)
        try:
            folder = private / "files"
            folder.mkdir()
            folder.chmod(0o755)
            for file in files:
                _fetch(blobs, file, folder)
            yield folder
        finally:
            shutil.rmtree(private, ignore_errors=True)
            if descriptor is not None:
                os.close(descriptor)


def _fetch(blobs: BlobStore, file: File, folder: Path) -> None:
    parts = file.path.split("/")
    if any(part in ("", ".", "..") for part in parts) or "\0" in file.path:
        raise Refusal(FailureReason.INVALID_LAYOUT, f"{file.path!r} is not a path within a version")
    path = folder.joinpath(*parts)
    try:
        for parent in reversed(path.relative_to(folder).parents[:-1]):
            (folder / parent).mkdir(exist_ok=True)
            (folder / parent).chmod(0o755)
        opened = path.open("xb")
    except OSError as error:
        if error.errno not in _UNHOLDABLE:
            raise
        message = (
            f"the file {file.path!r} cannot lie beside the others: {error.strerror}; register it under other names"
        )
        raise Refusal(FailureReason.INVALID_LAYOUT, message) from error
    with opened, blobs.open(file.sha256) as reader:
        opened.writelines(reader)
    path.chmod(0o444)


def _open_locked(folder: Path, operation: int) -> int | None:
    """Open a folder under a lock; None where somebody holds it or it is gone."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
