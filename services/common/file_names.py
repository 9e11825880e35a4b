"""The paths of a version's files, of which each must mean one file on every file system."""

from __future__ import annotations

import unicodedata


class DistinctPaths:
    """The paths taken so far: relative ones, with forward slashes."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def __len__(self) -> int:
        """How many were taken."""
        return len(self._files)

    def take(self, path: str) -> str:
        """Take a path in, and give '', unless it cannot be beside one that was taken: then give that file or folder.

        They cannot where some file system takes them for the same (by the case of letters, or by how accents are
        written), and where one is a folder of the other; that holds for the folders of a path as for itself.
        """
        key = _folded(path)
        if other := self._files.get(key) or self._folders.get(key):
            return other
        for folder in _folders_of(path):
            folded = _folded(folder)
            if other := self._files.get(folded):
                return other
            if (other := self._folders.setdefault(folded, folder)) != folder:
                return other
        self._files[key] = path
        return ""


def _folders_of(path: str) -> list[str]:
    parts = path.split("/")
    return ["/".join(parts[:depth]) for depth in range(1, len(parts))]


def _folded(path: str) -> str:
    """Give the same for paths that some file system takes for the same."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
