"""Names that a source gives its files: whether they can be those of a version's, as the registry takes them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from services.common.file_names import DistinctPaths
from services.fetcher.faults import RegistrationRefused

MAX_PATH_CHARS: Final = 512
MAX_NAME_BYTES: Final = 255
MAX_WARNINGS: Final = 50
"""Of one look at a source."""


def fault_of(path: str) -> str:
    """Say what keeps a path from being a file's within a version; '' where nothing does."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    parts = path.split("/")
    if not path or len(path) > MAX_PATH_CHARS or any(len(part.encode()) > MAX_NAME_BYTES for part in parts):
        return "its name is empty or too long"
    if not path.isprintable() or "\\" in path:
        return "its name has a backslash, or characters that cannot be shown"
    if any(part in ("", ".", "..") for part in parts):
        return "its name has an empty part, '.' or '..'"
    return ""


def check_distinct(paths: Iterable[str]) -> None:
    """See that each path means one file on every file system, before anything is brought.

    Raises:
        RegistrationRefused: two differ in letters alone that some file system mixes up, or one is a folder of another.
    """
    taken = DistinctPaths()
    for path in paths:
        if other := taken.take(path):
            sentence = f"{shown(path)} and {shown(other)} cannot both be: some file systems mix them up"
            raise RegistrationRefused(f"{sentence}; rename or leave out one")


def told_of(left_out: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    """Write warnings of paths that are left out, each with why: of the first ones, and how many more there are."""
    told = tuple(f"{shown(path)} is left out: {why}" for path, why in left_out[:MAX_WARNINGS])
    more = len(left_out) - MAX_WARNINGS
    return (*told, f"{more:,} more are left out") if more > 0 else told


def shown(text: str) -> str:
    """Write a name so that it says nothing to a terminal but itself, and not at length."""
    plain = "".join(each if each.isprintable() else each.encode("unicode_escape", "replace").decode() for each in text)
    return plain if len(plain) <= MAX_NAME_BYTES else f"{plain[:MAX_NAME_BYTES]}…"
