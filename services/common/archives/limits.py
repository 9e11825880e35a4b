"""How much may come out of an archive, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from services.common import checks
from services.common.errors import InvalidArgument

MAX_ENTRIES: Final = 10_000
# Model files hardly compress (weights by a tenth or two), deflate reaches 1,032: only bombs come near it.
MAX_RATIO: Final = 200
RATIO_FREE_BYTES: Final = 64 * 1024 * 1024
READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may come to.

    Attributes:
        max_bytes: all that comes out of it, headers of tar included.
        max_entries: files, folders and whatever else it lists.
    """

    max_bytes: int
    max_entries: int = MAX_ENTRIES


class Meter:
    """Counts what comes out of an archive, and stops it where it is too much."""

    def __init__(self, name: str, archive_bytes: int, limits: ArchiveLimits) -> None:
        self._name = name
        self._limits = limits
        self._ratio_bytes = max(RATIO_FREE_BYTES, MAX_RATIO * archive_bytes)
        self._bytes = 0
        self._entries = 0

    def count_bytes(self, size_bytes: int) -> None:
        """Take in that so many bytes came; raises InvalidArgument (ARCHIVE_TOO_LARGE)."""
        self._bytes += size_bytes
        if self._bytes > self._limits.max_bytes:
            raise too_large(self._name, f"more than {self._limits.max_bytes:,} bytes come out of it")
        if self._bytes > self._ratio_bytes:
            raise too_large(self._name, f"over {MAX_RATIO} times its own size comes out of it, as of a zip bomb")

    def count_entries(self, count: int = 1) -> None:
        """Take in so many entries; raises InvalidArgument (ARCHIVE_TOO_LARGE)."""
        self._entries += count
        if self._entries > self._limits.max_entries:
            raise too_large(self._name, f"it has more than {self._limits.max_entries:,} entries")


def too_large(name: str, what: str) -> InvalidArgument:
    """Refuse an archive that holds too much."""
    return InvalidArgument(f"the archive {checks.shown(name)}: {what}; send less", reason="ARCHIVE_TOO_LARGE")


def unsafe(name: str, entry: str, what: str) -> InvalidArgument:
    """Refuse an archive for one entry of it."""
    return InvalidArgument(
        f"the archive {checks.shown(name)}: its entry {checks.shown(entry)} {what}; pack plain files and folders under "
        "relative paths",
        reason="ARCHIVE_UNSAFE",
    )


def unreadable(name: str, what: str) -> InvalidArgument:
    """Refuse what can't be read as one archive."""
    return InvalidArgument(f"the archive {checks.shown(name)}: {what}", reason="ARCHIVE_UNREADABLE")
