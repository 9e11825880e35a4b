"""A folder of this process alone for what it works on; what a killed process left behind goes with the next."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

_AS_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


class Scratch:
    """A folder under an flock, which the system lets go of when the process dies, however it dies."""

    def __init__(self, root: Path | None, prefix: str, *, mode: int = 0o700) -> None:
        """Make nothing yet. `prefix` is the service's own: what begins so below the root goes once it is dead."""
        self._prefix = prefix
        self._mode = mode
        self._root = root or Path(tempfile.gettempdir())
        self._descriptor = -1
        self.folder = self._root

    def open(self) -> None:
        """Delete the folders of processes that are dead, and make one for this."""
        self._root.mkdir(parents=True, exist_ok=True)
        for path in self._root.glob(f"{self._prefix}*"):
            with suppress(OSError):  # another process has it, or it is another user's
                _delete_if_free(path)
        while self._descriptor < 0:
            self.folder = Path(tempfile.mkdtemp(prefix=self._prefix, dir=self._root))
            self._descriptor = _held(self.folder)
        self.folder.chmod(self._mode)

    def close(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._descriptor)


def _delete_if_free(path: Path) -> None:
    descriptor = os.open(path, _AS_FOLDER)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    finally:
        os.close(descriptor)


def _held(folder: Path) -> int:
    """Lock a fresh folder; -1 where another process, at its start, took it for one that was left behind."""
    descriptor = -1
    try:
        descriptor = os.open(folder, _AS_FOLDER)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if folder.stat().st_ino == os.fstat(descriptor).st_ino:
            return descriptor
    except (BlockingIOError, FileNotFoundError):
        pass
    if descriptor >= 0:
        os.close(descriptor)
    return -1
