"""Files in a folder that a recipe writes, perhaps at this very moment: no link of its leads anywhere else."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Literal

from services.trainer.faults import TrainingFailed

_BENEATH: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class PlainFile:
    """A file, or with `is_folder` a folder. `path`: below `folder`, with forward slashes."""

    folder: Path
    path: str
    is_folder: bool

    def open(self, mode: Literal["rb"] = "rb") -> BinaryIO:
        """Open it for reading; no link on the way is followed, and no pipe waited for.

        Raises TrainingFailed (INVALID_OUTCOME) where it is no plain file any more.
        """
        *parents, name = self.path.split("/")
        try:
            with ExitStack() as stack:
                beneath = os.open(self.folder, _BENEATH | os.O_DIRECTORY)
                stack.callback(os.close, beneath)
                for parent in parents:
                    beneath = os.open(parent, _BENEATH | os.O_DIRECTORY, dir_fd=beneath)
                    stack.callback(os.close, beneath)
                file = os.fdopen(os.open(name, _BENEATH | os.O_NONBLOCK, dir_fd=beneath), mode)
        except OSError as error:
            raise _no_plain_file(self.folder, self.path) from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise _no_plain_file(self.folder, self.path)
        return file


def plain_files(folder: Path) -> Iterator[PlainFile]:
    """Name what is in a folder, files and folders, in the order of their paths.

    Raises TrainingFailed (INVALID_OUTCOME): it holds what is neither.
    """
    for path in sorted(_entries(folder)):
        below = path.relative_to(folder).as_posix()
        try:
            kind = path.lstat().st_mode
        except OSError as error:
            raise _no_plain_file(folder, below) from error
        if not (stat.S_ISREG(kind) or stat.S_ISDIR(kind)):
            raise _no_plain_file(folder, below)
        yield PlainFile(folder, below, stat.S_ISDIR(kind))


def _entries(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise _no_plain_file(folder, Path(str(error.filename)).name) from error

    for parent, folders, files in os.walk(folder, followlinks=False, onerror=refuse):
        yield from (Path(parent, name) for name in (*folders, *files))


def _no_plain_file(folder: Path, path: str) -> TrainingFailed:
    return TrainingFailed(f"{folder.name} holds {path[:80]!r}, which is no plain file", reason="INVALID_OUTCOME")
