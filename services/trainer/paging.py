"""Pages of what has names and versions: datasets, and scripts."""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeVar

from services.common import pages

DEFAULT_PAGE: Final = 50
_LAST: Final = 2**31 - 1


class Versioned(Protocol):
    """A version of something that has a name."""

    @property
    def name(self) -> str:
        """The name that all its versions have."""
        ...

    @property
    def version(self) -> int:
        """Its number, from 1 on."""
        ...


Found = TypeVar("Found", bound=Versioned)


class Reads(Protocol[Found]):
    """Reads versions."""

    def __call__(self, name: str, *, after: str, before: int, limit: int) -> list[Found]:
        """Read versions of one name before a number, the newest first; without one the newest of each after a name."""
        ...


def page_of_versions(
    kind: str, read: Reads[Found], name: str, *, page_size: int, page_token: str
) -> tuple[list[Found], str]:
    """List all versions of one name, or without one the newest version of each, and the token of the page after.

    Raises:
        InvalidArgument: INVALID_PAGE_SIZE; INVALID_PAGE_TOKEN: none of this `kind` and name.
    """
    size = pages.page_size(page_size, default=DEFAULT_PAGE)
    filters = {kind: name}
    position = pages.decode(page_token, filters)
    after, before = ("", _LAST) if position is None else _position(position, named=bool(name))
    found = read(name, after=after, before=before, limit=size + 1)
    if len(found) <= size:
        return found, ""
    last = found[size - 1]
    return found[:size], pages.encode([last.version if name else last.name], filters)


def _position(position: list[Any], *, named: bool) -> tuple[str, int]:
    match position:
        case [int(before)] if named and 0 < before <= _LAST:
            return "", before
        case [str(after)] if not named and len(after) <= 128 and "\0" not in after:
            return after, _LAST
    raise pages.unknown_token()
