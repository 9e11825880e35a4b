"""One entry of an archive, and what may be its path."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from services.common import checks
from services.common.archives.limits import unsafe

_MACOS_FOLDER, _MACOS_FILE, _MACOS_PREFIX = "__MACOSX", ".DS_Store", "._"


@dataclass(frozen=True, slots=True)
class Entry:
    """A file in an archive. `chunks` can be read once, before the next entry is asked for; the rest is skipped."""

    path: str
    chunks: Iterator[bytes]


def safe_path(name: str, raw: str) -> str:
    """Give an entry's path back if it stays in the folder that it is unpacked to.

    A leading `./`, as `tar c .` writes it, and the `/` at a folder's end are taken off; the folder `.` itself is "".

    Raises:
        InvalidArgument: ARCHIVE_UNSAFE.
    """
    if raw in (".", "./"):
        return ""
    path = raw
    while path.startswith("./"):
        path = path[2:]
    path = path.removesuffix("/")
    if "\\" in path or (path[1:2] == ":" and path[0].isalpha()):
        raise unsafe(name, raw, "has a backslash or a drive letter in its path")
    parts = path.split("/")
    if path.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise unsafe(name, raw, "has an absolute path, or one with '.', '..' or empty parts")
    if len(path) > checks.MAX_PATH_CHARS or any(unicodedata.category(char) in ("Cc", "Cs") for char in path):
        raise unsafe(
            name, raw, f"has a path with control characters, or with more than {checks.MAX_PATH_CHARS} characters"
        )
    return path


def without_top_folder(paths: Iterable[str]) -> dict[str, str]:
    """Say what each path is once the one folder that holds them all is taken off; without such a folder, itself."""
    known = list(paths)
    tops = {path.partition("/")[0] for path in known if "/" in path}
    wrapped = len(tops) == 1 and all("/" in path for path in known)
    return {path: path.partition("/")[2] if wrapped else path for path in known}


def added_by_macos(path: str) -> bool:
    """Say whether macOS put this into the archive unasked."""
    folder, _, file = path.rpartition("/")
    return folder.partition("/")[0] == _MACOS_FOLDER or file == _MACOS_FILE or file.startswith(_MACOS_PREFIX)
