"""Zip archives. The central directory is zipfile's to parse, once its size is known to be bounded and its place to be
the only one possible; the entries are read here, since zipfile trusts what their headers say of their sizes."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO, Final

from services.common.archives.entry import Entry, safe_path
from services.common.archives.limits import READ_BYTES, Meter, too_large, unreadable, unsafe

MAX_DIRECTORY_BYTES_PER_ENTRY: Final = 4 * 1024
_LOCAL, _END = struct.Struct("<4sHHHHHLLLHH"), struct.Struct("<4sHHHHLLH")
_END_64, _LOCATOR = struct.Struct("<4sQHHLLQQQQ"), struct.Struct("<4sLQL")
_LOCAL_MAGIC, _END_MAGIC, _END_64_MAGIC, _LOCATOR_MAGIC = b"PK\3\4", b"PK\5\6", b"PK\6\6", b"PK\6\7"
_MAX_COMMENT: Final = 65_535
_ENCRYPTED: Final = 0x0001 | 0x0040 | 0x2000
_UTF8: Final = 0x0800
_FED_BYTES: Final = 64 * 1024


def is_zip(magic: bytes) -> bool:
    """Say whether a file that begins so may be a zip."""
    return magic.startswith((_LOCAL_MAGIC, _END_MAGIC))


def entries(file: BinaryIO, name: str, meter: Meter) -> Iterator[Entry]:
    """Give the files of a zip; see `archives.entries`."""
    directory = _find_directory(file, name)
    meter.count_entries(directory.count)
    if directory.size_bytes > directory.count * MAX_DIRECTORY_BYTES_PER_ENTRY:
        raise too_large(name, f"its directory takes {directory.size_bytes:,} bytes for {directory.count:,} entries")
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError, OverflowError, EOFError) as error:
        raise unreadable(name, f"its directory can't be read ({error})") from error
    if len(infos) != directory.count:
        raise unreadable(name, f"its directory announces {directory.count:,} entries and lists {len(infos):,}")
    ends = _ends(infos, directory, name)
    for info in infos:
        path = _checked_path(info, name)
        if not info.orig_filename.endswith("/"):
            chunks = _content(file, info, ends[info.header_offset], name, meter)
            yield Entry(path, chunks)
            for _ in chunks:
                pass  # what its reader left; it is checked all the same


@dataclass(frozen=True, slots=True)
class _Directory:
    offset: int
    size_bytes: int
    count: int


def _find_directory(file: BinaryIO, name: str) -> _Directory:
    """Find the central directory: at the very end, and with nothing between it and what says where it is.

    Where a program looks for the end elsewhere, it finds another archive in the same bytes; such files are refused.
    """
    file_bytes = file.seek(0, 2)
    tail_bytes = min(file_bytes, _END.size + _MAX_COMMENT)
    file.seek(file_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    found = tail.rfind(_END_MAGIC)
    if found < 0 or len(tail) - found < _END.size:
        raise unreadable(name, "its directory is missing, so it is cut short; send it again")
    _, disk, first_disk, disk_count, count, size_bytes, offset, comment_bytes = _END.unpack_from(tail, found)
    if found + _END.size + comment_bytes != len(tail):
        raise unreadable(name, "something stands behind its end; send the archive alone")
    end = file_bytes - tail_bytes + found
    file.seek(max(0, end - _LOCATOR.size - _END_64.size))
    before = file.read(_LOCATOR.size + _END_64.size)
    if before[-_LOCATOR.size :].startswith(_LOCATOR_MAGIC):
        if len(before) < _LOCATOR.size + _END_64.size or not before.startswith(_END_64_MAGIC):
            raise unreadable(name, "its directory is damaged (zip64)")
        _, _, _, _, disk, first_disk, disk_count, count, size_bytes, offset = _END_64.unpack_from(before)
        end -= len(before)
    if disk or first_disk or disk_count != count:
        raise unreadable(name, "it is one part of several; send an archive in one piece")
    if offset + size_bytes != end:
        raise unreadable(name, "something stands before it, or its directory is damaged; send the archive alone")
    return _Directory(offset, size_bytes, count)


def _ends(infos: list[zipfile.ZipInfo], directory: _Directory, name: str) -> dict[int, int]:
    """Say, by the offset of each entry's header, where the next thing begins, which it may not reach into."""
    offsets = sorted(info.header_offset for info in infos)
    if offsets and offsets[0] != 0:
        raise unreadable(name, "something stands before its first entry; send the archive alone")
    for offset, following in pairwise([*offsets, directory.offset]):
        if offset >= following:
            raise unsafe(name, infos[0].orig_filename, "shares its bytes with another entry, as in a zip bomb")
    return dict(pairwise([*offsets, directory.offset]))


def _checked_path(info: zipfile.ZipInfo, name: str) -> str:
    path = safe_path(name, info.orig_filename)
    mode = info.external_attr >> 16
    kind = stat.S_IFMT(mode)
    if stat.S_ISLNK(mode):
        raise unsafe(name, info.orig_filename, "is a symbolic link")
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise unsafe(name, info.orig_filename, "is a device, a FIFO or a socket")
    if kind and stat.S_ISDIR(mode) != info.orig_filename.endswith("/"):
        raise unsafe(name, info.orig_filename, "is a file by its name and a folder by its mode, or the reverse")
    if info.flag_bits & _ENCRYPTED:
        raise unreadable(name, "it is encrypted; pack it without a password")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise unreadable(name, f"it is compressed by method {info.compress_type}; take deflate, which is the usual one")
    return path


def _content(file: BinaryIO, info: zipfile.ZipInfo, end: int, name: str, meter: Meter) -> Iterator[bytes]:
    """Give an entry's bytes, and raise in place of their end unless they are what the directory says."""
    position = _begin(file, info, end, name)
    stop = position + info.compress_size
    inflate = zlib.decompressobj(-15) if info.compress_type == zipfile.ZIP_DEFLATED else None
    size_bytes = checksum = 0
    data = b""
    more = False  # zlib holds back what did not fit into the last piece
    while position < stop or data or more:
        if not data and not more:
            file.seek(position)
            data = file.read(min(_FED_BYTES, stop - position))
            position += len(data)
        if inflate is None:
            piece, data = data, b""
        else:
            piece, data = _inflated(inflate, data, name)
        more = len(piece) == READ_BYTES
        size_bytes += len(piece)
        checksum = zlib.crc32(piece, checksum)
        meter.count_bytes(len(piece))
        if size_bytes > info.file_size:
            break
        if piece:
            yield piece
    whole = inflate is None or (inflate.eof and not inflate.unused_data)
    if not whole or (size_bytes, checksum) != (info.file_size, info.CRC):
        raise unreadable(
            name, f"the bytes of {info.orig_filename!r} are not those that it was packed from; send it again"
        )


def _begin(file: BinaryIO, info: zipfile.ZipInfo, end: int, name: str) -> int:
    """Read an entry's own header, which must say the same as the directory; give where its bytes begin."""
    file.seek(info.header_offset)
    header = file.read(_LOCAL.size)
    if len(header) < _LOCAL.size:
        raise unreadable(name, "it is cut short; send it again")
    magic, _, flags, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack(header)
    encoding = "utf-8" if info.flag_bits & _UTF8 else "cp437"
    same_name = file.read(name_bytes) == info.orig_filename.encode(encoding, "replace")
    if magic != _LOCAL_MAGIC or method != info.compress_type or flags & _ENCRYPTED or not same_name:
        raise unreadable(name, f"the entry {info.orig_filename!r} says otherwise than the directory does")
    begin: int = info.header_offset + _LOCAL.size + name_bytes + extra_bytes
    if begin + info.compress_size > end:
        raise unsafe(name, info.orig_filename, "shares its bytes with another entry, as in a zip bomb")
    return begin


def _inflated(inflate: zlib._Decompress, data: bytes, name: str) -> tuple[bytes, bytes]:
    """Take some bytes apart: at most 1 MiB of what comes out, and what is still to be taken apart."""
    if inflate.eof and not data:
        return b"", b""
    try:
        return inflate.decompress(data, READ_BYTES), inflate.unconsumed_tail
    except zlib.error as error:
        raise unreadable(name, f"its compressed bytes can't be taken apart ({error})") from error
