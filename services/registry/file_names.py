"""The paths of a version's files, of which each must mean one file on every file system."""

from __future__ import annotations

import unicodedata

from services.common.errors import InvalidArgument
from services.registry import checks

MAX_FILES = 1_000


class FileNames:
    """The paths taken so far."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def take(self, path: str) -> None:
        """Take a path in.

        Raises:
            InvalidArgument: it was there before, be it in other letters only; it is a folder of another file or the
                reverse (DUPLICATE_PATH); or it is one too many (TOO_MANY_FILES).
        """
        if len(self._files) == MAX_FILES:
            raise InvalidArgument(f"a version has at most {MAX_FILES:,} files", reason="TOO_MANY_FILES")
        key = _folded(path)
        if other := self._files.get(key) or self._folders.get(key):
            raise _twice(path, other)
        for folder in _folders_of(path):
            known = self._folders.setdefault(_folded(folder), folder)
            if known != folder or (known := self._files.get(_folded(folder), folder)) != folder:
                raise _twice(path, known)
            if _folded(folder) in self._files:
                raise _twice(path, folder)
        self._files[key] = path


def _folders_of(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _folded(path: str) -> str:
    """Give the same for paths that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())


def _twice(path: str, other: str) -> InvalidArgument:
    how = "came twice" if path == other else f"and {checks.shown(other)} can't both be: some file systems mix them up"
    return InvalidArgument.field(
        "path", f"{checks.shown(path)} {how}; rename or leave out one", reason="DUPLICATE_PATH"
    )
