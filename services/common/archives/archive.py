"""What an archive holds, whichever format it is in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from services.common.archives import compression, tar, zip_file
from services.common.archives.entry import Entry, added_by_macos
from services.common.archives.limits import ArchiveLimits, Meter, unreadable


def entries(file: BinaryIO, name: str, limits: ArchiveLimits) -> Iterator[Entry]:
    """Give the files of an archive in its own order; folders and what macOS adds are left out.

    Args:
        file: the archive, from its first byte to its last; it can seek. It is left open.
        name: what to call it in errors.
        limits: what it may come to.

    Raises:
        InvalidArgument: ARCHIVE_UNREADABLE, ARCHIVE_UNSAFE, ARCHIVE_TOO_LARGE; also while `chunks` are read.
    """
    size_bytes = file.seek(0, 2)
    file.seek(0)
    magic = file.read(compression.MAGIC_BYTES)
    file.seek(0)
    meter = Meter(name, size_bytes, limits)
    if zip_file.is_zip(magic):
        found = zip_file.entries(file, name, meter)
    elif compression.is_compressed(magic) or tar.is_tar(magic):
        found = tar.entries(compression.decompressed(file, name, magic, meter), name, meter)
    else:
        raise unreadable(name, "it is neither a zip nor a tar, plain or compressed by gzip, bzip2 or xz")
    return (entry for entry in found if not added_by_macos(entry.path))
