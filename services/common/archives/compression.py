"""Compressed streams, taken apart a bounded piece at a time: Python's own file readers limit no memory."""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Generator, Iterator
from typing import BinaryIO, Final, Protocol

from services.common.archives.limits import READ_BYTES, Meter, unreadable

MAGIC_BYTES: Final = 512
# `xz -9` needs 65 MiB to decompress; a header may ask for 4 GiB.
XZ_MEMORY_BYTES: Final = 80 * 1024 * 1024
# Millions of streams without a byte in them are work as well, so each counts as so many bytes. (bgzip's hold 64 KiB.)
STREAM_BYTES: Final = 4 * 1024
_GZIP, _BZIP2, _XZ = b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00"
_FED_BYTES: Final = 64 * 1024


class _Decompressor(Protocol):
    """What bz2's and lzma's decompressors have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gzip:
    """zlib's decompressor, with the face of the two others."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(wbits=31)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


def is_compressed(magic: bytes) -> bool:
    """Say whether these first bytes are those of gzip, bzip2 or xz."""
    return magic.startswith((_GZIP, _BZIP2, _XZ))


def decompressed(file: BinaryIO, name: str, magic: bytes, meter: Meter) -> Iterator[bytes]:
    """Give what a file holds once decompressed, or as it is, in pieces of at most 1 MiB, each counted.

    Several streams one behind the other are one, as the tools have it; zeros may follow the last.

    Raises:
        InvalidArgument: ARCHIVE_UNREADABLE (damaged, cut short, something behind its end), ARCHIVE_TOO_LARGE.
    """
    pieces = _streams(file, name, magic, meter) if is_compressed(magic) else iter(lambda: file.read(READ_BYTES), b"")
    for piece in pieces:
        meter.count_bytes(len(piece))
        yield piece


def _streams(file: BinaryIO, name: str, magic: bytes, meter: Meter) -> Iterator[bytes]:
    data = file.read(_FED_BYTES)
    while data:
        meter.count_bytes(STREAM_BYTES)
        rest = yield from _one_stream(file, name, _decompressor_of(magic), data)
        data = _next_stream(file, rest)
        if data and not data.startswith(magic[:3]):
            raise unreadable(name, "something stands behind its end that is no part of it; send it alone")


def _one_stream(file: BinaryIO, name: str, decompressor: _Decompressor, data: bytes) -> Generator[bytes, None, bytes]:
    """Give what one stream holds; returns what was read beyond it."""
    while not decompressor.eof:
        if not data and decompressor.needs_input and not (data := file.read(_FED_BYTES)):
            raise unreadable(name, "it is cut short; send it again")
        try:
            piece = decompressor.decompress(data, READ_BYTES)
        except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError) as error:
            raise unreadable(name, f"its compressed bytes can't be taken apart ({error})") from error
        data = b""
        if piece:
            yield piece
    return decompressor.unused_data


def _next_stream(file: BinaryIO, rest: bytes) -> bytes:
    """Skip zeros; give enough of what follows to tell what it is, or nothing at the end."""
    rest = rest.lstrip(b"\0")
    while len(rest) < len(_XZ) and (more := file.read(_FED_BYTES)):
        rest = (rest + more).lstrip(b"\0")
    return rest


def _decompressor_of(magic: bytes) -> _Decompressor:
    if magic.startswith(_GZIP):
        return _Gzip()
    if magic.startswith(_BZIP2):
        return bz2.BZ2Decompressor()
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY_BYTES)
