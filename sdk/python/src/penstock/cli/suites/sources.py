"""What a version's source holds: paths, sizes and SHA-256, as the registry will list them."""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from penstock.api.registry.v1 import registry_pb2 as pb
from penstock.cli.suites.schema import PathSource

CHUNK_BYTES = 1024 * 1024
MAX_FILES = 10_000


class UnreadableSource(Exception):
    """A source has no files, or can't be read; says why."""


def files_of(source: PathSource) -> list[pb.File]:
    """Read a file, a folder or an archive through, and give its files by path.

    Raises:
        UnreadableSource: there is nothing in it, too much, or it is no archive.
    """
    try:
        files = [_file(path, parts) for path, parts in _members(source)]
    except (OSError, tarfile.TarError, zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise UnreadableSource(f"{source.path} can't be read: {error}") from error
    if not files:
        raise UnreadableSource(f"there is no file in {source.path}")
    return sorted(files, key=lambda file: file.path)


def size_of(source: PathSource) -> int:
    """Give the bytes that an upload sends."""
    paths = source.path.rglob("*") if source.path.is_dir() else [source.path]
    return sum(path.stat().st_size for path in paths if path.is_file())


def _members(source: PathSource) -> Iterator[tuple[str, Iterable[bytes]]]:
    path = source.path
    if source.unpack:
        yield from _bounded(_zipped(path) if zipfile.is_zipfile(path) else _tarred(path), path)
    elif path.is_dir():
        files = (each for each in sorted(path.rglob("*")) if each.is_file())
        yield from _bounded(((each.relative_to(path).as_posix(), _read(each)) for each in files), path)
    else:
        yield path.name, _read(path)


def _bounded(members: Iterator[tuple[str, Iterable[bytes]]], path: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    for number, member in enumerate(members):
        if number == MAX_FILES:
            raise UnreadableSource(f"{path} holds more than {MAX_FILES:,} files")
        yield member


def _tarred(path: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    try:
        archive = tarfile.open(path, "r:*")  # noqa: SIM115 - closed below; what fails here is no archive
    except tarfile.ReadError:
        raise UnreadableSource(f"{path} is no archive: zip, tar, tar.gz, tar.bz2 and tar.xz are") from None
    with archive:
        for member in archive:
            if member.isfile():
                content = cast("BinaryIO", archive.extractfile(member))  # None only for what is no file
                yield PurePosixPath(member.name).as_posix(), _chunks(content)


def _zipped(path: Path) -> Iterator[tuple[str, Iterable[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                with archive.open(member) as content:
                    yield PurePosixPath(member.filename).as_posix(), _chunks(cast("BinaryIO", content))


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        yield from _chunks(stream)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _file(path: str, parts: Iterable[bytes]) -> pb.File:
    digest, size_bytes = sha256(), 0
    for part in parts:
        digest.update(part)
        size_bytes += len(part)
    return pb.File(path=path, sha256=digest.hexdigest(), size_bytes=size_bytes)
