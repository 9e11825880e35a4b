"""Names that a source gives its files: whether they can be those of a version's, as the registry takes them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from typing import Final

from services.fetcher.faults import RegistrationRefused

MAX_PATH_CHARS: Final = 512
MAX_NAME_BYTES: Final = 255


def fault_of(path: str) -> str:
    """Say what keeps a path from being a file's within a version; '' where nothing does."""
    parts = path.split("/")
    if (
        not path
        or len(path) > MAX_PATH_CHARS
        or any(len(part.encode(errors="replace")) > MAX_NAME_BYTES for part in parts)
    ):
        return "its name is empty or too long"
    if not path.isprintable() or "\\" in path:
        return "its name has a backslash, or characters that cannot be shown"
    if any(part in ("", ".", "..") for part in parts):
        return "its name has an empty part, '.' or '..'"
    return ""


def check_distinct(paths: Iterable[str]) -> None:
    """See that each path means one file on every file system, before anything is brought.

    Raises:
        RegistrationRefused: two differ in the case of letters only, or one is a folder of the other.
    """
    files: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        parts = unicodedata.normalize("NFC", path).casefold().split("/")
        above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
        folded = "/".join(parts)
        if folded in files or folded in folders or above & files:
            sentence = f"{shown(path)} and another file cannot both be: some file systems mix them up"
            raise RegistrationRefused(f"{sentence}; rename or leave out one")
        files.add(folded)
        folders |= above


def shown(text: str) -> str:
    """Write a name so that it says nothing to a terminal but itself, and not at length."""
    plain = "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode() for each in text)
    return plain if len(plain) <= MAX_NAME_BYTES else f"{plain[:MAX_NAME_BYTES]}…"
