"""Tar archives, read once from front to back. The headers are tarfile's to parse; the walk from one to the next is
ours, since tarfile reads a long name or a PAX header whole however long it says it is, and takes a cut for an end."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from services.common.archives.entry import Entry, safe_path
from services.common.archives.limits import Meter, too_large, unreadable, unsafe

MAX_EXTRA_BYTES: Final = 1024 * 1024
MAX_EXTRAS: Final = 8
_BLOCK: Final = tarfile.BLOCKSIZE
_FILES: Final = {tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE}
_PAX: Final = {tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE}
_EXTRAS: Final = {*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_KINDS: Final = {
    tarfile.SYMTYPE: "is a symbolic link",
    tarfile.LNKTYPE: "is a hard link",
    tarfile.CHRTYPE: "is a device",
    tarfile.BLKTYPE: "is a device",
    tarfile.FIFOTYPE: "is a FIFO",
    tarfile.GNUTYPE_SPARSE: "is a sparse file",
}


def is_tar(block: bytes) -> bool:
    """Say whether a file that begins with this block may be a tar."""
    try:
        _header(block)
    except tarfile.TarError:
        return False
    return True


def entries(pieces: Iterator[bytes], name: str, meter: Meter) -> Iterator[Entry]:
    """Give the files of a tar; see `archives.entries`."""
    stream = _Stream(pieces, name)
    extras = _Extras(name)
    while (block := stream.take(_BLOCK)).strip(b"\0"):
        try:
            header = _header(block)
        except tarfile.TarError as error:
            raise unreadable(name, f"a header in it is none of tar's ({error}); send a tar or a zip") from error
        if header.type in _EXTRAS:
            extras.read(header, stream)
            continue
        path, size_bytes = extras.apply(header)
        meter.count_entries()
        extras = _Extras(name)
        if header.type == tarfile.DIRTYPE and size_bytes == 0:
            safe_path(name, path)
            continue
        if header.type not in _FILES:
            raise unsafe(name, path, _KINDS.get(header.type, f"is of the kind {header.type!r}, which is no file"))
        chunks = stream.pass_on(size_bytes)
        yield Entry(safe_path(name, path), chunks)
        for _ in chunks:
            pass  # what its reader left
        stream.take(-size_bytes % _BLOCK)
    stream.expect_zeros()


def _header(block: bytes) -> tarfile.TarInfo:
    # A name that is no UTF-8 keeps a mark of it, and `safe_path` refuses it.
    return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")


class _Stream:
    """Bytes that are there once."""

    def __init__(self, pieces: Iterator[bytes], name: str) -> None:
        self._pieces = pieces
        self._name = name
        self._held = b""

    def take(self, size_bytes: int) -> bytes:
        """Read so many bytes, few enough to be held; raises InvalidArgument (ARCHIVE_UNREADABLE) at the end."""
        return b"".join(self.pass_on(size_bytes))

    def pass_on(self, size_bytes: int) -> Iterator[bytes]:
        """Read so many bytes in pieces of at most 1 MiB; raises as `take`."""
        left = size_bytes
        while left > 0:
            held = self._held or next(self._pieces, None)
            if held is None:
                raise unreadable(self._name, "it is cut short, or its end mark is missing; send it again")
            piece, self._held = held[:left], held[left:]
            left -= len(piece)
            if piece:
                yield piece

    def expect_zeros(self) -> None:
        """Read on to the end; raises InvalidArgument (ARCHIVE_UNREADABLE) where anything but padding comes."""
        rest = self._held
        while not rest.strip(b"\0"):
            following = next(self._pieces, None)
            if following is None:
                return
            rest = following
        raise unreadable(self._name, "something stands behind its end mark; send one archive at a time")


@dataclass(slots=True)
class _Extras:
    """What stands before an entry's header and is said of it: a longer name, a larger size."""

    name: str
    path: str = ""
    size_bytes: int | None = None
    _count: int = field(default=0)

    def read(self, header: tarfile.TarInfo, stream: _Stream) -> None:
        self._count += 1
        if self._count > MAX_EXTRAS:
            raise unreadable(self.name, f"more than {MAX_EXTRAS} extended headers stand before one entry")
        if not 0 <= header.size <= MAX_EXTRA_BYTES:
            raise too_large(self.name, f"an extended header of it takes {header.size:,} bytes")
        body = stream.take(header.size)
        stream.take(-header.size % _BLOCK)
        if header.type == tarfile.GNUTYPE_LONGNAME:
            self.path = body.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif header.type in _PAX:
            self._read_pax(body, everywhere=header.type == tarfile.XGLTYPE)

    def _read_pax(self, body: bytes, *, everywhere: bool) -> None:
        for key, value in _pax_records(body, self.name):
            if key.startswith("GNU.sparse"):
                raise unsafe(self.name, self.path, "is a sparse file")
            if key in ("path", "size") and everywhere:
                raise unreadable(self.name, f"it says one {key} of all its entries")
            if key == "path":
                self.path = value.decode("utf-8", "surrogateescape")
            elif key == "size":
                if not (value.isdigit() and len(value) < 20):
                    raise unreadable(self.name, "a size in it is no number")
                self.size_bytes = int(value)

    def apply(self, header: tarfile.TarInfo) -> tuple[str, int]:
        """Say the entry's path and size."""
        size_bytes = header.size if self.size_bytes is None else self.size_bytes
        if size_bytes < 0:
            raise unreadable(self.name, "a size in it is below zero")
        return self.path or header.name, size_bytes


def _pax_records(body: bytes, name: str) -> Iterator[tuple[str, bytes]]:
    """Give the records of a PAX header: `LENGTH KEY=VALUE\\n`, the length being the whole record's."""
    position = 0
    while position < len(body):
        blank = body.find(b" ", position, position + 8)
        digits = body[position:blank]
        end = position + int(digits) if blank > position and digits.isdigit() else 0
        key, equals, value = body[blank + 1 : end - 1].partition(b"=")
        if not blank < end <= len(body) or body[end - 1 : end] != b"\n" or not equals:
            raise unreadable(name, "an extended header of it is damaged")
        yield key.decode("utf-8", "replace"), value
        position = end
